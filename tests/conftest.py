"""Shapes are checked while the tests run; helpers that lie beside a test are imported by their plain name."""

import os
import sys
from pathlib import Path

from jaxtyping import install_import_hook

HELPERS = (".", "train", "coreset", "recipes", "pixels", "exchange", "faults", "board")
sys.path[:0] = [str(Path(__file__).parent / folder) for folder in HELPERS]

if not os.environ.get("UNSHAKEN_UNCHECKED"):
    install_import_hook("unshaken", "checking.checked")
