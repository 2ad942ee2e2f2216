"""TRADES: cross-entropy on clean images plus the KL from clean to adversarial logits."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from unshaken.base.types import Float, Int
from unshaken.losses.divergence import kl_rows


def trades(
    clean: Float[Tensor, "N K"], adv: Float[Tensor, "N K"], label: Int[Tensor, "N"], beta: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Return CE(clean, y) + β · KL(softmax(clean) ‖ softmax(adv)), then the CE and the KL; all are batch means.

    Zhang et al., ICML 2019, arXiv:1901.08573, eq. 5 with 1/λ = β.
    """
    natural, robust = cross_entropy(clean.float(), label), kl_rows(clean, adv).mean()
    return natural + beta * robust, natural, robust
