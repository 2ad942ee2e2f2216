"""The command line: few verbs; a user's mistake is one line and exit code 2."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from unshaken import __version__
from unshaken.base.suggest import closest
from unshaken.base.terminal import guarded

VERBS = {
    "pretrain": "train an encoder: unshaken pretrain acl/cifar10",
    "plan": "what this machine can do in a given time: unshaken plan acl/cifar10 --seconds 600",
    "finetune": "fine-tune it with labels (SLF, ALF, AFF): unshaken finetune RUN --mode all",
    "evaluate": "standard and robust accuracy, counted: unshaken evaluate RUN",
    "compare": "whether two results differ by more than chance: unshaken compare A.json B.json",
    "report": "results as a table, or as a page: unshaken report RUN [RUN ...] [--html FILE]",
    "board": "results as a site of static pages: unshaken board results --out site",
    "submit": "one file of a run, for a board: unshaken submit RUN --by NAME",
    "doctor": "whether that can be believed: unshaken doctor RUN",
    "frontier": "accuracy against speed-up on coresets, as a figure: unshaken frontier RUN [RUN ...]",
    "coreset": "which images were picked: unshaken coreset show RUN",
    "demo": "all of it on digits, in minutes on two CPU cores",
    "import": "read a checkpoint of somebody else's, whole: unshaken import FILE",
    "export": "write one for timm, torchvision, ONNX or the Hub: unshaken export RUN --to onnx",
    "verify": "whether networks, and results, are what they say: unshaken verify FILE",
    "list": "what there is: unshaken list [methods, modes, data, networks]",
    "cite": "BibTeX of what a run used: unshaken cite RUN",
}


def main() -> None:
    """The entry point of `unshaken`."""
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """Do what the arguments say; returns the exit code. UNSHAKEN_TRACE=1 shows where an error came from."""
    with guarded():
        return _run(args)


def _run(args: list[str]) -> int:
    try:
        return dispatch(args)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("unshaken: interrupted; the same command goes on from what was saved", file=sys.stderr)
        return 130
    except Exception as error:
        line = in_a_line(error, args[:1])
        if line is None or os.environ.get("UNSHAKEN_TRACE"):
            raise
        print(f"unshaken: {line}", file=sys.stderr)
        return 2


MEMORY = ("out of memory", "allocate memory", "not enough memory", "std::bad_alloc", "ALLOC_FAILED")
"""What PyTorch says where memory runs out: on a CPU it raises no error of a type of its own."""
SMALLER = {
    "pretrain": "a smaller --batch-size, --runtime.at-most 64, or smaller images (--data.size)",
    "finetune": "a smaller --batch-size, --runtime.at-most 64, or smaller images (--data.size)",
    "evaluate": "a smaller --batch-size, or fewer images (--limit)",
    "doctor": "fewer images (--limit)",
    "frontier": "a smaller --batch-size, --runtime.at-most 64, or smaller images (--data.size)",
}
"""By verb, what takes less memory."""
NETWORK = ("httpx", "httpcore", "requests", "urllib3", "huggingface_hub", "http")
"""Packages whose errors are about a network, or about a server that said no."""


def in_a_line(error: Exception, verb: list[str]) -> str | None:
    """What an error says to a user; None for one that is a mistake of this library's."""
    if isinstance(error, MemoryError) or isinstance(error, RuntimeError) and any(w in str(error) for w in MEMORY):
        hint = SMALLER.get(verb[0]) if verb else None
        return f"there is not enough memory{f'; try {hint}' if hint else ' for this'}"
    if type(error).__module__.partition(".")[0] in NETWORK:
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return f"the network failed: {said} (is this machine online, and does the server know what was asked for?)"
    if isinstance(error, (ValueError, OSError)):
        return " ".join(str(error).split())
    return None


def dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if args else 2
    if args[0] == "--version":
        print(__version__)
        return 0
    verb, rest = args[0], args[1:]
    if verb not in VERBS:
        near = closest(verb, VERBS)
        hint = f"did you mean {near!r}?" if near else f"there are {', '.join(VERBS)}"
        raise ValueError(f"there is no command {verb!r}; {hint}")
    pictured = {arg.partition("=")[0] for arg in rest} & {"--html", "--png", "--pdf"}
    if verb == "report" and not pictured:  # needs no torch, and does not wait for it
        report(rest)
        return 0
    if verb == "frontier" and rest and Path(rest[0]).exists():  # nor does it, to draw what is there
        drawn(rest)
        return 0
    return with_torch(verb, rest)


def with_torch(verb: str, args: list[str]) -> int:
    # GNU OpenMP's threads wait by spinning, without end: where others use the cores too, a run takes ten times as long.
    # Not spinning at all costs half as much again on an idle machine (docs/log.md). It is read when torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    from unshaken.commands import VERBS as commands
    from unshaken.train.signals import Interrupted

    try:
        return commands[verb](args) or 0
    except Interrupted as stop:
        print(f"unshaken: {stop}", file=sys.stderr)
        return stop.code


def report(args: list[str]) -> None:
    from unshaken.base.json_files import write_text
    from unshaken.options import parse
    from unshaken.report.grouping import results_in
    from unshaken.report.table import ReportOptions, markdown, show

    options = parse(ReportOptions(), args, "unshaken report")
    results = results_in(list(options.runs))
    kind = "board" if options.board else "means" if options.means else "runs"
    if options.out:
        write_text(options.out, markdown(results, kind))
    show(results, kind)


def drawn(args: list[str]) -> None:
    from unshaken.options import parse
    from unshaken.report.frontier import FrontierFigureOptions, draw, read

    options = parse(FrontierFigureOptions(), args, "unshaken frontier")
    draw(read(options), options.out)


def usage() -> str:
    verbs = "\n".join(f"  {verb:<9} {line}" for verb, line in VERBS.items())
    title = f"unshaken {__version__}: robust vision encoders, learned without labels"
    return f"{title}\n\n{verbs}\n\n`unshaken VERB --help` says more."


if __name__ == "__main__":
    main()
