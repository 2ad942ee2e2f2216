"""Losses: scalars from embeddings and logits."""

from unshaken.base.lazy_names import lazy_names

__getattr__, __dir__, __all__ = lazy_names(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "nt_xent": "contrastive",
        "info_nce": "contrastive",
        "kl_rows": "divergence",
        "js_rows": "divergence",
        "representational_divergence": "divergence",
        "effective_rank": "representation",
        "alignment": "representation",
        "uniformity": "representation",
        "displacement": "representation",
        "neighbour_flips": "representation",
        "knn_accuracy": "representation",
    },
)
