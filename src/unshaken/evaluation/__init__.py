"""Layer 5: judgement."""
