"""Zero-shot under attack: a robust accuracy known in closed form, files of class embeddings, results checked again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unshaken import cli
from unshaken.attacks.autoattack import AutoAttack
from unshaken.attacks.ball import Linf
from unshaken.attacks.base import Model
from unshaken.base.rng import Key
from unshaken.evaluation.class_embeddings import ClassEmbeddings, read_class_embeddings
from unshaken.evaluation.zero_shot import ZeroShot, check_encoder
from unshaken.interop.fingerprint import fingerprint
from unshaken.interop.load import LoadedModel
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import save_encoder
from unshaken.nets.network import Encoder, Normalize, seeded


def drawn(*shape: int, key: str = "w") -> Tensor:
    return torch.randn(shape, generator=Key(key).on("cpu"))


def linear_encoder(width: int) -> tuple[Encoder, Tensor]:
    """f(x) = A x, so that for two unit vectors t the sign of cos(f, t₀) − cos(f, t₁) is that of (t₀ − t₁)ᵀ A x."""
    layer = nn.Linear(3 * 4 * 4, width, bias=False)
    layer.weight.data = drawn(width, 48)
    net = nn.Sequential(nn.Flatten(), layer)
    return Encoder(Normalize((0.5,) * 3, (1.0,) * 3), net, width).requires_grad_(False), layer.weight


def test_robust_accuracy_is_that_of_the_closed_form():
    """|wᵀ(x − ½)| > ε ‖w‖₁ with w = Aᵀ(t₀ − t₁): no pixel reaches 0 or 1, so an image is robust if and only if so."""
    encoder, a = linear_encoder(6)
    t = nn.functional.normalize(drawn(2, 6, key="t"), dim=1)
    x = 0.5 + 0.2 * torch.rand(200, 3, 4, 4, generator=Key("x").on("cpu")) - 0.1
    w, eps = (t[0] - t[1]) @ a, 0.006
    score = (x - 0.5).flatten(1) @ w
    y = (score < 0).long()
    robust = score.abs() > eps * w.abs().sum()
    clear = (score.abs() - eps * w.abs().sum()).abs() > 1e-3 * score.abs().max()
    assert 20 < int(robust.sum()) < 180
    model = Model(ZeroShot(encoder, ClassEmbeddings(t)))
    x_adv = AutoAttack(Linf(eps), "apgd", steps=30)(model, x, y, Key(0))
    withstood = (x_adv == x).flatten(1).all(1)
    assert torch.equal(withstood[clear], robust[clear])


def test_the_logits_are_scaled_cosines_with_a_bias():
    encoder, _ = linear_encoder(6)
    t, x = nn.functional.normalize(drawn(3, 6, key="t"), dim=1), torch.rand(2, 3, 4, 4, generator=Key("x").on("cpu"))
    cosine = nn.functional.cosine_similarity(encoder(x)[:, None], t[None], dim=-1)
    assert torch.allclose(ZeroShot(encoder, ClassEmbeddings(t))(x), 100 * cosine, atol=1e-3)
    shifted = ZeroShot(encoder, ClassEmbeddings(t, scale=10.0, bias=torch.tensor([1.0, 2.0, 3.0])))(x)
    assert torch.allclose(shifted, 10 * cosine + torch.tensor([1.0, 2.0, 3.0]), atol=1e-4)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
def test_a_bare_matrix_is_turned_by_the_encoders_width(suffix, turned, tmp_path: Path, capsys):
    weight = drawn(3, 6)
    file, matrix = tmp_path / f"w{suffix}", weight.T.contiguous() if turned else weight
    if suffix == ".pt":
        torch.save(matrix, file)
    else:
        (np.save if suffix == ".npy" else np.savez)(file, matrix.numpy())
    file.with_suffix(".txt").write_text("cat\n\ndog\nbird\n")
    found = read_class_embeddings(file, 6)
    assert torch.allclose(found.weight, nn.functional.normalize(weight, dim=1))
    assert found.names == ("cat", "dog", "bird")
    assert "scaled to 1" in capsys.readouterr().err


def test_a_file_comes_back(tmp_path: Path, capsys):
    weight = nn.functional.normalize(drawn(2, 6), dim=1)
    given = ClassEmbeddings(weight, ("é", "b"), 12.5, torch.tensor([1.0, 2.0]), "ab" * 32, {"templates": ["a {}."]})
    given.write(tmp_path / "c.safetensors")
    found = read_class_embeddings(tmp_path / "c.safetensors", 6)
    assert torch.allclose(found.weight, weight)
    assert (found.names, found.scale, found.encoder) == (given.names, 12.5, given.encoder)
    assert torch.equal(found.bias, given.bias)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("weight", "names", "words"),
    [
        (drawn(2, 5), (), "the encoder gives 6 features"),
        (drawn(6, 6), (), "square matrix"),
        (torch.zeros(2, 6), (), "a vector of zeros"),
        (drawn(2, 6), ("a",), "2 vectors and 1 names"),
    ],
)
def test_what_does_not_fit_is_one_line(weight, names, words, tmp_path: Path):
    torch.save(weight, tmp_path / "w.pt")
    (tmp_path / "w.txt").write_text("\n".join(names))
    with pytest.raises(ValueError, match=words):
        read_class_embeddings(tmp_path / "w.pt", 6)


def test_the_space_of_another_encoder_is_refused(capsys):
    about = {"pretrain": {"file": {"name": "x", "sha256": "1" * 64}}}
    ours, others = ClassEmbeddings(drawn(2, 6), encoder="1" * 64), ClassEmbeddings(drawn(2, 6), encoder="2" * 64)
    check_encoder(ours, about, Path("c"), False)
    with pytest.raises(ValueError, match="their spaces are unrelated"):
        check_encoder(others, about, Path("c"), False)
    check_encoder(others, about, Path("c"), True)
    assert capsys.readouterr().err == ""
    check_encoder(others, {}, Path("c"), False)
    assert "does not say for which encoder" in capsys.readouterr().err


def test_an_evaluation_writes_a_result_that_is_checked_again(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    backbone = Backbone("resnet-small", 8, channels=1, mean=(0.5,), std=(0.5,))
    encoder = seeded(backbone.build, Key(0)).eval()
    about = {"pretrain": {"recipe": {"name": "acl"}}, "fingerprint": fingerprint(LoadedModel(encoder, backbone, {}))}
    save_encoder(tmp_path / "run/encoder.safetensors", encoder, backbone, about)
    names = tuple(map(str, range(10)))
    ClassEmbeddings(nn.functional.normalize(drawn(10, 64), dim=1), names[::-1]).write(tmp_path / "c.safetensors")
    options = ["--class-embeddings", "c.safetensors", "--data", "digits", "--limit", "16", "--attack.steps", "2"]
    assert cli.run(["evaluate", "run", *options]) == 0
    (file,) = (tmp_path / "run").rglob("result*.json")
    recipe = json.loads(file.read_text())["finetune"]["recipe"]
    assert recipe["zero_shot"]["scale"] == 100
    assert recipe["classes"] == {name: 9 - k for k, name in enumerate(names)}
    assert cli.run(["verify", str(file), "--data", "digits", "--sample", "5"]) == 0
    assert "agrees" in capsys.readouterr().out
