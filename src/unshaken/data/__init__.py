"""Image sets: found, decoded, checked, and kept as uint8 tensors."""
