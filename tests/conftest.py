"""Shapes are checked while the tests run; helpers that lie beside a test are imported by their plain name."""

import gc
import os
import sys
from pathlib import Path

import pytest
from jaxtyping import config

HELPERS = (".", "bench", "train", "coreset", "runs", "corruptions", "interop", "faults", "board")
sys.path[:0] = [str(Path(__file__).parent / folder) for folder in HELPERS]

import checking  # noqa: E402 (it lies beside this file)

gc.disable()  # until thousands of tests are collected, which stay: a search among them frees nothing, and takes time

if not os.environ.get("UNSHAKEN_UNCHECKED"):
    checking.install()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_runtest_setup() -> None:
    checking.calls.clear()


@pytest.fixture
def unchecked(monkeypatch):
    """No shapes are checked: what torch compiles would else hold the checks too, and they cannot be compiled."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)
