"""Layer 5: the machine that runs a method."""
