"""`unshaken completion`: a script by which bash, zsh or fish completes verbs, recipes, options and runs"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from unshaken.attacks.ball import Linf
from unshaken.base.verbs import VERBS
from unshaken.commands.board import BoardOptions, SubmitOptions
from unshaken.commands.catalog import FORMS, TOPICS
from unshaken.commands.checkup import CheckupOptions
from unshaken.commands.coreset import CoresetOptions
from unshaken.commands.demo import DemoOptions
from unshaken.commands.dial import DialOptions
from unshaken.commands.doctor import DoctorOptions
from unshaken.commands.embed import EmbedOptions
from unshaken.commands.evaluate import CompareOptions, EvaluateOptions
from unshaken.commands.finetune import FinetuneOptions
from unshaken.commands.frontier import FrontierOptions
from unshaken.commands.interop import VerifyOptions
from unshaken.commands.pack import PackOptions
from unshaken.commands.plan import PlanOptions
from unshaken.commands.pretrain import PretrainOptions
from unshaken.commands.robustify import RobustifyOptions
from unshaken.commands.text_embeddings import TextEmbeddingsOptions
from unshaken.data.source import STANDARD, DataSource
from unshaken.evaluation.protocol import Evaluation
from unshaken.interop.export import ExportOptions
from unshaken.interop.import_checkpoint import ImportOptions
from unshaken.nets.backbone import Backbone
from unshaken.options import described
from unshaken.options.aliases import alias
from unshaken.recipes.autolora import AutoFinetune
from unshaken.recipes.catalog import RECIPES, recipe
from unshaken.recipes.datasets import DATASETS
from unshaken.recipes.finetune import MODES, Finetune
from unshaken.recipes.robust import OBJECTIVES, robust_recipe
from unshaken.report.frontier import FrontierFigureOptions
from unshaken.report.table import ReportOptions
from unshaken.runs.checkup import Checkup
from unshaken.runs.frontier import coreset_pair

SHELLS = ("bash", "zsh", "fish")
USAGE = """usage: unshaken completion bash|zsh|fish

Prints a script for the shell. For good:
  bash   unshaken completion bash > ~/.local/share/bash-completion/completions/unshaken
  zsh    unshaken completion zsh > ~/.unshaken.zsh, and in ~/.zshrc: source ~/.unshaken.zsh
  fish   unshaken completion fish > ~/.config/fish/completions/unshaken.fish
Once: source <(unshaken completion bash)"""


@dataclass(frozen=True)
class Completed:
    """An option as a shell completes it: its description, and the words that it takes if they are known.

    files  the name of a file or a folder is possible too
    """

    flag: str
    about: str
    words: tuple[str, ...] = ()
    files: bool = False


ALWAYS = (
    Completed("--config", "File of options"),
    Completed("--quiet", "Print only results and errors"),
    Completed("--help", "Show all options"),
)


def completion(args: list[str]) -> None:
    if args and args[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0)
    if len(args) != 1 or args[0] not in SHELLS:
        given = f", not {' '.join(args)!r}" if args else ""
        raise ValueError(f"`unshaken completion` needs one of {', '.join(SHELLS)}{given}")
    print({"bash": bash, "zsh": zsh, "fish": fish}[args[0]](VERBS))


def defaults() -> dict[str, list[Any]]:
    """Return the values whose fields are a verb's options."""
    recipes = [recipe(f"{name}/digits") for name in RECIPES]
    return {
        "pretrain": [PretrainOptions(each) for each in recipes],
        "robustify": [
            RobustifyOptions(robust_recipe(each, "ENCODER", Backbone(), DataSource("photos"))) for each in OBJECTIVES
        ],
        "plan": [PlanOptions(each) for each in recipes],
        "finetune": [FinetuneOptions(Finetune()), FinetuneOptions(AutoFinetune())],
        "evaluate": [EvaluateOptions(Evaluation(), DataSource())],
        "compare": [CompareOptions()],
        "report": [ReportOptions()],
        "board": [BoardOptions()],
        "submit": [SubmitOptions()],
        "doctor": [DoctorOptions(DataSource(), Linf())],
        "frontier": [FrontierOptions(coreset_pair("acl/digits")[0]), FrontierFigureOptions()],
        "coreset": [CoresetOptions()],
        "demo": [DemoOptions()],
        "import": [ImportOptions()],
        "export": [ExportOptions()],
        "embed": [EmbedOptions(DataSource())],
        "predict": [EmbedOptions(DataSource())],
        "pack": [PackOptions()],
        "verify": [VerifyOptions()],
        "text-embeddings": [TextEmbeddingsOptions()],
        "checkup": [CheckupOptions(Checkup(), DataSource())],
        "dial": [DialOptions(evaluation=Evaluation(), data=DataSource())],
    }


