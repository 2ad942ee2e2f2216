"""Recipes: every choice of a run as a value. They open no file and run nothing."""
