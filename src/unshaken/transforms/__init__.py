"""Layer 1: images to images, batched, on the device."""
