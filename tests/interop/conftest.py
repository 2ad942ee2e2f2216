"""The networks as others publish them are imported by their plain name."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent)]
