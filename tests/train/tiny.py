"""A recipe that takes a third of a second: ACL on 28 digits."""

from dataclasses import replace

import unshaken
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.methods.acl import ACL

RECIPE = replace(
    unshaken.recipe("acl/digits"),
    method=ACL(PGD(Linf(0.1), steps=1)),
    data=unshaken.DataSource("digits", limit=28),
    epochs=3,
    batch_size=8,
)
STEPS = 12
"""Three epochs of four batches: 8, 8, 8 and 4 images."""
