"""Layer 4: methods with labels, on an encoder that exists."""
