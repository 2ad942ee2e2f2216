"""Augmentations: images to images, in batches, on the device."""

from unshaken.base.lazy_names import lazy_names

__getattr__, __dir__, __all__ = lazy_names(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "SimCLRViews": "views",
        "DigitViews": "views",
        "CropFlip": "views",
        "ResizedCrop": "views",
        "Identity": "views",
        "Concat": "views",
    },
)
