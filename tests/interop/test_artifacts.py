"""What leaves the machine: it can be made again after any stop, holds no path, and its page does as little as text."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from unshaken.base.json_files import write_json
from unshaken.base.packed_bits import pack_bits
from unshaken.commands.catalog import cite
from unshaken.commands.interop import export_, import_
from unshaken.interop.export import ExportOptions, export
from unshaken.interop.fingerprint import verify_fingerprint
from unshaken.interop.load import load_model
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import read_tensors, save_classifier, save_encoder, write_tensors
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Network
from variants import variants

SMALL = Backbone("resnet-small", 32)
HOME = "/home/alice/secret project"
RECIPE = {
    "name": "deacl",
    "teacher": f"{HOME}/runs/simclr/encoder.safetensors",
    "data": {"type": "DataSource", "name": f"{HOME}/photos", "root": f"{HOME}/data", "download": True, "size": None},
    "seed": 3,
    "method": {"type": "DeACL", "attack": {"type": "PGD", "ball": {"type": "Linf", "eps": 8 / 255}}},
}
TEACHER = {"recipe": {"name": "simclr", "data": {"type": "DataSource", "name": f"{HOME}/photos"}, "seed": 0}}
ORIGIN = {
    "recipe": RECIPE,
    "teacher": TEACHER,
    "said": {"trained on": f"{HOME}/photos (--data, if it was another)"},
}
FORMS = {"safetensors": "e.safetensors", "hub": "hub", "onnx": "e.onnx"}
FORMS |= {"torchvision": "t.safetensors", "timm": "m.safetensors"}
KINDS = ("encoder", "classifier")
MAIN = [("safetensors", KINDS[0]), ("hub", KINDS[0]), ("hub", "classifier")]


def needed(form: str) -> None:
    if form == "onnx" and not all(map(find_spec, ("onnx", "onnxscript"))):
        pytest.skip("onnx is not installed")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return made(tmp_path / "run")


def made(folder: Path, backbone: Backbone = SMALL, origin: dict[str, Any] = ORIGIN, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    save_encoder(folder / "encoder.safetensors", backbone.build().eval(), backbone, {"pretrain": origin})
    return folder


def written(place: Path) -> dict[str, Any]:
    """What the files say: in the header of a tensor file the order of the fields differs from time to time."""
    found = [place, *place.parent.glob(f"{place.name}.md")] if place.is_file() else list(place.rglob("*"))
    return {str(file.relative_to(place.parent)): content(file) for file in found if file.is_file()}


def content(file: Path) -> Any:
    if file.suffix != ".safetensors":
        return file.read_bytes()
    with safe_open(file, "pt") as tensors:
        said = {name: text for name, text in tensors.metadata().items() if name != "checksum"}  # of that order too
        return {name: tensors.get_tensor(name).numpy().tobytes() for name in tensors.keys()}, said  # noqa: SIM118


def text(file: Path) -> bytes:
    """All of a file but the weights, which may hold any bytes."""
    whole = file.read_bytes()
    return whole[: 8 + int.from_bytes(whole[:8], "little")] if file.suffix == ".safetensors" else whole


class Stopped(BaseException):
    pass


def cache_of_one(function: Callable) -> Callable:
    made = []
    return lambda *args, **kwargs: made[0] if made else made.append(function(*args, **kwargs)) or made[0]


@pytest.mark.parametrize("form", variants(["safetensors", "hub", "onnx"], ["safetensors", "hub"]))
def test_an_export_that_was_killed_is_made_again(form: str, run: Path, monkeypatch: pytest.MonkeyPatch):
    """Before each of its files takes its place: what is left is no hindrance, and the bits are those of one go."""
    needed(form)
    if form == "onnx":  # which takes seconds, and is the same each time
        monkeypatch.setattr(torch.onnx, "export", cache_of_one(torch.onnx.export))
    whole = written(export(run, ExportOptions(form, Path("whole" + FORMS[form]))))
    whole = {name.replace("whole", ""): each for name, each in whole.items()}
    out, replace = Path(FORMS[form]), os.replace
    for stop in range(4):
        left = [stop]

        def killed(part: Any, place: Any, left: list[int] = left) -> None:
            if left[0] == 0:
                raise Stopped
            left[0] -= 1
            replace(part, place)

        monkeypatch.setattr(os, "replace", killed)
        with suppress(Stopped):
            export(run, ExportOptions(form, out))
        monkeypatch.setattr(os, "replace", replace)
        export(run, ExportOptions(form, out))
        found = {name: each for name, each in written(out).items() if not name.endswith(".part")}
        assert found.keys() == whole.keys()
        assert all(found[name] == whole[name] for name in found if name.endswith((".safetensors", ".json")))
        for file in [out, *out.parent.glob(f"{out.name}.md")] if out.is_file() else out.iterdir():
            if stop % 2 == 0:  # the next one begins with an empty place, the one after it with a whole export
                file.unlink()


@pytest.mark.parametrize("form", variants(FORMS, ("safetensors", "hub")))
def test_the_same_export_again_is_the_same_and_another_is_refused(form: str, run: Path):
    needed(form)
    if form in ("torchvision", "timm"):
        run = made(run.with_name("wide"), Backbone("resnet18", 32))
    out = Path(FORMS[form])
    first = written(export(run, ExportOptions(form, out)))
    assert written(export(run, ExportOptions(form, out))) == first
    other = made(run.with_name("other"), load_model(run).backbone, seed=1)
    if form != "hub":  # a folder for a hub is brought up to date
        with pytest.raises(ValueError, match="exists already"):
            export(other, ExportOptions(form, out))
        assert written(out) == first


def test_an_import_that_was_killed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    net = SMALL.build()
    state = net.backbone.state_dict() | {"fc.weight": torch.rand(3, 64), "fc.bias": torch.rand(3)}
    torch.save(state, "theirs.pt")
    args = ["theirs.pt", "--normalisation", "none", "--out"]
    import_([*args, "whole"])
    for stop in range(5):
        left, replace = [stop], os.replace

        def killed(part: Any, place: Any, left: list[int] = left, replace: Any = replace) -> None:
            if left[0] == 0:
                raise Stopped
            left[0] -= 1
            replace(part, place)

        monkeypatch.setattr(os, "replace", killed)
        with suppress(Stopped):
            import_([*args, "out"])
        monkeypatch.setattr(os, "replace", replace)
        import_([*args, "out"])
        ours, theirs = (written(Path(name)) for name in ("out", "whole"))
        assert {name.replace("whole", "out", 1): each for name, each in theirs.items()} == ours


@pytest.mark.extra
def test_the_readme_s_four_exports_lie_beside_each_other(run: Path):
    """encoder.safetensors and encoder.onnx have a page each."""
    needed("onnx")
    export_(["run", "--to", "safetensors", "--out", "encoder.safetensors"])
    export_(["run", "--to", "onnx", "--out", "encoder.onnx"])
    export_(["run", "--to", "hub", "--out", "folder"])
    assert {"encoder.safetensors.md", "encoder.onnx.md"} <= {file.name for file in Path().iterdir()}


def test_a_folder_for_a_hub_that_was_begun_is_told_from_somebody_s(run: Path):
    Path("hub").mkdir()
    (Path("hub") / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        export(run, ExportOptions("hub", Path("hub")))
    Path("theirs").mkdir()
    (Path("theirs") / "model.safetensors").write_bytes(b"theirs")
    with pytest.raises(ValueError, match="exists already"):
        export(run, ExportOptions("hub", Path("theirs")))


@pytest.mark.parametrize(("form", "kind"), variants(product(FORMS, KINDS), MAIN))
def test_no_path_leaves_the_machine(form: str, kind: str, run: Path):
    """Neither a path of the user nor one of the libraries, whose source lines the ONNX exporter writes."""
    needed(form)
    backbone = Backbone("resnet18", 32) if form in ("torchvision", "timm") else SMALL
    run = made(run.with_name("wide"), backbone) if kind == "encoder" else tuned(run.with_name("slf"), backbone)
    result = {"data": {"name": f"{HOME}/photos"}, "standard": {"percent": 50.0, "correct": 1, "n": 2}}
    out = export(run, ExportOptions(form, Path(FORMS[form])), [result])
    found = [out, out.with_name(f"{out.name}.md")] if out.is_file() else list(out.iterdir())
    for file in found:
        for path in (b"/home", b"alice", b"secret", b"site-packages", str(Path.cwd()).encode()):
            assert path not in text(file), (file, path)
        assert not re.search(rb"\.py\b", text(file))
    assert b"photos" in b"".join(text(file) for file in found if file.suffix == ".md")


def tuned(folder: Path, backbone: Backbone) -> Path:
    """A run of fine-tuning on the user's own images."""
    encoder = backbone.build().eval()
    net = Network(encoder, zero_classifier(encoder.features, 2)).eval()
    finetune = {"recipe": RECIPE | {"name": "slf", "method": {"type": "SLF"}, "encoder": f"{HOME}/runs/deacl"}}
    finetune["data"] = {"images": {"name": f"{HOME}/photos"}, "encoder": f"{HOME}/runs/deacl"}
    metadata = {"pretrain": ORIGIN, "finetune": finetune}
    save_classifier(folder / "classifier.safetensors", net, backbone, ("cat", "dog"), metadata)
    return folder


