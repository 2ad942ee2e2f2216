"""A small share of `make kills`: a kill in five verbs, and each of them three times at once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kills import VERBS

from unshaken import cli

KILLS = Path(__file__).parent / "kills.py"
QUICK = ["pretrain", "evaluate", "export", "board", "submit"]
WRITE_NOTHING = {"compare", "report", "doctor", "coreset", "verify", "list", "cite", "plan", "completion"} | {
    "text-embeddings",
    "checkup",
    "dial",
}
"""Verbs that write no file of their own, only draw what there is, or write one new file at their end."""


def kills(count: int, verbs: list[str], *others: str) -> str:
    args = [sys.executable, str(KILLS), str(count), "--seed", "2", "--verbs", *verbs, *others]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(args, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_what_is_killed_or_given_three_times_at_once_ends_with_the_same_bits():
    said = kills(len(QUICK), QUICK, "--together")
    assert re.search(rf"^{len(QUICK)} kills, 0 faults$", said, re.MULTILINE)
    assert said.count("three at once: fine") == len(QUICK)


def test_every_verb_that_writes_is_in_the_table():
    assert {words[0] for words in VERBS.values()} == set(cli.VERBS) - WRITE_NOTHING