SHORT = ("--lr", "--eps", "--image-size")
"""Short forms of options that the documentation uses."""
READ_FIRST = {
    "pretrain": (Completed("--recipe", "Recipe, also one of your own: mine.py:recipe", tuple(RECIPES), files=True),),
    "robustify": (Completed("--objective", "Objective of the training", OBJECTIVES),),
    "finetune": (
        Completed("--mode", "Modes of fine-tuning", (*MODES, "all", "autolora")),
        Completed("--protocol", "Epochs and rates of fine-tuning", ("clean", "leaked")),
    ),
    **dict.fromkeys(("evaluate", "verify"), (Completed("--attack", "Attack of your own: mine.py:attack", files=True),)),
    "list": tuple(Completed(flag, "Print for other programs") for flag in FORMS),
}
"""Options that a verb reads before the others."""
SUBJECTS = {
    **dict.fromkeys(("pretrain", "plan"), "recipes"),
    **dict.fromkeys(
        (
            "robustify",
            "finetune",
            "evaluate",
            "doctor",
            "checkup",
            "dial",
            "export",
            "embed",
            "predict",
            "verify",
            "compare",
            "report",
            "submit",
        ),
        "runs",
    ),
    **dict.fromkeys(("board", "import", "text-embeddings", "pack"), "files"),
    **dict.fromkeys(("frontier", "cite"), "recipes runs"),
    "list": "recipes topics",
    "coreset": "show",
    "completion": "shells",
}
"""The kind of word that follows each verb."""


def options_by_verb(verbs: dict[str, str]) -> dict[str, list[Completed]]:
    """Return the options of each verb, each once."""
    found: dict[str, list[Completed]] = {}
    for verb in verbs:
        options = [*READ_FIRST.get(verb, ())]
        for value in defaults().get(verb, ()):
            options += [Completed(*each) for each in described(value)]
        if any(option.flag == "--data.name" for option in options):
            options.append(Completed("--data", "Data set, or a folder of images", STANDARD, files=True))
        flags = [option.flag for option in options]
        for short in SHORT:
            if meant := alias(short, flags):
                options.append(Completed(short, f"Short for {' and '.join(meant)}"))
        found[verb] = list({option.flag: option for option in (*options, *ALWAYS)}.values())
    return found


def recipes() -> list[str]:
    """Return the names of recipes: METHOD for images of one's own, and METHOD/SET."""
    return [name for method in RECIPES for name in (method, *(f"{method}/{data}" for data in DATASETS))]


def words() -> dict[str, list[str]]:
    """Return the lists of words that take the place of the names in SUBJECTS."""
    return {"recipes": recipes(), "topics": [*TOPICS], "shells": [*SHELLS], "show": ["show"]}


BASH = """# bash completion of unshaken
_unshaken() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" verb="${{COMP_WORDS[1]}}" words="" run
  COMPREPLY=()
  if [[ $COMP_CWORD -eq 1 ]]; then
    COMPREPLY=($(compgen -W "{verbs}" -- "$cur"))
    return
  fi
  if [[ "$cur" == -* ]]; then
    case "$verb" in
{options}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    return
  fi
  case "$verb $prev" in
{values}
  esac
  if [[ -z "$words" && "$prev" != --* ]]; then
    case "$verb" in
{subjects}
    esac
  fi
  if [[ "$words" == *RUNS* ]]; then
    words="${{words/RUNS/}}"
    for run in runs/*/recipe.json runs/*/*/recipe.json demo/runs/*/recipe.json demo/runs/*/*/recipe.json; do
      [[ -e "$run" ]] && words+=" ${{run%/recipe.json}}"
    done
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _unshaken unshaken"""


def bash(verbs: dict[str, str]) -> str:
    """Return the script for bash. Where it knows no words, bash completes files."""
    by_verb, lists = options_by_verb(verbs), words()
    options = "\n".join(f'      {verb}) words="{" ".join(o.flag for o in each)}" ;;' for verb, each in by_verb.items())
    values = "\n".join(
        f'    "{verb} {option.flag}") words="{" ".join(option.words)}" ;;'
        for verb, each in by_verb.items()
        for option in each
        if option.words
    )
    subjects = "\n".join(
        f'      {verb}) words="{" ".join(w for part in kind.split() for w in lists.get(part, [part.upper()]))}" ;;'
        for verb, kind in SUBJECTS.items()
        if kind != "files"
    )
    return BASH.format(verbs=" ".join(verbs), options=options, values=values, subjects=subjects)


def zsh(verbs: dict[str, str]) -> str:
    """Return the script for zsh, which reads the one for bash."""
    head = "autoload -Uz +X compinit && compinit\nautoload -Uz +X bashcompinit && bashcompinit"
    return f"{head}\n{bash(verbs)}"


FISH_RUNS = (
    "(for file in runs/*/recipe.json runs/*/*/recipe.json demo/runs/*/recipe.json demo/runs/*/*/recipe.json; "
    "string replace /recipe.json '' $file; end)"
)
"""Runs in fish, where a pattern without a match is an error except in a loop."""


def fish(verbs: dict[str, str]) -> str:
    """Return the script for fish, which shows a description beside each word."""
    lines = ["# fish completion of unshaken"]
    lines += [
        f"complete -c unshaken -n __fish_use_subcommand -f -a {verb} -d {shlex.quote(about.partition(':')[0])}"
        for verb, about in verbs.items()
    ]
    lists = words() | {"runs": [FISH_RUNS]}
    for verb, kind in SUBJECTS.items():
        found = " ".join(word for part in kind.split() for word in lists.get(part, []))
        if found:
            lines.append(f"complete -c unshaken -n '__fish_seen_subcommand_from {verb}' -a {shlex.quote(found)}")
    for verb, options in options_by_verb(verbs).items():
        for option in options:
            takes = (
                f" {'-r' if option.files else '-x'} -a {shlex.quote(' '.join(option.words))}" if option.words else ""
            )
            about = option.about.partition(". ")[0][:100]
            lines.append(
                f"complete -c unshaken -n '__fish_seen_subcommand_from {verb}' -l {option.flag[2:]}{takes} "
                f"-d {shlex.quote(about)}"
            )
    return "\n".join(lines)
