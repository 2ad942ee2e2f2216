"""AnySelector: all selectors, by name for --coreset."""

from typing import Annotated

from unshaken.coreset.kmeans_margin import KMeansMargin
from unshaken.coreset.rcs import RCS
from unshaken.coreset.selector import All, Random, Ranked, Selector
from unshaken.coreset.submodular import FacilityLocation, GradientMatching, KCenter

AnySelector = Annotated[
    Selector, RCS | Random | KCenter | FacilityLocation | GradientMatching | KMeansMargin | Ranked | All
]
"""A selector. On the command line it is one of these, by name."""
