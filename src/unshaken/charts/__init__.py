"""SVG charts from numbers. Without torch."""
