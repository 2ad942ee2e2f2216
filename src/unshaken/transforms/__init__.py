"""Augmentations: images to images, in batches, on the device."""
