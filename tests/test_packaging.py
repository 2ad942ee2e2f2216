"""What a package index, GitHub and a citation read agrees with itself."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import unshaken

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
YAML = [*(ROOT / ".github").rglob("*.yml"), ROOT / "CITATION.cff"]


def test_one_version_everywhere():
    assert PROJECT["version"] == unshaken.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == unshaken.__version__
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).group(1)
    assert first == unshaken.__version__


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
