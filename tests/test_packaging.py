"""What a package index, GitHub and a citation read agrees with itself."""

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import unshaken

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
YAML = [*(ROOT / ".github").rglob("*.yml"), ROOT / "CITATION.cff"]


def test_one_version_everywhere():
    assert PROJECT["version"] == unshaken.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == unshaken.__version__
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).group(1)
    assert first == unshaken.__version__


def test_every_package_that_is_named_is_pinned():
    """So that two days' `make` give the same environment."""
    named = [*PROJECT["dependencies"], *(each for extra in PROJECT["optional-dependencies"].values() for each in extra)]
    pins = (ROOT / "constraints.txt").read_text().split()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    pinned = {canonicalize_name(pin.partition("==")[0]): pin.partition("==")[2] for pin in pins}
    assert len(pinned) == len(pins)
    for requirement in map(Requirement, named):
        if requirement.name != "unshaken":
            assert pinned.get(canonicalize_name(requirement.name), "nothing") in requirement.specifier


@pytest.mark.parametrize("file", YAML, ids=lambda file: file.name)
def test_files_for_github_are_yaml(file):
    assert isinstance(yaml.safe_load(file.read_text()), dict)


def test_the_pythons_that_are_promised_are_tested():
    promised = {line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    assert promised == set(jobs["tests"]["strategy"]["matrix"]["python"])


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "unshaken", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip().rpartition(" ")[2]) == (0, unshaken.__version__)


SOURCE = Path(unshaken.__file__).parent
POSIX = ("fcntl", "resource", "pwd", "grp", "termios")
"""Modules of Python that Windows has not."""


def test_no_module_needs_what_windows_lacks(monkeypatch):
    """Each module's text is run once more, with these modules blocked."""
    for name in POSIX:
        monkeypatch.setitem(sys.modules, name, None)
    for file in sorted(SOURCE.rglob("*.py")):
        name = ".".join(("unshaken", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        if file.stem == "__main__":
            continue
        if name not in sys.modules:
            import_module(name)
        else:
            spec = spec_from_file_location(name, file)
            spec.loader.exec_module(module_from_spec(spec))
