"""Layer 6: the papers' choices, as values; which parts go together."""
