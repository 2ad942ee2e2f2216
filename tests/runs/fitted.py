"""A finished run of fine-tuning that takes no training: least squares on the features of an encoder as it was born."""

import copy
from functools import cache
from pathlib import Path

import torch
from torch.nn.functional import one_hot

from unshaken.base.json_files import write_json
from unshaken.base.rng import Key
from unshaken.base.serialize import to_json
from unshaken.data.source import DataSource
from unshaken.interop.fingerprint import write_fingerprint
from unshaken.methods.supervised import SLF
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import digest, save_classifier
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Network, seeded
from unshaken.recipes.finetune import Finetune


def least_squares(seed: int, ridge: float = 1.0) -> Network:
    """On digits; right on most clean images. Each call gives a network of its own."""
    return copy.deepcopy(_solved(seed, ridge))


@cache
@torch.no_grad()
def _solved(seed: int, ridge: float) -> Network:
    data = DataSource("digits").load("train")
    encoder = seeded(Backbone("resnet-small", 8, 1, (0.5,), (0.5,)).build, Key(seed))
    encoder.train()(data.floats())  # its batch norms' statistics
    encoder.eval()
    f = torch.cat([encoder(data.floats(slice(at, at + 256))) for at in range(0, len(data), 256)]).double()
    f = torch.cat([f, torch.ones(len(f), 1)], 1)
    theta = torch.linalg.solve(f.T @ f + ridge * torch.eye(f.shape[1]), f.T @ one_hot(data.label, 10).double())
    head = zero_classifier(encoder.features, 10)
    head.weight.copy_(theta[:-1].T)
    head.bias.copy_(theta[-1])
    return Network(encoder, head).eval()


def write_run(folder: Path, net: Network, mode: str = "SLF") -> Path:
    recipe = to_json(Finetune(SLF(), DataSource("digits"))) | {"method": {"type": mode}}
    origin = {"recipe": {"type": "Pretrain", "name": "simclr", "data": to_json(DataSource("digits")), "seed": 1}}
    about = {"finetune": {"recipe": recipe, "data": {}}, "pretrain": origin}
    backbone = Backbone("resnet-small", 8, 1, (0.5,), (0.5,))
    save_classifier(folder / "classifier.safetensors", net, backbone, DataSource("digits").load("test").names, about)
    write_fingerprint(folder)
    write_json(folder / "recipe.json", {"recipe": recipe, "data": {}})
    write_json(folder / "run.json", {"digest": digest(net), "seconds": 1.0, "world": {}})
    return folder
