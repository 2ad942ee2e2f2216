"""Images: what it accepts, how it is indexed, what its digest depends on."""

import pytest
import torch
from torch import Tensor

from unshaken.data.images import Images


def some(pixels: Tensor | None = None, label: tuple[int, ...] = (0, 1, 1)) -> Images:
    pixels = torch.arange(3 * 2 * 2, dtype=torch.uint8).reshape(3, 1, 2, 2) if pixels is None else pixels
    return Images(pixels, torch.tensor(label), ("a", "b"))


def test_digest_is_of_the_content() -> None:
    changed = some().pixels.clone()
    changed[1, 0, 0, 0] += 1
    digests = [
        some().digest,
        some(changed).digest,
        some(label=(0, 1, 0)).digest,
        some()[[1, 0, 2]].digest,
        Images(some().pixels, some().label, ("a", "c")).digest,
        Images(some().pixels).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert some().digest == some().digest


def test_a_subset_is_an_index() -> None:
    for index in (slice(1, 3), [1, 2], torch.tensor([1, 2])):
        part = some()[index]
        assert part.digest == some()[1:3].digest
        assert len(part) == 2
        assert part.label.tolist() == [1, 1]


def test_floats_lie_in_0_to_1() -> None:
    images = Images(torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1))
    assert images.floats().flatten().tolist() == pytest.approx([0, 0.2, 1])
    assert images.floats(torch.tensor([2])).item() == 1


def test_refuses_what_is_not_images() -> None:
    with pytest.raises(ValueError, match="uint8 tensor of shape"):
        Images(torch.zeros(3, 1, 2, 2))
    with pytest.raises(ValueError, match="3 images need 3 labels"):
        some(label=(0, 1))
    with pytest.raises(ValueError, match=r"labels lie in 0\.\.1 .* 0\.\.2"):
        some(label=(0, 1, 2))
