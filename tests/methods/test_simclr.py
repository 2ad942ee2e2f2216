"""SimCLR: NT-Xent of the clean views, in one forward pass."""

import torch

from unshaken.base.rng import Key
from unshaken.losses.contrastive import nt_xent
from unshaken.methods.simclr import SimCLR
from unshaken.nets.dual_bn import merge_route


def test_the_loss_is_nt_xent_through_the_clean_route(net, batch, clock, calls):
    terms = SimCLR(tau=0.2).loss(net, batch, clock, Key(0))
    (call,) = calls
    assert call.x is batch.views
    assert (call.route, call.modes) == ("clean", {True})
    assert torch.equal(terms["loss"], nt_xent(call.z, 0.2))


def test_a_plain_network_gives_the_loss_of_the_clean_route(net, batch, clock):
    lone = merge_route(net, "clean")
    expected = SimCLR().loss(net, batch, clock, Key(0))
    assert torch.equal(SimCLR().loss(lone, batch, clock, Key(0))["loss"], expected["loss"])
