"""Helpers that lie beside a test are imported by their plain name."""

import sys
from pathlib import Path

FOLDERS = ("train", "coreset", "recipes", "pixels", "board", "faults")
sys.path[:0] = [str(Path(__file__).parent / folder) for folder in FOLDERS]