def test_a_header_keeps_its_answers_and_names(run: Path):
    """Text in base 64 has slashes too, and is no path."""
    export(run, ExportOptions("safetensors", Path("e.safetensors")))
    assert verify_fingerprint(Path("e.safetensors")).holds
    about = read_tensors(Path("e.safetensors"))[1]
    assert about["pretrain"]["recipe"]["data"] == {"type": "DataSource", "name": "photos", "size": None}


def test_the_page_names_teacher_epsilon_and_first_images(run: Path):
    bits = pack_bits(np.arange(500) < 250)
    score = {"percent": 50.0, "correct": 250, "n": 500, "interval95": [45.0, 55.0], "bits": bits}
    result = {
        "method": "deacl",
        "mode": "slf",
        "data": {"name": f"{HOME}/photos", "split": "test", "n": 1000, "digest": "d"},
        "standard": score,
        "robust": score,
        "evaluation": {"attack": {"type": "PGD", "steps": 20, "ball": {"type": "Linf", "eps": 0.1}}, "limit": 500},
        "seeds": {"pretrain": 3, "finetune": 1, "evaluation": 1},
        "seconds": {"pretrain": None},
        "weights": "w",
        "world": {},
        "pretrain": {"recipe": {}},
        "finetune": {"recipe": {}},
    }
    write_json(run / "slf" / "result-first500.json", result)
    export_(["run", "--out", "e.safetensors"])
    page = Path("e.safetensors.md").read_text()
    assert "teacher: simclr on photos, seed 0" in page
    assert "attack in pre-training: l∞ 8/255" in page
    assert "| deacl | SLF | photos | the first 500 | 50.00 % (250 of 500) |" in page
    assert "There are none" not in page


