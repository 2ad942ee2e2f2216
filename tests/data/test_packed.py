"""Packed sets: the pixels of the folder to the bit, whole after any kill, small in memory, and damage in one line."""

import json
import os
import signal
import sys
import tarfile
import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

import unshaken
from unshaken import cli
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.data import packing, prefetch
from unshaken.data.packed_file import is_packed, read_packed
from unshaken.data.source import DataSource
from unshaken.runs.pack import pack
from unshaken.storage.stored_pixels import AHEAD, Reading, StoredPixels
from unshaken.train.batches import BatchStream, Position
from unshaken.transforms.views import CropFlip

COUNT = 23


def photo(rng: np.random.Generator, height: int = 30, width: int = 40) -> Image.Image:
    """A picture with edges, which JPEG changes."""
    return Image.fromarray(rng.integers(0, 256, (height // 5, width // 5, 3), np.uint8)).resize((width, height), 0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes in several formats; one lies on its side, as EXIF says."""
    root, rng = tmp_path_factory.mktemp("set") / "photos", np.random.default_rng(0)
    exif = Image.Exif()
    exif[274] = 6
    for k in range(COUNT):
        file = root / "ab"[k % 2] / f"{k:02}.{('jpg', 'png', 'webp', 'tga', 'bmp')[k % 5]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        photo(rng).save(file, **({"exif": exif} if k == 10 else {}))
    return root


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "WINDOW", 3)
    monkeypatch.setattr(packing, "SHARD", 6)


@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_a_packed_set_has_the_images_of_its_folder_to_the_bit(photos: Path, tmp_path: Path, split: str) -> None:
    file = pack(photos, tmp_path / "photos.packed")
    held = DataSource(str(photos), str(tmp_path), size=16).load(split)
    packed = DataSource(str(file), size=16).load(split)
    assert packed.in_file
    assert torch.equal(packed.pixels[:], held.pixels)
    assert torch.equal(packed.label, held.label)
    assert (packed.names, packed.name, list(packed.files)) == (held.names, held.name, list(held.files))
    assert torch.equal(packed.image_digests, held.image_digests)
    assert packed[[1, 0]].in_file, "a selection is not read either"
    assert torch.equal(packed[[1, 0]].floats(), held.floats(torch.tensor([1, 0])))
    with_limit = DataSource(str(file), size=16, limit=2).load(split)
    assert len(with_limit) == (2 if split != "test" else len(held))
    others = [DataSource(str(file), size=15).load(split), packed[1:], packed[[1, 0]], with_limit[:1]]
    assert len({images.digest for images in (packed, *others)}) == 5


def test_equal_images_are_equal_files(photos: Path, tmp_path: Path, small_shards: None) -> None:
    first, second = (pack(photos, tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    with pytest.raises(ValueError, match="a exists already; choose another --out"):
        pack(photos, tmp_path / "a")


def killed(work: Callable[[], object], at: int, before: bool) -> bool:
    """Do the work in a forked process that is killed at a journal: before it is written, or after it."""

    def note(path: Path, state: dict, write=packing.write_json) -> None:
        if not (before and state["done"] >= at):
            write(path, state)
        if state["done"] >= at:
            os.kill(os.getpid(), signal.SIGKILL)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # later Pythons warn of threads; the child starts its own
        child = os.fork()
    if child == 0:
        try:
            packing.write_json = note
            if at > COUNT:  # at the end: once the file has its name
                packing.shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) < 0


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("at", [1, 12, COUNT, COUNT + 1])
def test_a_killed_packing_is_resumed(
    photos: Path, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch, at: int, before: bool
) -> None:
    whole, read = pack(photos, tmp_path / "whole"), []
    assert killed(lambda: pack(photos, tmp_path / "set"), at, before)
    monkeypatch.setattr(packing, "prepared", lambda item, how, old=packing.prepared: read.append(1) or old(item, how))
    assert pack(photos, tmp_path / "set").read_bytes() == whole.read_bytes()
    assert len(read) == COUNT - {(1, True): 0, (1, False): 6, (12, True): 6, (12, False): 12, (COUNT, True): 18}.get(
        (at, before), COUNT
    )
    assert sorted(os.listdir(tmp_path)) == ["set", "whole"]


@pytest.mark.parametrize("file", ["data", "records", "journal.json"])
def test_a_damaged_packing_in_progress_begins_anew(photos: Path, tmp_path: Path, small_shards: None, file: str) -> None:
    whole = pack(photos, tmp_path / "whole").read_bytes()
    assert killed(lambda: pack(photos, tmp_path / "set"), 12, False)
    part = tmp_path / "set.packing" / file
    content = part.read_bytes()
    part.write_bytes(content[:40] if file == "data" else bytes([content[0] ^ 1]) + content[1:])
    assert pack(photos, tmp_path / "set").read_bytes() == whole


def test_what_is_damaged_is_said_in_one_line(photos: Path, tmp_path: Path) -> None:
    file = pack(photos, tmp_path / "set")
    sound, packed = file.read_bytes(), read_packed(file)
    begin, end = packed.arrays["offsets"][[3, 4]].tolist()
    file.write_bytes(sound[: end - 5] + bytes([sound[end - 5] ^ 1]) + sound[end - 4 :])
    images = DataSource(str(file), size=8).load("all")
    assert len(images.floats(torch.tensor([2, 4]))) == 2
    with pytest.raises(ValueError, match="set was damaged: .* does not match its checksum"):
        images.floats(torch.tensor([0, 3]))
    index = len(sound) - 16 - int.from_bytes(sound[-16:-8], "little")
    for place in (index + 2, index + 60, len(sound) - 40, len(sound) - 12, len(sound) - 1):
        file.write_bytes(sound[:place] + bytes([sound[place] ^ 4]) + sound[place + 1 :])
        with pytest.raises(ValueError, match="set"):
            DataSource(str(file), size=8).load("all")
    for cut in (sound[:-1], sound[: end + 3], sound[:70]):
        file.write_bytes(cut)
        with pytest.raises(ValueError, match="is not a complete packed image set"):
            DataSource(str(file), size=8).load("all")


def test_unreadable_images_are_named_or_left_out(photos: Path, tmp_path: Path, capsys, small_shards: None) -> None:
    for number, file in enumerate(sorted(photos.rglob("*.*"))):
        copy = tmp_path / "photos" / file.relative_to(photos)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(b"no image" if number == 7 else file.read_bytes())
    out = tmp_path / "set"
    assert cli.run(["pack", str(tmp_path / "photos"), "--out", str(out)]) == 2
    assert "not an image in a format that is read; remove it, or pass --unreadable skip" in capsys.readouterr().err
    assert cli.run(["pack", str(tmp_path / "photos"), "--out", str(out), "--unreadable", "skip"]) == 0
    printed = capsys.readouterr()
    assert "1 image cannot be read and is skipped: " in printed.err
    assert f"{out}  22 images, 0.0 MB" in printed.out
    held = DataSource(str(tmp_path / "photos"), str(tmp_path), size=8, unreadable="skip").load("all")
    packed = DataSource(str(out), size=8).load("all")
    assert torch.equal(packed.pixels[:], held.pixels)
    assert torch.equal(packed.label, held.label)


def test_images_are_encoded_again_on_request_and_keep_their_identity(tmp_path: Path) -> None:
    """A test image is recognised among smaller copies of the training images."""
    (tmp_path / "photos").mkdir()
    photo(np.random.default_rng(1), 90, 60).save(tmp_path / "photos" / "a.png")
    photo(np.random.default_rng(2), 20, 20).save(tmp_path / "photos" / "b.png")
    whole, short = (
        pack(tmp_path / "photos", tmp_path / "whole"),
        pack(tmp_path / "photos", tmp_path / "s", short_side=30),
    )
    loaded = [DataSource(str(file), size=16).load("all") for file in (whole, short)]
    assert torch.equal(loaded[0].image_digests, loaded[1].image_digests)
    assert loaded[0].digest != loaded[1].digest
    packed = read_packed(short)
    assert packed.content(1) == (tmp_path / "photos" / "b.png").read_bytes(), "it is small enough"
    file = BytesIO()
    smaller = Image.open(tmp_path / "photos" / "a.png").resize((30, 45), Image.Resampling.BICUBIC)
    smaller.save(file, "JPEG", quality=90)
    assert packed.content(0) == file.getvalue()


def members(photos: Path) -> dict[str, bytes]:
    return {str(file.relative_to(photos)): file.read_bytes() for file in sorted(photos.rglob("*.*"))}


@pytest.mark.parametrize("form", ["zip", "tar", "two tars"])
def test_archives_are_read_as_the_folder_in_them(photos: Path, tmp_path: Path, form: str) -> None:
    source = tmp_path / ("set.zip" if form == "zip" else "set.tar" if form == "tar" else "shards")
    if form == "zip":
        with ZipFile(source, "w", ZIP_DEFLATED) as archive:
            for name, content in members(photos).items():
                archive.writestr(f"photos/{name}", content)
            archive.writestr("__MACOSX/photos/._x.png", b"")
    else:
        source.mkdir(exist_ok=True) if form == "two tars" else None
        files = [source] if form == "tar" else [source / "0.tar", source / "1.tar"]
        for part, file in enumerate(files):
            with tarfile.open(file, "w") as archive:
                for name in list(members(photos))[part :: len(files)]:
                    archive.add(photos / name, name)
    formats = [name for name in members(photos) if not name.endswith(".tga")]  # its name alone tells what it is
    packed = DataSource(str(pack(source, tmp_path / "out", unreadable="skip")), size=8).load("all")
    held = DataSource(str(photos), str(tmp_path), size=8).load("all")
    rows = [row for row, name in enumerate(held.files) if name in formats]
    assert torch.equal(packed.pixels[:], held.pixels[rows])
    assert torch.equal(packed.label, held.label[rows])
    assert packed.names == held.names


def test_shards_with_a_class_file_beside_each_image(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with ZipFile(tmp_path / "shards" / f"train-{shard:04}.zip", "w") as archive:
            for k, (name, content) in enumerate(members(photos).items()):
                if name.endswith("jpg"):
                    archive.writestr(f"{k:05}.jpg", content)
                    archive.writestr(f"{k:05}.cls", str(10 * (k % 2) + 2))
    images = DataSource(str(pack(tmp_path / "shards", tmp_path / "out")), size=8).load("all")
    assert images.names == ("2", "12")
    assert images.files[0] == "train-0000/00000.jpg"
    assert [images.names[k] for k in images.label] == [str(10 * (int(f[-9:-4]) % 2) + 2) for f in images.files]
    (tmp_path / "shards" / "train-0000.zip").rename(tmp_path / "shards" / "val-0000.zip")
    with pytest.raises(ValueError, match="has archives of several splits"):
        pack(tmp_path / "shards", tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.zip", b"PK\3\4 broken", "a.zip cannot be read as an archive"),
        ("a.tar", b"broken", "a.tar cannot be read as an archive"),
        ("a.tar.gz", b"", "a.tar.gz can only be read from its beginning: unpack it"),
        ("a.txt", b"", "a.txt is a file: name a folder of images"),
        ("", b"", "there are no images at .*nothing"),
    ],
)
def test_what_cannot_be_packed_is_said_in_one_line(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / (name or "nothing")
    if name:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        pack(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_is_no_set_to_train_on(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "a.zip", "w"):
        pass
    with pytest.raises(ValueError, match="a.zip is an archive: `unshaken pack .*a.zip --out FILE` makes one file"):
        DataSource(str(tmp_path / "a.zip")).load()
    assert not is_packed(tmp_path / "a.zip")


def test_a_feed_from_the_middle_gives_the_same_batches(photos: Path, tmp_path: Path) -> None:
    def batches(source: Path, begin: Position) -> list[torch.Tensor]:
        images = DataSource(str(source), str(tmp_path), size=12).load("all")
        feed = BatchStream(images, CropFlip(padding=1), Constant(1.0), 8, 2, Key(0), images.label)
        return [t for _, _, batch in feed.after(begin) for t in (batch.views, batch.image, batch.label, batch.index)]

    packed = pack(photos, tmp_path / "set")
    whole, resumed = batches(photos, Position()), batches(packed, Position(1, 1, 4))
    assert all(torch.equal(a, b) for a, b in zip(whole, batches(packed, Position()), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole[16:], resumed, strict=True))
    assert len(resumed) == 8


def test_training_from_a_packed_set_ends_with_the_same_bits(photos: Path, tmp_path: Path) -> None:
    file, found = pack(photos, tmp_path / "photos.packed"), []
    three = {"channels": 3, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    recipe = unshaken.recipe("simclr/digits")
    recipe = replace(recipe, epochs=2, batch_size=12, backbone=replace(recipe.backbone, **three))
    for number, source in enumerate((photos, file)):
        data = DataSource(str(source), str(tmp_path))
        run = unshaken.pretrain(replace(recipe, data=data), unshaken.Workspace(tmp_path / f"{number}", quiet=True))
        found.append(json.loads((run / "run.json").read_text())["digest"])
    assert found[0] == found[1]


def test_memory_does_not_grow_with_the_set(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many batches an epoch has: those that are read ahead, and the one in use, are all that is alive."""
    images = DataSource(str(pack(photos, tmp_path / "set")), size=32).load("all")
    sizes, begin = {}, StoredPixels._start

    def counted(self: StoredPixels, rows: np.ndarray) -> Reading:
        reading = begin(self, rows)
        sizes[id(reading.pixels)] = reading.pixels.nbytes
        weakref.finalize(reading.pixels, sizes.pop, id(reading.pixels))
        return reading

    monkeypatch.setattr(StoredPixels, "_start", counted)
    for epochs in (1, 4):
        feed, most = BatchStream(images, CropFlip(padding=1), Constant(1.0), 2, epochs, Key(0)), 0
        for _ in feed.after(Position()):
            most = max(most, sum(sizes.values()))
        assert most <= (AHEAD + 1) * 3 * 3 * 32 * 32, "an epoch's last batch has three images"


def test_the_verb_is_the_function() -> None:
    assert unshaken.pack is pack
    assert "pack" in cli.VERBS
    assert sys.modules["unshaken.runs.pack"].pack is pack


def test_large_sets_say_where_they_go(photos: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    source, packed = DataSource(str(photos), str(tmp_path)), DataSource(str(pack(photos, tmp_path / "set")))
    assert source.where(COUNT, 32) == DataSource("digits").where(10**7, 8) == ""
    assert source.where(20_000, 224) == "decoded into 3.0 GB of memory"
    assert source.where(1_281_167, 224).startswith(
        f"decoded once into a file of 193 GB in {tmp_path}/cache, from which"
    )
    assert packed.where(1_281_167, 224).startswith(f"read from {tmp_path}/set and decoded batch by batch")
    assert "memory" not in capsys.readouterr().err
    monkeypatch.setattr(prefetch, "LARGE", 1)
    replace(source, size=16).load("all")
    assert "photos at 16 x 16 pixels: decoded into 0.0 GB of memory; `unshaken pack` keeps" in capsys.readouterr().err
