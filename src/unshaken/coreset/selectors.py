"""AnySelector: all selectors there are, which --coreset takes by name"""

from typing import Annotated

from unshaken.coreset.rcs import RCS
from unshaken.coreset.selector import All, Random, Ranked, Selector
from unshaken.coreset.submodular import FacilityLocation, GradientMatching, KCenter

AnySelector = Annotated[Selector, RCS | Random | KCenter | FacilityLocation | GradientMatching | Ranked | All]
"""A selector; by name from a command line, one of these."""
