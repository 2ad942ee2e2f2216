"""Files of images: downloads, archives, and decoded copies on disk."""
