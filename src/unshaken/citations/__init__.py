"""Papers as BibTeX, and which of them a run has to cite. It needs no torch."""