@pytest.mark.extra
def test_images_of_the_run_s_size_are_exported(run: Path):
    """A network for 32 pixels that was trained on 64 takes 64."""
    needed("onnx")
    import onnx

    origin = ORIGIN | {"recipe": RECIPE | {"data": RECIPE["data"] | {"size": 64}}}
    export(made(Path("larger"), SMALL, origin), ExportOptions("onnx", Path("e.onnx")))
    shape = onnx.load("e.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_value for side in shape[1:]] == [3, 64, 64]
    assert "for images of 64 pixels" in Path("e.onnx.md").read_text()


MARKED = "x](http://evil) <img src=//evil/x.png> ![i](//evil) |a| `c` \x1b[31m\n# h @all"


def test_a_header_makes_no_markdown_and_no_terminal_codes(run: Path, capsys: pytest.CaptureFixture[str]):
    file = run / "encoder.safetensors"
    tensors, about = read_tensors(file)
    origin = {
        "recipe": {"type": "Imported", "name": MARKED, "seed": MARKED, "data": {"type": "DataSource", "name": MARKED}}
    }
    write_tensors(file, tensors, about | {"pretrain": origin | {"file": {"name": MARKED, "sha256": MARKED}}})
    export_(["run", "--to", "hub", "--out", "hub"])
    page = (Path("hub") / "README.md").read_text().split("\n---\n", 1)[1]
    assert "\x1b" not in page
    assert not re.search(r"(?<!\\)<img|(?<!\\)\]\(|(?<!\\)!\[|\n# h", page)
    capsys.readouterr()
    cite([str(file)])
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert said.splitlines()[0].startswith("% What")
    assert not said.splitlines()[1:2] or said.splitlines()[1] == ""


def test_the_page_says_why_an_import_may_fail(run: Path):
    """Where indices serve torchvision for CUDA beside a torch for CPUs, `import timm` ends in an error."""
    export(made(Path("wide"), Backbone("resnet18", 32)), ExportOptions("timm", Path("t.safetensors")))
    page = Path("t.safetensors.md").read_text()
    assert "operator torchvision::nms does not exist" in page
    assert "declare_operators" in page


def test_the_command_says_what_a_repository_is_called():
    with pytest.raises(ValueError, match="--repo needs OWNER/NAME and --to hub, not 'mine'"):
        ExportOptions("hub", repo="mine")
