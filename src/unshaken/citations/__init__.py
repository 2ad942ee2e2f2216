"""The papers as BibTeX, and which of them a run owes. Without torch."""
