"""Class embeddings by open_clip's text tower are those of open_clip's own function."""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from unshaken import cli
from unshaken.evaluation.class_embeddings import read_class_embeddings
from unshaken.evaluation.text_embeddings import text_embeddings
from unshaken.nets.timm_nets import timm_package

lacking = [name for name in ("timm", "open_clip") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(lacking), reason=f"{', '.join(lacking)} is not installed")
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VISION = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    timm_package()
    import open_clip
    from safetensors.torch import save_file

    place = tmp_path_factory.mktemp("clip")
    model_cfg = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = open_clip.CLIP(24, open_clip.CLIPVisionCfg(**VISION), open_clip.CLIPTextCfg(**TEXT)).eval()
        save_file(model.state_dict(), place / "open_clip_model.safetensors")
        how = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
        (place / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": how}))
        yield place, model


@pytest.mark.filterwarnings("ignore")
def test_they_are_those_of_open_clip(folder, tmp_path: Path, capsys):
    import open_clip

    place, model = folder
    names, templates = ["cat", "fire truck"], ["a photo of a {}.", "a drawing of a {}."]
    (tmp_path / "names.txt").write_text("\n".join(names))
    (tmp_path / "templates.txt").write_text("\n".join(templates))
    args = ["text-embeddings", str(place), "--names", str(tmp_path / "names.txt")]
    args += ["--templates", str(tmp_path / "templates.txt"), "--out", str(tmp_path / "c.safetensors")]
    assert cli.run(args) == 0
    found = read_class_embeddings(tmp_path / "c.safetensors", 24)
    theirs = open_clip.build_zero_shot_classifier(
        model, open_clip.get_tokenizer("ViT-B-32"), names, [lambda c, t=t: t.format(c) for t in templates]
    )
    assert torch.allclose(found.weight, theirs.T, atol=1e-6)
    assert found.names == tuple(names)
    assert found.scale == pytest.approx(float(model.logit_scale.exp()), rel=1e-5)
    assert cli.run(args) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_template_has_a_place_for_the_class(folder):
    with pytest.raises(ValueError, match="and 'a photo' has none"):
        text_embeddings(str(folder[0]), ["cat"], ["a photo"])
