"""Computing networks: device, precision, folded batch norms, faster convolutions."""
