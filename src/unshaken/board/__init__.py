"""Results and published numbers as a static web site."""
