"""Layer 8: what each verb of the command line does, with its options as values."""

from collections.abc import Callable

from unshaken.commands.demo import demo
from unshaken.commands.evaluate import evaluate
from unshaken.commands.finetune import finetune
from unshaken.commands.inform import list_
from unshaken.commands.pretrain import pretrain

VERBS: dict[str, Callable[[list[str]], None]] = {
    "pretrain": pretrain,
    "finetune": finetune,
    "evaluate": evaluate,
    "demo": demo,
    "list": list_,
}
