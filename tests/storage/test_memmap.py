"""Sets too large for memory: the same images from a file, decoded once and resumable, and batches that travel."""

import fcntl
import os
import signal
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.data import images as imaging
from unshaken.data import prefetch as gathering
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.storage import memmap as module
from unshaken.storage import stored_pixels as stored
from unshaken.storage.stored_pixels import StoredPixels
from unshaken.train.batches import BatchStream, Position
from unshaken.transforms.views import CropFlip

COUNT = 9


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = torch.Generator().manual_seed(0)
    for k in range(COUNT):
        file = tmp_path / "photos" / "train" / "ab"[k % 2] / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (10, 12, 3), generator=rng, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(file)
    return tmp_path / "photos"


@pytest.fixture
def load(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Images]:
    """Of the folder, from memory or, where `large`, from a file in shards of two."""
    monkeypatch.setattr(gathering, "SHARD", 2)
    (photos / "test").symlink_to("train")

    def load(large: bool = True, root: str = "root", **fields: object) -> Images:
        for place in (gathering, imaging):
            monkeypatch.setattr(place, "IN_MEMORY_LIMIT", 0 if large else 2**30)
        return DataSource(str(photos), str(photos.parent / root), size=8, **fields).load()

    return load


def test_the_same_images_as_in_memory(load: Callable[..., Images], photos: Path) -> None:
    held, mapped = load(large=False), load()
    assert torch.equal(held.pixels, mapped.pixels[:])
    assert torch.equal(held.label, mapped.label)
    assert torch.equal(held.floats(torch.tensor([4, 0])), mapped.floats(torch.tensor([4, 0])))
    assert (held.content, len(mapped.content)) == ("", 32)
    assert next((photos.parent / "root" / "cache").glob("*.pixels")).stat().st_size == COUNT * 3 * 8 * 8


def test_the_same_batches_as_from_memory(load: Callable[..., Images]) -> None:
    def batches(images: Images) -> list[torch.Tensor]:
        feed = BatchStream(images, CropFlip(padding=1), Constant(1.0), 4, 2, Key(0), images.label).to(
            torch.device("cpu")
        )
        return [
            t for _, _, batch in feed.after(Position()) for t in (batch.views, batch.image, batch.label, batch.index)
        ]

    held, mapped = batches(load(large=False)), batches(load())
    assert all(torch.equal(a, b) for a, b in zip(held, mapped, strict=True))


def test_images_are_decoded_once(load: Callable[..., Images], monkeypatch: pytest.MonkeyPatch) -> None:
    first = load()
    monkeypatch.setattr(gathering, "picture", None)
    again = load()
    assert torch.equal(first.pixels[:], again.pixels[:])
    assert first.digest == again.digest


def killed(shard: int, work: Callable[[], object], before: bool) -> bool:
    """Do the work in a forked process that is killed at a shard: once its pixels are written, or its journal too."""

    def note(path: Path, known: dict, write=module.write_json) -> None:
        last = known["done"] >= min(2 * shard, COUNT)
        if not (last and before):
            write(path, known)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # later Pythons warn of threads; the child starts its own
        child = os.fork()
    if child == 0:
        try:
            module.write_json = note
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) < 0


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("shard", [1, 3, 5])
def test_a_killed_decoding_resumes_and_ends_with_the_same_bytes(
    load: Callable[..., Images], monkeypatch: pytest.MonkeyPatch, shard: int, before: bool
) -> None:
    whole = load()
    assert killed(shard, lambda: load(root="other"), before)
    read = []
    monkeypatch.setattr(gathering, "picture", lambda *given, old=gathering.picture: read.append(1) or old(*given))
    resumed = load(root="other")
    assert torch.equal(resumed.pixels[:], whole.pixels[:])
    assert resumed.digest == whole.digest
    assert len(read) == COUNT - min(2 * (shard - before), COUNT)


