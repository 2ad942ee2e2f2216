"""A comparison as its command makes it, in a process of its own."""

import json
import sys
from typing import Any

from bench.__main__ import main

from processes import Forked


def ended(*args: str) -> tuple[int, str, str]:
    """`python -m bench ...`: its exit code, what it printed, and what it wrote to stderr."""

    def work() -> None:
        sys.argv = ["bench", *args]
        main()

    process = Forked(work)
    out, err = (said.decode() for said in process.communicate())
    return process.returncode, out, err


def compared(*args: str) -> dict[str, Any]:
    """The JSON object in its last line."""
    code, out, err = ended(*args)
    assert code == 0, err
    return json.loads(out.splitlines()[-1])
