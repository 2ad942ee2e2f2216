"""Helpers that lie beside a test are imported by their plain name."""

import sys
from pathlib import Path

HELPERS = (".", "train", "coreset", "recipes", "pixels", "exchange", "faults", "board")
sys.path[:0] = [str(Path(__file__).parent / folder) for folder in HELPERS]
