"""`unshaken list`: what there is."""

from __future__ import annotations

from unshaken.options import parse_nothing
from unshaken.recipes.finetune import MODES
from unshaken.recipes.papers import PAPERS
from unshaken.recipes.settings import SETTINGS


def list_(args: list[str]) -> None:
    parse_nothing(args, "unshaken list")
    print("Recipes of pre-training, METHOD/SET:")
    for name, make in PAPERS.items():
        print(f"  {name:<13} {(make.__doc__ or '').splitlines()[0]}")
    print(f"  SET is {', '.join(SETTINGS)}; or any of them with --data PATH for images of your own.")
    print("Fine-tuning, --mode:")
    for mode, line in zip(MODES, ("standard linear", "adversarial linear", "adversarial full (TRADES)"), strict=True):
        print(f"  {mode:<13} {line}")
