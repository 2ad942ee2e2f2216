"""A recipe that takes a second: ACL on a hundred digits."""

from dataclasses import replace

import unshaken
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.methods.acl import ACL

RECIPE = replace(
    unshaken.recipe("acl/digits"),
    method=ACL(PGD(Linf(0.1), steps=1)),
    data=unshaken.DataSource("digits", limit=100),
    epochs=3,
    batch_size=32,
)
STEPS = 12
"""Three epochs of four batches: 32, 32, 32 and 4 images."""
