"""Precision reaches the network's layers and nothing else; the world names no place."""

import torch

import unshaken
from unshaken.base.canon import canonical
from unshaken.base.keys import Key
from unshaken.methods.acl import ACL
from unshaken.threat.ball import Linf
from unshaken.threat.pgd import PGD
from unshaken.train.runtime import Runtime


def test_bf16_is_close_and_comes_out_as_float32():
    """Attack loss and embeddings in bf16 agree with float32 to its 8 bits; the perturbation is float32."""
    recipe = unshaken.recipe("acl/digits")
    net = recipe.embedder().eval()
    x = recipe.data.load("train")[:32].floats()
    exact = net(x, "adv")
    Runtime(precision="bf16").prepare(net)
    rough = net(x, "adv")
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert torch.nn.functional.cosine_similarity(rough, exact).min() > 0.99
    views = torch.stack([x, x.flip(-1)])
    x_adv = ACL(PGD(Linf(0.1), 2)).adversarial(net, views, Key(0))
    assert x_adv.dtype == torch.float32
    assert (x_adv - views).abs().max() <= 0.1 + 1e-6


def test_the_world_is_plain_and_names_no_place():
    world = Runtime().world(torch.device("cpu"))
    assert {"torch", "python", "device", "threads", "precision"} <= set(world)
    assert "/" not in canonical(world)


def test_convolutions_take_the_fast_layout():
    net = unshaken.recipe("acl/digits").embedder()
    Runtime().prepare(net)
    weights = [p for p in net.parameters() if p.ndim == 4 and p.shape[1] > 1]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
