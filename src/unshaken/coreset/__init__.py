"""Layer 3: which images an epoch sees."""
