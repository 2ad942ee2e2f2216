"""How networks are computed: device, precision, folded batch norms, faster convolutions."""
