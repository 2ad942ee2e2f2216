"""Robust vision encoders, learned without labels.

    import unshaken
    encoder = unshaken.recipe("acl/digits").run()
    classifier = unshaken.protocol("slf", encoder).run(encoder)
    result = unshaken.examine(classifier)

Importing this does not import torch; the first use of a name does.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "recipe": "unshaken.recipes.papers",
    "Pretrain": "unshaken.recipes.pretrain",
    "Finetune": "unshaken.recipes.finetune",
    "protocol": "unshaken.recipes.finetune",
    "Exam": "unshaken.evaluate.exam",
    "examine": "unshaken.recipes.examine",
    "Source": "unshaken.data.source",
    "Images": "unshaken.data.images",
    "Runtime": "unshaken.train.runtime",
    "Backbone": "unshaken.nets.backbone",
    "load_encoder": "unshaken.nets.saved",
    "load_classifier": "unshaken.nets.saved",
    "Importing": "unshaken.exchange.importing",
    "import_file": "unshaken.exchange.writing",
    "Exporting": "unshaken.exchange.exporting",
    "export": "unshaken.exchange.exporting",
}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"unshaken has no {name!r}; it has {', '.join(_WHERE)}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