def test_a_file_that_is_cut_short_is_made_again(
    load: Callable[..., Images], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = load().pixels[:]
    file = next((photos.parent / "root" / "cache").glob("*.pixels"))
    file.write_bytes(file.read_bytes()[:-1])
    assert torch.equal(load().pixels[:], whole)
    assert "was cut short: the images are decoded again" in capsys.readouterr().err


def test_unreadable_images_are_named_or_left_out(load: Callable[..., Images], photos: Path) -> None:
    (photos / "train" / "b" / "3.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"1 of 9 images cannot be read \(first: train/b/3.png: not an image"):
        load()
    mapped, held = load(unreadable="skip"), load(large=False, unreadable="skip")
    assert len(mapped) == COUNT - 1
    assert torch.equal(mapped.pixels[:], held.pixels)
    assert torch.equal(mapped.label, held.label)
    for file in (photos / "train").glob("*/*.png"):
        file.write_text("not an image")
    with pytest.raises(ValueError, match="none of 9 images can be read"):
        load()


def test_a_full_disk_is_told_before_anything_is_decoded(
    load: Callable[..., Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    monkeypatch.setattr(gathering, "picture", None)
    with pytest.raises(ValueError, match="need 0 GB more in .*cache, and 0 GB are free: choose another --data.root"):
        load()


def test_a_second_process_waits_for_the_first(
    load: Callable[..., Images], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = load()
    with open(next((photos.parent / "root" / "cache").glob("*.lock")), "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        free = threading.Timer(0.1, lambda: fcntl.flock(held, fcntl.LOCK_UN))
        free.start()
        assert torch.equal(load().pixels[:], whole.pixels[:])
        free.join()
    assert "another process is decoding the same images" in capsys.readouterr().err


def test_digest_is_of_the_content_as_it_was_decoded(load: Callable[..., Images], photos: Path) -> None:
    whole = load()
    digests = [whole.digest, whole[:4].digest, whole[2:6].digest, replace(whole, names=("a", "c")).digest]
    assert torch.equal(whole[:4].label, whole[2:6].label)
    assert whole[:4].digest == load()[0:4].digest
    assert (
        replace(whole, pixels=torch.zeros(whole.pixels.shape, dtype=torch.uint8)).digest == whole.digest
    )  # they are not read for it
    Image.new("RGB", (12, 10)).save(photos / "train" / "a" / "0.png")  # in the first shard
    digests.append(load().digest)
    assert len(set(digests)) == len(digests)


def test_a_mapped_set_stays_on_the_cpu_and_its_batches_move_to_the_device(load: Callable[..., Images]) -> None:
    away = replace(load(), label=None).to("meta")
    assert (away.pixels.device.type, away.device.type) == ("cpu", "meta")
    assert away.floats(torch.tensor([1, 2])).device.type == away.floats(slice(3)).device.type == "meta"
    small = replace(load(large=False), label=None).to("meta")
    assert small.pixels.device.type == small.device.type == "meta"


def test_parts_that_would_fill_the_memory_stay_in_the_file(load: Callable[..., Images], monkeypatch) -> None:
    mapped = load()
    assert torch.equal(mapped[2:5].pixels[:], mapped.pixels[2:5])
    part = mapped[[4, 0]]
    assert part.in_file
    assert torch.equal(part.floats(), mapped.floats(torch.tensor([4, 0])))
    assert len({part.digest, mapped.digest, mapped[[0, 4]].digest, load()[[4, 0]][[1]].digest}) == 4
    assert part.digest == load()[torch.tensor([4, 0])].digest
    monkeypatch.setattr(imaging, "IN_MEMORY_LIMIT", 2**30)
    assert not mapped[[4, 0]].in_file


def test_batches_are_read_ahead_of_their_use(load: Callable[..., Images], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read ahead depends on the position alone: a feed that begins in the middle reads the same."""
    mapped, asked = load(), []
    begin = StoredPixels._start
    monkeypatch.setattr(StoredPixels, "_start", lambda self, rows: asked.append(rows.tolist()) or begin(self, rows))
    feed = BatchStream(mapped, CropFlip(padding=1), Constant(1.0), 3, 3, Key(0))
    order = [batch.tolist() for epoch in range(3) for batch in feed.batches(epoch)]
    run = feed.after(Position())
    next(run)
    assert asked == order[:4]
    read = [batch.index.tolist() for _, _, batch in run]
    assert asked == order == [order[0], *read]
    monkeypatch.setattr(stored, "AHEAD_BYTES", 2 * 3 * 3 * 8 * 8)
    asked.clear()
    next(feed.after(Position(1, 1, 4)))
    assert asked == order[4:6], "no more than fits"
    assert torch.equal(mapped.pixels[torch.tensor([8, 1])], load().pixels[[8, 1]]), (
        "others may be asked for at any time"
    )


def test_a_damaged_image_is_found_when_it_is_read(load: Callable[..., Images], photos: Path) -> None:
    """Alone: the others are still given."""
    images = load()
    (file,) = (photos.parent / "root" / "cache").glob("*.pixels")
    content = bytearray(file.read_bytes())
    content[4 * 3 * 8 * 8 + 7] ^= 16
    file.write_bytes(content)
    images = load()
    assert images.floats(torch.tensor([3, 5])).shape == (2, 3, 8, 8)
    for index in (torch.tensor([4]), torch.tensor([0, 4]), slice(3, 6), slice(None)):
        with pytest.raises(ValueError, match=f"{file.name} was damaged"):
            images.floats(index)
    with pytest.raises(ValueError, match=f"{file.name} was damaged"):
        images[3:5].floats()
    assert len(images[:4].floats()) == 4


@pytest.mark.parametrize("suffix", [".sums", ".journal"])
@pytest.mark.parametrize("damage", ["cut", "altered"])
def test_damaged_metadata_is_detected(load: Callable[..., Images], photos: Path, suffix: str, damage: str) -> None:
    load()
    (file,) = (photos.parent / "root" / "cache").glob(f"*{suffix}")
    content = file.read_bytes()
    file.write_bytes(content[:-3] if damage == "cut" else bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(ValueError, match=f"{file.name}.*or remove .*journal, and the images are decoded again"):
        load()
    file.with_suffix(".journal").unlink()
    assert len(load()) == COUNT
