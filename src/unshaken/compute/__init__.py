"""How a network computes, and not what: device, precision, folding, faster convolutions."""
