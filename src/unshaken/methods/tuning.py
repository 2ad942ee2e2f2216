"""AnyTuning: the methods of fine-tuning, by name."""

from typing import Annotated

from unshaken.methods.base import Method
from unshaken.methods.supervised import AFF, ALF, SLF

AnyTuning = Annotated[Method, SLF | ALF | AFF]
"""A method of fine-tuning. On the command line it is one of these, by name."""
