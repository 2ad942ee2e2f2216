"""What a file says of places and of the network is not followed: it may be somebody else's."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from unshaken import cli
from unshaken.base.json_files import write_json
from unshaken.data.source import source_of
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import save_encoder


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def asked(*_: Any, **__: Any) -> None:
        pytest.fail("the network was looked for")

    monkeypatch.setattr(socket, "getaddrinfo", asked)


def sent(data: dict[str, Any]) -> Path:
    """An encoder that somebody sent, whose header speaks of places."""
    backbone = Backbone("resnet-small", 32)
    recipe = {"name": "simclr", "data": {"type": "DataSource", **data}, "seed": 0}
    save_encoder(Path("sent.safetensors"), backbone.build(), backbone, {"pretrain": {"recipe": recipe}})
    return Path("sent.safetensors")


@pytest.mark.parametrize("verb", [["finetune", "--mode", "slf"], ["finetune", "--mode", "autolora"]])
@pytest.mark.parametrize(
    "data",
    [
        {"name": "cifar10", "root": "elsewhere", "download": True},
        {"name": "stl10", "root": "elsewhere/deeper", "download": True},
        {"name": "elsewhere"},
        {"name": "/etc"},
    ],
    ids=str,
)
def test_a_header_makes_nothing_and_asks_no_server(verb: list[str], data: dict[str, Any], capsys):
    file = sent(data)
    before = sorted(Path().rglob("*"))
    assert cli.run([verb[0], str(file), *verb[1:]]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--data" in said
    assert "elsewhere" not in said
    assert sorted(Path().rglob("*")) == before


def test_the_own_run_s_places_are_kept():
    """A recipe that lies in its run may name a path, and a root that is there; what is not there is not made."""
    saved = {"type": "DataSource", "name": "photos", "root": "own", "download": True, "size": 64}
    Path("run").mkdir()
    assert source_of(saved, Path("run")).name == "unknown"
    write_json(Path("run/recipe.json"), {"recipe": {}})
    found = source_of(saved, Path("run"))
    assert (found.name, found.root, found.download, found.size) == ("photos", "data", False, 64)
    Path("own").mkdir()
    assert source_of(saved, Path("run")).root == "data"
    Path("own/cache").mkdir()
    assert source_of(saved, Path("run")).root == "own"


def test_an_unknown_set_is_asked_for():
    with pytest.raises(ValueError, match="are not known: name a set with --data"):
        source_of({"name": "/somewhere"}).load()
