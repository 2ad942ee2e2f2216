"""Published weights: nothing in them is run, their hash is checked, and no network is said at once."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import torch

from unshaken.nets.published_weights import from_hub, from_url, read_weights
from unshaken.nets.timm_nets import published_classifier, timm_net
from unshaken.nets.torchvision_ops import declare_operators

constants = pytest.importorskip("huggingface_hub.constants")


def timm_here() -> Any:
    """As the library imports it: beside a torch without CUDA, `import timm` by itself may end in an error."""
    declare_operators()
    return pytest.importorskip("timm")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it-ran",)


@pytest.fixture(autouse=True)
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Empty caches, and no network; the names of servers that were asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    servers: list[str] = []

    def unknown(host: str, *_: Any, **__: Any) -> None:
        servers.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    return servers


def cached(name: str, content: Any) -> Path:
    file = Path("torch/checkpoints") / name
    file.parent.mkdir(parents=True)
    torch.save(content, file)
    return file


def in_hub(repository: str, name: str, file: Path) -> None:
    """As the Hub's cache lays files out: named by their SHA-256, and linked."""
    folder = Path("hub") / f"models--{repository.replace('/', '--')}"
    blob = folder / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
    for directory in (blob.parent, folder / "refs", folder / "snapshots/c0ffee"):
        directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, blob)
    (folder / "refs/main").write_text("c0ffee")
    (folder / "snapshots/c0ffee" / name).symlink_to(f"../../blobs/{blob.name}")


@pytest.mark.parametrize("name", ["torchvision/resnet18"])
def test_a_hostile_file_in_the_cache_is_not_run(name: str):
    timm_here()
    cached("resnet18-f37072fd.pth", {"conv1.weight": Bomb()})
    with pytest.raises(ValueError, match="its SHA-256 begins with f37072fd, but it is") as caught:
        published_classifier(name)
    assert "\n" not in str(caught.value)
    assert not Path("it-ran").exists()


def test_code_beside_weights_of_the_right_hash_is_not_run(asked):
    """Where a name states no hash there is nothing to check it by, and still nothing runs."""
    file = cached("x.pth", {"a": torch.ones(2), "b": Bomb()})
    digits = hashlib.sha256(file.read_bytes()).hexdigest()
    shutil.copy(file, file.with_name(f"x-{digits[:8]}.pth"))
    for name in ("x", f"x-{digits[:8]}"):
        assert from_url(f"https://example.org/{name}.pth", name)["a"].tolist() == [1, 1]
    assert not Path("it-ran").exists()
    assert asked == []


def test_timm_s_weights_are_read_here(asked):
    timm = timm_here()
    made = timm.create_model("test_resnet")
    torch.save(made.state_dict() | {"note": Bomb()}, "w.bin")
    in_hub("timm/test_resnet.r160_in1k", "pytorch_model.bin", Path("w.bin"))
    net, _ = timm_net("test_resnet", 96, pretrained=True)
    assert torch.equal(net.state_dict()["layer1.0.conv1.weight"], made.state_dict()["layer1.0.conv1.weight"])
    assert not Path("it-ran").exists()
    assert asked == []
    blob = next(Path("hub").rglob("blobs/*"))
    blob.write_bytes(blob.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is damaged or another file"):
        timm_net("test_resnet", 96, pretrained=True)


@pytest.mark.parametrize("name", ["timm/test_resnet", "torchvision/resnet18"])
def test_no_network_is_said_at_once(name: str, asked, capsys):
    timm_here()
    published_classifier(name, pretrained=False)  # what is imported is imported now
    begun = monotonic()
    with pytest.raises(ValueError, match=f"the weights of {name} are not available: they are not on this machine") as c:
        published_classifier(name)
    assert monotonic() - begun < 10
    assert 1 <= len(asked) <= 2
    assert "\n" not in str(c.value)
    assert capsys.readouterr().err.count("\n") <= 1


def test_what_the_hub_lacks(monkeypatch):
    from huggingface_hub import file_download
    from huggingface_hub.errors import EntryNotFoundError

    def absent(*_: Any, **__: Any) -> None:
        raise EntryNotFoundError("no such file")

    monkeypatch.setattr(file_download, "get_hf_file_metadata", absent)
    with pytest.raises(ValueError, match=r"me/x has none of model.safetensors, pytorch_model.bin"):
        from_hub("me/x", "timm/x")


def test_weights_are_a_dictionary(tmp_path: Path):
    torch.save([1], "x.pt")
    with pytest.raises(ValueError, match="holds a list, not weights by name"):
        read_weights(Path("x.pt"))
