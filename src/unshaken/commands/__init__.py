"""The verbs of the command line: each reads its options and calls the function of that name."""

from collections.abc import Callable

from unshaken.commands.board import board, submit
from unshaken.commands.catalog import cite, list_
from unshaken.commands.checkup import checkup
from unshaken.commands.completion import completion
from unshaken.commands.coreset import coreset
from unshaken.commands.demo import demo
from unshaken.commands.dial import dial
from unshaken.commands.doctor import doctor
from unshaken.commands.embed import embed, predict
from unshaken.commands.evaluate import compare, evaluate
from unshaken.commands.finetune import finetune
from unshaken.commands.frontier import frontier
from unshaken.commands.interop import export_, import_, verify
from unshaken.commands.pack import pack
from unshaken.commands.plan import plan
from unshaken.commands.pretrain import pretrain
from unshaken.commands.report import report
from unshaken.commands.robustify import robustify
from unshaken.commands.text_embeddings import text_embeddings

VERBS: dict[str, Callable[[list[str]], int | None]] = {
    "pretrain": pretrain,
    "robustify": robustify,
    "plan": plan,
    "finetune": finetune,
    "evaluate": evaluate,
    "compare": compare,
    "doctor": doctor,
    "checkup": checkup,
    "dial": dial,
    "frontier": frontier,
    "report": report,
    "board": board,
    "submit": submit,
    "coreset": coreset,
    "demo": demo,
    "import": import_,
    "export": export_,
    "pack": pack,
    "embed": embed,
    "predict": predict,
    "verify": verify,
    "text-embeddings": text_embeddings,
    "list": list_,
    "cite": cite,
    "completion": completion,
}
