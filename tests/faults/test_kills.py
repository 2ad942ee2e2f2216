"""A small share of `make kills`: a kill in five verbs, and each of them twice at once."""

import re
import sys

import pytest
from kills import VERBS, main

from processes import Forked
from unshaken import cli
from variants import variants

QUICK = ["pretrain", "evaluate", "export", "board", "submit"]
WRITE_NOTHING = {"compare", "report", "doctor", "coreset", "verify", "list", "cite", "plan", "completion"} | {
    "text-embeddings",
    "checkup",
    "dial",
}
"""Verbs that write no file of their own, only draw what there is, or write one new file at their end."""


def kills(count: int, verbs: list[str], *others: str) -> str:
    def work() -> None:
        sys.argv = ["kills", str(count), "--seed", "2", "--verbs", *verbs, *others]
        sys.exit(main())

    done = Forked(work)
    said = [words.decode() for words in done.communicate()]
    assert done.returncode == 0, said[0][-2000:] + said[1][-2000:]
    return said[0]


@pytest.mark.slow
@pytest.mark.parametrize("verbs", variants([QUICK, QUICK[1:3]], [QUICK[1:3]]), ids=len)
def test_what_is_killed_or_given_twice_at_once_ends_with_the_same_bits(verbs):
    said = kills(len(verbs), verbs, "--together", "2")
    assert re.search(rf"^{len(verbs)} kills, 0 faults$", said, re.MULTILINE)
    assert said.count("2 at once: fine") == len(verbs)


def test_every_verb_that_writes_is_in_the_table():
    assert {words[0] for words in VERBS.values()} == set(cli.VERBS) - WRITE_NOTHING
