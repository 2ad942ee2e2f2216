"""Layer 1, without torch: numbers to SVG."""
