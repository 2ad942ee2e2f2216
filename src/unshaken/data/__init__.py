"""Layer 2: image sets, as uint8 on the device."""
