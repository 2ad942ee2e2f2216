"""Robust vision encoders, learned without labels.

    import unshaken
    encoder = unshaken.recipe("acl/digits").run()
    classifier = unshaken.protocol("slf", encoder).run(encoder)
    result = unshaken.examine(classifier)

Importing this does not import torch; the first use of a name does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what an editor reads: the same names as below
    from unshaken.data.images import Images as Images
    from unshaken.data.source import Source as Source
    from unshaken.evaluate.exam import Exam as Exam
    from unshaken.exchange.exporting import Exporting as Exporting
    from unshaken.exchange.exporting import export as export
    from unshaken.exchange.importing import Importing as Importing
    from unshaken.exchange.writing import import_file as import_file
    from unshaken.nets.backbone import Backbone as Backbone
    from unshaken.nets.saved import load_classifier as load_classifier
    from unshaken.nets.saved import load_encoder as load_encoder
    from unshaken.recipes.examine import examine as examine
    from unshaken.recipes.finetune import Finetune as Finetune
    from unshaken.recipes.finetune import protocol as protocol
    from unshaken.recipes.papers import recipe as recipe
    from unshaken.recipes.pretrain import Pretrain as Pretrain
    from unshaken.train.runtime import Runtime as Runtime

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

__all__ = ["__version__", *_WHERE]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"unshaken has no {name!r}; it has {', '.join(_WHERE)}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
