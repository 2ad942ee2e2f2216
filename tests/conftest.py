"""Helpers that lie beside a test are imported by their plain name."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / folder) for folder in ("train", "coreset", "recipes", "pixels", "board")]
