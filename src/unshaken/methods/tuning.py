"""Layer 4: methods with labels, on an encoder that exists."""

from typing import Annotated

from unshaken.methods.base import Method
from unshaken.methods.full import AFF
from unshaken.methods.linear import ALF, SLF

AnyTuning = Annotated[Method, SLF | ALF | AFF]
"""A method of fine-tuning; by name from a command line, one of these."""
