"""Networks as others publish them are imported by their plain name; the ONNX exporter lists its operators once."""

import sys
from functools import cache
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent)]


@pytest.fixture(autouse=True)
def one_list_of_operators() -> None:
    """Where the exporter is loaded: it would list them anew for each export, which takes as long as the rest of it."""
    exporter = sys.modules.get("torch.onnx._internal.exporter._registration")
    if exporter and not hasattr(exporter.ONNXRegistry.from_torchlib, "cache_info"):
        exporter.ONNXRegistry.from_torchlib = staticmethod(cache(exporter.ONNXRegistry.from_torchlib))
