"""Robust vision encoders, learned without labels.

    import unshaken
    encoder = unshaken.pretrain("acl/digits")
    classifier = unshaken.finetune(encoder, "slf")
    result = unshaken.evaluate(classifier)

Importing this does not import torch; the first use of a name does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what an editor reads: the same names as below
    from unshaken.attacks.autoattack import AutoAttack as AutoAttack
    from unshaken.attacks.ball import L1 as L1
    from unshaken.attacks.ball import L2 as L2
    from unshaken.attacks.ball import Linf as Linf
    from unshaken.attacks.base import Attack as Attack
    from unshaken.attacks.pgd import PGD as PGD
    from unshaken.compute.runtime import Runtime as Runtime
    from unshaken.data.images import Images as Images
    from unshaken.data.source import DataSource as DataSource
    from unshaken.evaluation.protocol import Evaluation as Evaluation
    from unshaken.interop.export import ExportOptions as ExportOptions
    from unshaken.interop.export import export as export
    from unshaken.interop.import_checkpoint import ImportOptions as ImportOptions
    from unshaken.interop.imported_files import import_file as import_file
    from unshaken.methods.base import Method as Method
    from unshaken.nets.backbone import Backbone as Backbone
    from unshaken.nets.checkpoint import load_classifier as load_classifier
    from unshaken.nets.checkpoint import load_encoder as load_encoder
    from unshaken.recipes.catalog import recipe as recipe
    from unshaken.recipes.finetune import Finetune as Finetune
    from unshaken.recipes.pretrain import Pretrain as Pretrain
    from unshaken.report.compare import compare as compare
    from unshaken.runs.checkup import checkup as checkup
    from unshaken.runs.dial import dial as dial
    from unshaken.runs.doctor import doctor as doctor
    from unshaken.runs.embed import Outputs as Outputs
    from unshaken.runs.embed import embed as embed
    from unshaken.runs.embed import predict as predict
    from unshaken.runs.evaluate import evaluate as evaluate
    from unshaken.runs.finetune import finetune as finetune
    from unshaken.runs.finetune import finetune_recipe as finetune_recipe
    from unshaken.runs.load import HubModel as HubModel
    from unshaken.runs.load import load as load
    from unshaken.runs.pack import pack as pack
    from unshaken.runs.pretrain import pretrain as pretrain
    from unshaken.runs.robustify import robustify as robustify
    from unshaken.runs.verify import verify as verify
    from unshaken.runs.workspace import Workspace as Workspace
    from unshaken.train.observers import Observer as Observer

__version__ = "0.2.0"

_WHERE = {
    # verbs, the same words as on the command line
    "pretrain": "unshaken.runs.pretrain",
    "robustify": "unshaken.runs.robustify",
    "finetune": "unshaken.runs.finetune",
    "evaluate": "unshaken.runs.evaluate",
    "embed": "unshaken.runs.embed",
    "predict": "unshaken.runs.embed",
    "pack": "unshaken.runs.pack",
    "load": "unshaken.runs.load",
    "verify": "unshaken.runs.verify",
    "doctor": "unshaken.runs.doctor",
    "checkup": "unshaken.runs.checkup",
    "dial": "unshaken.runs.dial",
    "compare": "unshaken.report.compare",
    "export": "unshaken.interop.export",
    "import_file": "unshaken.interop.imported_files",
    "load_encoder": "unshaken.nets.checkpoint",
    "load_classifier": "unshaken.nets.checkpoint",
    # values: recipes and what they are made of
    "recipe": "unshaken.recipes.catalog",
    "finetune_recipe": "unshaken.runs.finetune",
    "Pretrain": "unshaken.recipes.pretrain",
    "Finetune": "unshaken.recipes.finetune",
    "Evaluation": "unshaken.evaluation.protocol",
    "DataSource": "unshaken.data.source",
    "Images": "unshaken.data.images",
    "Backbone": "unshaken.nets.backbone",
    "Runtime": "unshaken.compute.runtime",
    "Workspace": "unshaken.runs.workspace",
    "HubModel": "unshaken.runs.load",
    "Outputs": "unshaken.runs.embed",
    "ImportOptions": "unshaken.interop.import_checkpoint",
    "ExportOptions": "unshaken.interop.export",
    # what you write your own of, and the usual attacks
    "Method": "unshaken.methods.base",
    "Observer": "unshaken.train.observers",
    "Attack": "unshaken.attacks.base",
    "PGD": "unshaken.attacks.pgd",
    "AutoAttack": "unshaken.attacks.autoattack",
    "Linf": "unshaken.attacks.ball",
    "L2": "unshaken.attacks.ball",
    "L1": "unshaken.attacks.ball",
}

_ROOMS = ("attacks", "losses", "corruptions", "transforms")
"""Packages whose parts work on plain tensors and modules, without a run."""

__all__ = ["__version__", *_WHERE, *_ROOMS]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"unshaken.{name}")
    if name not in _WHERE:
        raise AttributeError(f"unshaken has no {name!r}; it has {', '.join(_WHERE)}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
