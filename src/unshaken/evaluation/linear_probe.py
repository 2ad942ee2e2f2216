"""Linear probe: logistic regression on the features of a frozen encoder, as a classifier to evaluate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unshaken.base.types import Float, Int
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.evaluation.embedder import embedder
from unshaken.nets.dual_bn import single_route
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Encoder, Network, device_of, frozen

CHUNK = 128
"""Images in a forward pass."""
STEPS = 100
"""Iterations of L-BFGS at most."""


def features_of(net: Network, images: Images) -> Float[Tensor, "N D"]:
    """Return the embeddings of all images, by a network of `embedder`, on the CPU."""
    device = device_of(net)
    with frozen(net), torch.no_grad():
        slices = [slice(at, at + CHUNK) for at in range(0, len(images), CHUNK)]
        return torch.cat([net(images.floats(chunk).to(device), "shared").cpu() for chunk in slices])


def linear_probe(f: Float[Tensor, "N D"], label: Int[Tensor, "N"], classes: int, decay: float = 0.1) -> nn.Linear:
    """Fit min E [CE(W z + b, y)] + decay ‖W‖² on features with mean 0 and variance 1, z = (f − μ)/σ.

    The layer that is returned takes f: μ and σ are in its weights. It is a convex problem, so that the result depends
    on no seed.
    """
    mean, std = f.mean(0), f.std(0).clamp(min=1e-3)
    z, layer = (f - mean) / std, zero_classifier(f.shape[1], classes).to(f)
    rule = torch.optim.LBFGS(layer.parameters(), max_iter=STEPS, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        rule.zero_grad()
        loss = nn.functional.cross_entropy(layer(z), label) + decay * layer.weight.square().sum()
        loss.backward()
        return loss

    rule.step(objective)
    with torch.no_grad():
        layer.weight /= std
        layer.bias.sub_(layer.weight @ mean)
    return layer.requires_grad_(False)


def probed(encoder: Encoder, images: Images, runtime: Runtime = Runtime()) -> Network:
    """Return the classifier of a linear probe that is fitted on labelled images, as they are."""
    assert images.label is not None
    f = features_of(embedder(encoder, runtime, "apart"), images)
    return Network(single_route(encoder, "shared"), linear_probe(f, images.label.cpu(), len(images.names))).eval()
