"""Batches are functions of place, and each epoch sees every image once."""

from dataclasses import replace

import pytest
import torch

from unshaken.base.rng import Key
from unshaken.base.schedule import Constant, StepSchedule
from unshaken.base.shared_batch import Rows
from unshaken.data.images import Images
from unshaken.train.batches import BatchStream, Position
from unshaken.transforms.views import Concat, CropFlip, DigitViews, Identity, ResizedCrop, SimCLRViews, Views


def feed(n: int, batch: int, epochs: int = 2, views=Identity(), strength=Constant(1.0)) -> BatchStream:
    pixels = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, 4, 4).contiguous()
    label = torch.arange(n) % 2
    return BatchStream(Images(pixels, label, ("even", "odd")), views, strength, batch, epochs, Key(0), label)


@pytest.mark.parametrize(
    ("n", "batch", "sizes"),
    [(8, 4, [4, 4]), (10, 4, [4, 4, 2]), (9, 4, [4, 5]), (3, 4, [3]), (5, 4, [5]), (2, 2, [2])],
)
def test_every_image_once_an_epoch_and_none_alone(n, batch, sizes):
    """A last batch of one image, which has no variance and nothing to contrast with, joins the one before."""
    seen = [b.index for _, _, b in feed(n, batch).after(Position())]
    for epoch in range(2):
        part = seen[epoch * len(sizes) : (epoch + 1) * len(sizes)]
        assert [len(index) for index in part] == sizes
        assert sorted(torch.cat(part).tolist()) == list(range(n))
    assert not torch.equal(torch.cat(seen[: len(sizes)]), torch.cat(seen[len(sizes) :])) or n < 4


def test_a_batch_can_be_made_without_those_before():
    made = list(feed(10, 4, views=CropFlip(padding=1)).after(Position()))
    for k, (place, _, batch) in enumerate(made):
        again, _, same = next(feed(10, 4, views=CropFlip(padding=1)).after(place))
        assert again == place
        assert place.step == k
        assert torch.equal(same.views, batch.views)
        assert torch.equal(same.label, batch.index % 2)
        assert torch.equal((same.image[:, 0, 0, 0] * 255).round().long(), same.index)


def test_places_follow_each_other():
    places = [(place, onward) for place, onward, _ in feed(10, 4).after(Position())]
    assert [onward for _, onward in places[:-1]] == [place for place, _ in places[1:]]
    assert places[-1][1] == Position(epoch=2, batch=0, step=6)


def test_time_is_what_has_elapsed_when_the_step_is_made():
    times = [feed(10, 4).clock(place).time for place, _, _ in feed(10, 4).after(Position())]
    assert times == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])


def test_strength_follows_its_schedule():
    seen = []

    class Told(Identity):
        def __call__(self, image, strength, key):
            seen.append(strength)
            return super().__call__(image, strength, key)

    list(feed(8, 4, epochs=4, views=Told(), strength=StepSchedule(1.0, 0.0, every=2)).after(Position()))
    assert seen == [1.0] * 4 + [0.5] * 4


@pytest.mark.parametrize(("n", "batch", "epochs"), [(1, 4, 1), (8, 1, 1), (8, 4, 0)])
def test_too_little_is_refused(n, batch, epochs):
    with pytest.raises(ValueError, match=r"too few|batch ≥ 2"):
        feed(n, batch, epochs)


def test_what_is_learned_from_goes_with_its_image_and_may_have_columns():
    """The images' own labels are not given unasked: pre-training without labels never has them at hand."""
    whole = feed(10, 4)
    columns = torch.stack([torch.arange(10), torch.arange(10) + 100], dim=1)
    for _, _, batch in replace(whole, label=columns).after(Position()):
        assert torch.equal(batch.label, torch.stack([batch.index, batch.index + 100], dim=1))
    assert all(batch.label is None for _, _, batch in replace(whole, label=None).after(Position()))


class Own(Views):
    """Views of a user's own, which know nothing of rows."""

    count = 2

    def __call__(self, image, strength, key):
        noise = torch.rand((2, *image.shape), generator=key.on(image.device))
        return (image + noise).clamp(0, 1)


@pytest.mark.parametrize(
    "views",
    [SimCLRViews(), DigitViews(noise=0.1), CropFlip(padding=1), ResizedCrop(), Concat(DigitViews(), CropFlip()), Own()],
    ids=lambda views: type(views).__name__,
)
@pytest.mark.parametrize(("n", "sizes"), [(7, (3, 2, 2)), (2, (1, 1, 0))])
def test_the_rows_of_three_processes_make_the_batch(views, n, sizes):
    """Bit for bit, with smaller images too; labels are those of the whole batch, as outputs are."""
    stream = feed(9, 7, views=views)
    index = torch.tensor([5, 3, 8, 0, 1, 7, 2])[:n]
    for side in (1.0, 0.5):
        whole = stream.make_batch(index, 0.8, Key(3), side)
        parts = [stream.make_batch(index, 0.8, Key(3), side, Rows(rank, sizes)) for rank in range(3)]
        assert [len(part.index) for part in parts] == list(sizes)
        assert torch.equal(torch.cat([part.views for part in parts], 1), whole.views)
        assert torch.equal(torch.cat([part.image for part in parts]), whole.image)
        assert torch.equal(torch.cat([part.index for part in parts]), whole.index)
        assert all(torch.equal(part.label, whole.label) and part.count == n for part in parts)
