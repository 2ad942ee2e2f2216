"""Layer 0: randomness, time, shapes. No mathematics, no files."""
