"""Images that stay in a file reach the device as they are, read ahead or not."""

import numpy as np
import torch

from unshaken.data.images import Images
from unshaken.storage.stored_pixels import JoinedPixels, StoredPixels


def test_stored_images_on_the_device(device: str) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), np.uint8))
    images = Images(StoredPixels(JoinedPixels([pixels])), content="any").to(device)
    rows = [torch.arange(64)[k::8] for k in range(8)]
    for place, each in enumerate(rows):
        images.expect(rows[place:])
        found = images.floats(each)
        assert found.device.type == device
        assert torch.equal((255 * found).round().byte().cpu(), pixels[each])
        # a GPU may multiply by 1/255, which is one rounding away
        assert torch.allclose(found.cpu(), pixels[each].float() / 255, rtol=1e-6, atol=0)
