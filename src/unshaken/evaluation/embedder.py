"""An encoder made ready to be measured: on the runtime's device, by its fast ways"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal

from torch import nn

from unshaken.compute.runtime import Runtime
from unshaken.nets.dual_bn import single_route
from unshaken.nets.network import Encoder, Network
from unshaken.train.computation_trial import fixed_computation


def embedder(encoder: Encoder, runtime: Runtime, copies: Literal["warn", "apart"] = "warn") -> Network:
    """Return a copy of an encoder as a network from images to its embeddings, in float32. Its one route is "shared".

    copies  as in `Runtime.open`
    """
    runtime = replace(fixed_computation(runtime, encoder), precision="float32", compile="no")
    net = Network(copy.deepcopy(single_route(encoder, "shared")), nn.Identity()).to(runtime.open(copies).device)
    runtime.prepare(net)
    return net.eval()
