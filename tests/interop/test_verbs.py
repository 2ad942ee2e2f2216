"""The three verbs as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_import_checkpoint import TABLE, TWO

from unshaken.commands.interop import export_, import_, verify
from unshaken.interop.class_names import CLASSES
from unshaken.layouts.published import LAYOUTS


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_from_a_published_file_to_one_of_ours_and_on(capsys):
    torch.save(TWO.container(TWO.made()[0]), "ACL_DS.pt")
    import_(["ACL_DS.pt", "--data", "cifar100", "--method=acl-air"])
    said = capsys.readouterr().out
    for words in (
        "under 'state_dict' beside epoch",
        "acl: ",
        "clean is branch 0, adv is branch 1",
        "(from the file)",
        "projection head (",
        "1 (assumed",
        "trained on     cifar100",
        "next: unshaken finetune runs/ACL_DS",
    ):
        assert words in said
    verify(["runs/ACL_DS"])
    export_(["runs/ACL_DS", "--out", "acl.safetensors", "--route", "clean"])
    assert "acl.safetensors.md" in capsys.readouterr().out
    verify(["acl.safetensors"])
    assert "imported from: ACL_DS.pt (sha256 " in Path("acl.safetensors.md").read_text()


def test_a_fine_tuned_file(capsys):
    row = TABLE["finetuned"]
    torch.save(row.container(row.made()[0]), "AFF.pt")
    import_(["AFF.pt", "--classes", "cifar10", "--mode", "aff", "--mean", "0.5", "0.5", "0.5", "--std", "1", "1", "1"])
    said = capsys.readouterr().out
    assert "mean [0.5, 0.5, 0.5], std [1.0, 1.0, 1.0] (as given)" in said
    assert "or: unshaken evaluate runs/AFF/aff-cifar10" in said


def test_help_lists_the_layouts(capsys):
    with pytest.raises(SystemExit) as done:
        import_(["--help"])
    assert not done.value.code
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in LAYOUTS)
    for verb in (import_, export_):
        with pytest.raises(SystemExit):
            verb(["x", "--help"])
    said = capsys.readouterr().out
    assert "--padding" in said
    assert "--route" in said


@pytest.mark.parametrize(
    ("verb", "args", "words"),
    [
        (import_, [], "needs FILE next"),
        (import_, ["x.pt", "--layot", "acl"], "did you mean --layout"),
        (import_, ["x.pt", "--layout", "ackl"], "there is no layout 'ackl'"),
        (import_, ["x.pt", "--padding", "3"], "--padding"),
        (import_, ["x.pt", "--image-size", "0"], "--image-size"),
        (export_, [], "needs RUN next"),
        (export_, ["nowhere"], "there is no file nowhere"),
        (export_, ["x", "--to", "tensorflow"], "--to"),
    ],
)
def test_mistakes_are_one_line(verb, args, words):
    with pytest.raises(ValueError, match=words) as caught:
        verb(args)
    assert "\n" not in str(caught.value)


def test_the_known_sets_have_their_classes():
    assert {name: len(set(words.split())) for name, words in CLASSES.items()} == {
        "cifar10": 10,
        "cifar100": 100,
        "stl10": 10,
        "imagenet": 1000,
    }
