"""Layer 0: keys, time, shapes, files that are whole. No mathematics."""
