"""The comparison of networks: its sides make the same step, and the command runs."""

import pytest
import torch
from bench.networks import PLAIN, QUICK, prepared
from bench.step import sides
from compared import compared

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.compute.runtime import Runtime
from unshaken.methods.acl import ACL
from unshaken.methods.deacl import DeACL

START = PGD(Linf(4 / 255), steps=1, rel_step_size=1e-6)


@pytest.mark.parametrize("method", [ACL(START), DeACL(START)], ids=["acl", "deacl"])
def test_all_sides_compute_the_same_gradients(method):
    """At an attack's random start: on a new network, rounding turns the signs of its steps."""
    found = []
    for ways in (("auto",), *PLAIN.values()):
        step = prepared(QUICK[0], method, Runtime("cpu", computation=ways))
        step(Key(2))
        module = step.__closure__[step.__code__.co_freevars.index("step")].cell_contents
        found.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]))
    assert all(torch.cosine_similarity(found[0], other, 0) > 0.999 for other in found[1:])


@pytest.mark.extra
def test_the_comparison_runs():
    result = compared("networks", "--quick", "--rounds", "1")
    assert (result["name"], result["n"], len(result["rows"])) == ("networks", 1, 4 * len(sides()))
