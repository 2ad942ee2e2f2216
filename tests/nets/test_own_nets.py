"""Networks of a user's own are built by name or given as objects; an edit makes another run; a file runs no code."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import unshaken
from processes import Forked
from unshaken.base.serialize import short_hash, to_json
from unshaken.interop.export import ExportOptions
from unshaken.nets import own_nets
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import load_encoder, read_tensors, save_encoder
from unshaken.nets.dual_bn import routes_of

SOURCE = """
from torch import nn

def net(width=4, channels=1):
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(), *pooled)

def maps():
    return nn.Conv2d(1, 4, 3)

def no_net():
    return 3
"""
QUICK = replace(unshaken.recipe("acl/digits"), epochs=1, batch_size=48, data=unshaken.DataSource("digits", limit=48))


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name is allowed yet, and none is remembered after the test."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(own_nets, "_allowed", set())
    monkeypatch.setattr(own_nets, "_given", {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SOURCE)


def read_anew() -> None:
    """Forget the modules of files that were read."""
    for name in [name for name in sys.modules if name.startswith("unshaken_own_")]:
        del sys.modules[name]


def own(function: str = "net", args: str = "") -> Backbone:
    own_nets.allow(f"mine.py:{function}")
    return Backbone(f"mine.py:{function}", 8, 1, (0.5,), (0.5,), args=args)


def test_a_name_builds_the_network_with_its_arguments() -> None:
    encoder = own(args="width=6").build()
    assert encoder.features == 6
    assert encoder(torch.rand(3, 1, 8, 8)).shape == (3, 6)
    assert encoder.training


def test_an_edit_is_another_run_and_a_comment_is_not(tmp_path: Path) -> None:
    first = short_hash(replace(QUICK, backbone=own()))
    assert short_hash(replace(QUICK, backbone=own(args="width=5"))) != first
    for text, same in ((SOURCE + "# a comment\n", True), (SOURCE.replace("ReLU", "GELU"), False)):
        (tmp_path / "mine.py").write_text(text)
        read_anew()
        assert (short_hash(replace(QUICK, backbone=own())) == first) is same


def test_an_edit_of_equal_length_in_the_same_second_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    own().build()
    then = file.stat()
    file.write_text(SOURCE.replace("nn.ReLU()", "nn.GELU()"))
    os.utime(file, ns=(then.st_atime_ns, then.st_mtime_ns))
    read_anew()
    assert "GELU" in repr(own().build())
    assert not (tmp_path / "__pycache__").exists()


def test_a_file_of_weights_runs_no_code_until_it_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, file = own(), tmp_path / "encoder.safetensors"
    encoder = backbone.build()
    save_encoder(file, encoder, backbone, {})
    own_nets._allowed.clear()
    (tmp_path / "mine.py").write_text("raise SystemExit('this code ran')")
    with pytest.raises(ValueError, match=f"to allow it, set UNSHAKEN_NETWORKS={tmp_path}/mine.py:net"):
        load_encoder(file)
    (tmp_path / "mine.py").write_text(SOURCE.replace("nn.ReLU()", "nn.GELU()"))
    read_anew()
    monkeypatch.setenv(own_nets.VARIABLE, "other.py:f, mine.py:net")
    found, again, _ = load_encoder(file)
    assert all(
        torch.equal(a, b) for a, b in zip(found.state_dict().values(), encoder.state_dict().values(), strict=True)
    )
    assert again == backbone
    assert "mine.py:net has been edited since" in capsys.readouterr().err


def test_a_run_by_name_goes_on_in_another_process(tmp_path: Path) -> None:
    run = unshaken.pretrain(replace(QUICK, backbone=own()), unshaken.Workspace(tmp_path / "runs", quiet=True))
    assert routes_of(load_encoder(run / "encoder.safetensors")[0]) == ("clean", "adv")

    def later() -> None:
        own_nets._allowed.clear()
        read_anew()
        print(load_encoder(run / "encoder.safetensors")[0].features)

    out, err = Forked(later).communicate()
    assert out == b"4\n", err.decode()


def test_in_another_folder_the_given_file_of_that_name_stands_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, file, elsewhere = own(), tmp_path / "encoder.safetensors", tmp_path / "elsewhere"
    save_encoder(file, backbone.build(), backbone, {})
    assert str(tmp_path) not in str(read_tensors(file)[1])
    own_nets._allowed.clear()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(ValueError, match=r"set UNSHAKEN_NETWORKS=/path/to/mine\.py:net"):
        load_encoder(file)
    monkeypatch.setenv(own_nets.VARIABLE, f"{tmp_path}/mine.py:net")
    assert load_encoder(file)[0].features == 4
    assert f"mine.py:net is taken from {tmp_path}/mine.py" in capsys.readouterr().err
    own_nets.remember("mine.py:net")  # the place that was found, not a file of this folder
    monkeypatch.delenv(own_nets.VARIABLE)
    assert load_encoder(file)[0].features == 4
    (elsewhere / "mine.py").write_text(SOURCE)  # a file that nobody gave is not run, and not passed over
    with pytest.raises(ValueError, match=f"set UNSHAKEN_NETWORKS={elsewhere}/mine.py:net"):
        load_encoder(file)
    (elsewhere / "mine.py").rename(tmp_path / "elsewhere" / "other.py")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "mine.py").write_text(SOURCE)
    own_nets.allow(f"{tmp_path}/more/mine.py:net")
    with pytest.raises(ValueError, match=r"mine\.py:net may be .*: say which by UNSHAKEN_NETWORKS="):
        load_encoder(file)


def test_an_export_has_no_folder_of_this_machine(tmp_path: Path) -> None:
    path = f"{tmp_path}/mine.py:net"
    own_nets.allow(path)
    backbone, file = Backbone(path, 8, 1, (0.5,), (0.5,)), tmp_path / "encoder.safetensors"
    save_encoder(file, backbone.build(), backbone, {})
    out = unshaken.export(file, ExportOptions(to="safetensors", out=tmp_path / "out.safetensors"))
    assert str(tmp_path) not in str(read_tensors(out)[1])
    assert load_encoder(out)[0].features == 4


def test_a_given_module_trains_from_its_weights_and_is_given_again_to_load(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    backbone = Backbone.of(net, image_size=8, channels=1)
    assert torch.equal(backbone.build().backbone[0].weight, net[0].weight)
    assert "module" not in to_json(backbone)
    run = unshaken.pretrain(replace(QUICK, backbone=backbone), unshaken.Workspace(tmp_path / "runs", quiet=True))
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in before)
    file = run / "encoder.safetensors"
    assert not torch.equal(load_encoder(file)[0].backbone[0].weight, net[0].weight)
    own_nets._given.clear()
    with pytest.raises(ValueError, match=r"given as an object, and no name builds it: .* unshaken.Backbone.of\(net\)"):
        load_encoder(file)
    like = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert Backbone.of(like, image_size=8, channels=1).name == backbone.name
    assert Backbone.of(like, image_size=8, channels=1).code != backbone.code
    assert load_encoder(file)[0].features == 3


def test_what_does_not_fit_is_said_in_one_line() -> None:
    cases = {
        r"has no 'nett'; did you mean net\?": own("nett"),
        r"has to return one vector for each image, .* it returns \(2, 4, 6, 6\)": own("maps"),
        "returned a int, and an encoder is a torch.nn.Module": own("no_net"),
        r"has no argument 'depth'; it has width, channels": own(args="depth=3"),
        "fails on images of 1 x 8 x 8": own(args="channels=3"),
    }
    for words, backbone in cases.items():
        with pytest.raises(ValueError, match=words):
            backbone.build()
    own_nets.allow("none.py:net")
    with pytest.raises(ValueError, match=r"there is no file none\.py"):
        Backbone("none.py:net", 8, 1, (0.5,), (0.5,)).build()
    own_nets.allow("no_such_package.nets:net")
    with pytest.raises(ValueError, match=r"no module 'no_such_package\.nets' can be imported"):
        Backbone("no_such_package.nets:net").build()
    with pytest.raises(ValueError, match="arguments are written width=64"):
        own(args="64")
    with pytest.raises(ValueError, match="only a function of your own has arguments"):
        Backbone(args="width=3")
