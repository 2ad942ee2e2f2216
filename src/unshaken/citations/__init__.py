"""Layer 1, without torch: the papers as BibTeX, and which of them a run owes"""
