"""Amounts: one is singular, everywhere in the program."""

import re
from pathlib import Path

import unshaken
from unshaken.base.amounts import amount, weights_in_words


def test_one_is_singular_and_all_else_plural():
    assert amount(1, "image") == "1 image"
    assert amount(1.0, "epoch") == "1 epoch"
    assert amount(0, "image") == "0 images"
    assert amount(0.6, "epoch") == "0.6 epochs"
    assert amount(1200, "class", "classes") == "1,200 classes"


def test_a_small_network_has_its_weights_counted():
    assert weights_in_words(11_173_962) == "11.2 million weights"
    assert weights_in_words(24_312) == "24,312 weights"
    assert weights_in_words(999_999) == "999,999 weights"


def test_no_module_makes_plurals_of_its_own():
    own = re.compile(r"""(['"])e?s\1 \* \(|(['"])e?s\2 if .* else ["']{2}|\{[^{}]*\bepochs\b[^{}]*\} epochs""")
    source = Path(unshaken.__file__).parent
    found = [
        f"{file.relative_to(source)}: {line.strip()}"
        for file in sorted(source.rglob("*.py"))
        for line in file.read_text().splitlines()
        if own.search(line)
    ]
    allowed = [line for line in found if "of its" in line or "of which" in line]  # of several
    assert found == allowed
