"""The command line: a few verbs; a user's mistake is one line and exit code 2."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path

from unshaken import __version__
from unshaken.base.launchers import launched
from unshaken.base.suggest import closest
from unshaken.base.terminal import guarded, only_errors, quiet
from unshaken.base.verbs import VERBS

QUIET = ("--quiet", "-q")
"""Flags that every verb takes: print nothing but results and errors."""


def main() -> None:
    """The entry point of `unshaken`."""
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """Run a command and return its exit code. UNSHAKEN_TRACE=1 shows the traceback of an error."""
    words = [word for word in args if word not in QUIET]
    group = launched()
    follows = group is not None and group.rank > 0  # what there is to say the first process says
    with guarded(), only_errors() if follows else quiet() if len(words) < len(args) else nullcontext():
        return _run(words)


def _run(args: list[str]) -> int:
    try:
        return dispatch(args)
    except BrokenPipeError:  # the reader of a pipe, such as head, has stopped reading
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("unshaken: interrupted; the same command resumes from what was saved", file=sys.stderr)
        return 130
    except Exception as error:
        if hasattr(error, "said_elsewhere"):  # by the first of several processes
            return 2
        line = error_line(error, args[:1])
        if line is None or os.environ.get("UNSHAKEN_TRACE"):
            raise
        print(f"unshaken: {line}", file=sys.stderr)
        return 2


MEMORY = ("out of memory", "allocate memory", "not enough memory", "std::bad_alloc", "ALLOC_FAILED")
"""Words in PyTorch's errors when memory runs out: on a CPU they have no type of their own."""
SMALLER = {
    "robustify": "a smaller --batch-size, --runtime.at-most 64, or smaller images (--data.size)",
    "pretrain": "a smaller --batch-size, --runtime.at-most 64, or smaller images (--data.size)",
    "finetune": "a smaller --batch-size, --runtime.at-most 64, or smaller images (--data.size)",
    "evaluate": "a smaller --batch-size, or fewer images (--limit)",
    "doctor": "fewer images (--limit)",
    "frontier": "a smaller --batch-size, --runtime.at-most 64, or smaller images (--data.size)",
}
"""Advice by verb: what needs less memory."""
PEERS = ("gloo", "NCCL", "Connection closed by peer", "TCPStore", "process group")
"""Words in PyTorch's errors when another process no longer answers."""
NETWORK = ("httpx", "httpcore", "requests", "urllib3", "huggingface_hub", "http")
"""Packages whose errors come from the network or a server."""


def error_line(error: Exception, verb: list[str]) -> str | None:
    """The line that a user reads about an error; None if it is a bug of this library."""
    if isinstance(error, MemoryError) or isinstance(error, RuntimeError) and any(w in str(error) for w in MEMORY):
        hint = SMALLER.get(verb[0]) if verb else None
        return f"there is not enough memory{f'; try {hint}' if hint else ' for this'}"
    if isinstance(error, RuntimeError) and launched() and any(w in str(error) for w in PEERS):
        return "another process of this run has ended: its message says why; the same command resumes the run"
    if type(error).__module__.partition(".")[0] in NETWORK:
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return f"the network failed: {said} (is this machine online, and does the server have what was requested?)"
    if isinstance(error, (ValueError, OSError)):
        return " ".join(str(error).split())
    return None


def dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if args else 2
    if args[0] in ("--version", "-V", "version"):
        print(__version__)
        return 0
    verb, rest = args[0], args[1:]
    if verb not in VERBS:
        near = closest(verb, VERBS)
        hint = f"did you mean {near!r}?" if near else f"there are {', '.join(VERBS)}"
        raise ValueError(f"there is no command {verb!r}; {hint}")
    pictured = {arg.partition("=")[0] for arg in rest} & {"--html", "--png", "--pdf"}
    if verb == "report" and not pictured:  # does not wait for the import of torch
        report(rest)
        return 0
    if verb == "frontier" and rest and Path(rest[0]).exists():  # draws results without torch
        draw_frontier(rest)
        return 0
    return with_torch(verb, rest)


def with_torch(verb: str, args: list[str]) -> int:
    # Threads of GNU OpenMP wait by spinning, without end: on a busy machine a run then takes ten times as long.
    # Not spinning at all costs half as much again on an idle one (docs/log.md). torch reads this when it is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    if launched() is not None:  # PyTorch would advise against a search for unused weights, which is meant
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from unshaken.base.distributed import leave
    from unshaken.commands import VERBS as commands
    from unshaken.train.signals import Interrupted

    try:
        return commands[verb](args) or 0
    except Interrupted as stop:
        group = launched()
        if group is None or group.rank == 0:
            print(f"unshaken: {stop}", file=sys.stderr)
        return stop.code
    finally:
        leave()


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
    show(results, kind, options)


def draw_frontier(args: list[str]) -> None:
    from unshaken.options import parse
    from unshaken.report.frontier import FrontierFigureOptions, draw, read

    options = parse(FrontierFigureOptions(), args, "unshaken frontier")
    draw(read(options), options.out, options)


def usage() -> str:
    verbs = "\n".join(f"  {verb:<15} {line}" for verb, line in VERBS.items())
    title = f"unshaken {__version__}: robust vision encoders, learned without labels"
    return f"{title}\n\n{verbs}\n\n`unshaken VERB --help` says more; --quiet prints only results and errors."


if __name__ == "__main__":
    main()
