"""Layer 2: parameters."""
