"""README: its commands are real."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_commands_are_real():
    """The two commands are targets of the Makefile, and make test is what CI runs."""
    targets = (ROOT / "Makefile").read_text()
    assert all(
        re.search(rf"^{name}:", targets, re.MULTILINE) for name in re.findall(r"^make (\w+)", README, re.MULTILINE)
    )
    assert "make test" in (ROOT / ".ci" / "run").read_text()
