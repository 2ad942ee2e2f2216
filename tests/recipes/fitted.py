"""A finished run of fine-tuning that takes no training: least squares on the features of an encoder as it was born."""

from pathlib import Path

import torch
from torch.nn.functional import one_hot

from unshaken.base.canon import plain
from unshaken.base.files import write_json
from unshaken.base.keys import Key
from unshaken.data.source import Source
from unshaken.exchange.fingerprint import stamped
from unshaken.nets.backbone import Backbone
from unshaken.nets.embed import Network, born
from unshaken.nets.heads import zero_classifier
from unshaken.nets.saved import digest, save_classifier
from unshaken.recipes.finetune import Finetune
from unshaken.tune.linear import SLF


@torch.no_grad()
def least_squares(seed: int, ridge: float = 1.0) -> Network:
    """On digits; right on most clean images."""
    data = Source("digits").load("train")
    encoder = born(Backbone("resnet-small", 8, 1, (0.5,), (0.5,)).build, Key(seed))
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
    recipe = plain(Finetune(SLF(), Source("digits"))) | {"method": {"type": mode}}
    origin = {"recipe": {"type": "Pretrain", "name": "simclr", "data": plain(Source("digits")), "seed": 1}}
    about = {"finetune": {"recipe": recipe, "data": {}}, "pretrain": origin}
    backbone = Backbone("resnet-small", 8, 1, (0.5,), (0.5,))
    save_classifier(folder / "classifier.safetensors", net, backbone, Source("digits").load("test").names, about)
    stamped(folder)
    write_json(folder / "recipe.json", {"recipe": recipe, "data": {}})
    write_json(folder / "run.json", {"digest": digest(net), "seconds": 1.0, "world": {}})
    return folder
