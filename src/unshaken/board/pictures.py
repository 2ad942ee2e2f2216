"""Small pictures of test images, for image sets that are installed with the package."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy

from unshaken.board.collect import Receipt

AT_HAND = ("digits",)
"""Image sets that are installed with the package; pictures of other sets may not be published."""


def pictures_of(receipts: list[Receipt]) -> dict[str, dict[int, dict[str, str]]]:
    """Return, by digest of a test set, every image as a data URI with a text for screen readers."""
    from unshaken.data.source import DataSource

    wanted = {r.result["data"]["digest"]: r.result["data"] for r in receipts if r.result["data"]["name"] in AT_HAND}
    found: dict[str, dict[int, dict[str, str]]] = {}
    for digest, data in wanted.items():
        images = DataSource(data["name"]).load(data["split"])
        if images.digest == digest:
            names = [images.names[k] for k in images.label.tolist()]
            found[digest] = {
                k: {"src": data_uri(pixels), "alt": f"test image {k}, a {name}"}
                for k, (pixels, name) in enumerate(zip(images.pixels[:].numpy(), names, strict=True))
            }
    return found


def data_uri(pixels: Any) -> str:
    """Return a PNG of an image (C H W, uint8) as text."""
    from PIL import Image

    array = numpy.asarray(pixels).transpose(1, 2, 0)
    picture = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
