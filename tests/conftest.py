"""Shapes are checked while the tests run; helpers that lie beside a test are imported by their plain name."""

import os
import sys
from pathlib import Path

import pytest
from jaxtyping import config, install_import_hook

HELPERS = (".", "train", "coreset", "runs", "corruptions", "interop", "faults", "board")
sys.path[:0] = [str(Path(__file__).parent / folder) for folder in HELPERS]

if not os.environ.get("UNSHAKEN_UNCHECKED"):
    install_import_hook("unshaken", "checking.checked")


@pytest.fixture
def unchecked(monkeypatch):
    """No shapes are checked: what torch compiles would else hold the checks too, and they cannot be compiled."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)
