"""Images: what it accepts, how it is indexed, what its digest depends on."""

import numpy as np
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
    with pytest.raises(ValueError, match=r"images must have the shape"):
        Images(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="3 images need 3 labels"):
        some(label=(0, 1))
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.1 .* 0\.\.2"):
        some(label=(0, 1, 2))


def test_arrays_of_any_kind_become_images() -> None:
    x = some().pixels
    kinds = [x, x.numpy(), x.float() / 255, (x.double() / 255).numpy(), x.int(), x.float(), x[:, 0], x.tolist()]
    kinds += [x.permute(0, 2, 3, 1).numpy(), (x.float() / 255).half().float()]
    for kind in kinds:
        assert torch.equal(Images.of(kind).pixels, x)
    for y in ([0, 1, 1], np.array([0, 1, 1], np.int32), torch.tensor([0.0, 1, 1]), torch.tensor([0, 1, 1]).half()):
        images = Images.of(x, y)
        assert (images.label.tolist(), images.label.dtype, images.names) == ([0, 1, 1], torch.int64, ("0", "1"))
        assert images.digest == Images(x, torch.tensor([0, 1, 1]), ("0", "1")).digest
    assert Images.of(x, [0, 1, 1], ["a", "b"]).digest == some().digest


def test_pixels_between_the_levels_are_rounded_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    assert Images.of(torch.full((1, 3, 2, 2), 100.4 / 255)).pixels.unique().tolist() == [100]
    assert "the images are rounded to 8 bits, by up to 0.40 of 255 levels" in capsys.readouterr().err


def test_refuses_what_cannot_be_meant() -> None:
    for x in (torch.full((1, 3, 2, 2), -0.5), torch.full((1, 3, 2, 2), 300.0), torch.full((1, 3, 2, 2), torch.nan)):
        with pytest.raises(ValueError, match=r"not finite numbers|give images in \[0, 1\] or in 0 to 255"):
            Images.of(x)
    with pytest.raises(ValueError, match="whole numbers"):
        Images.of(some().pixels, [0, 0.5, 1])
    with pytest.raises(ValueError, match="the labels cannot be read as one array"):
        Images.of(some().pixels, ["a", "b", "b"])
    with pytest.raises(ValueError, match="3 images need 3 labels"):
        Images.of(some().pixels, [0, 1])


def test_each_image_keeps_its_digest() -> None:
    images = some()
    assert torch.equal(images[[2, 0]].image_digests, images.image_digests[[2, 0]])
    known = Images(images.pixels, images.label, images.names, digests=torch.arange(3), files=("x", "y", "z"))
    for index in (slice(1, 3), [1, 2], torch.tensor([1, 2]), torch.tensor([False, True, True])):
        assert (known[index].image_digests.tolist(), known[index].files) == ([1, 2], ("y", "z"))
    assert known.digest == images.digest
    grey = Images.of(images.pixels.expand(-1, 3, -1, -1))
    assert torch.equal(grey.image_digests, images.image_digests)
