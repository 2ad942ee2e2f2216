"""SVG charts of numbers. They need no torch."""
