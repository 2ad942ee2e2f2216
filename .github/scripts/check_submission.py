"""Check files that were submitted to the board: each gets one line, and a refusal ends in exit code 1.

python .github/scripts/check_submission.py FILE [FILE ...]       result files or submissions
python .github/scripts/check_submission.py --issue BODY.md       the JSON in a fenced block of an issue's text

Where a submission says where its classifier lies, that is fetched (--weights RUN: taken from a folder instead), and
--sample images are attacked again.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import urllib.request
from pathlib import Path

from unshaken.board.check import read

LARGEST = 2 << 30
"""Bytes that a classifier's file may have."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--issue", type=Path, help="a file with the text of an issue")
    parser.add_argument("--weights", type=Path, help="a folder with the run's classifier.safetensors")
    parser.add_argument("--sample", type=int, default=100)
    options = parser.parse_args()
    texts = [(str(file), file.read_text(errors="replace")) for file in options.files]
    if options.issue:
        texts.append((str(options.issue), fenced(options.issue.read_text())))
    if not texts:
        parser.error("name one or more files, or --issue")
    return int(any([not checked(name, text, options.weights, options.sample) for name, text in texts]))


def fenced(body: str) -> str:
    """Return what stands in the first fenced block; the whole text if there is none."""
    block = re.search(r"```(?:json)?\s*\n(.*?)```", body, re.DOTALL)
    return block.group(1) if block else body


def checked(name: str, text: str, weights: Path | None, sample: int) -> bool:
    try:
        result, beside = read(text)
        said = attacked_again(result, beside, weights, sample)
    except (ValueError, OSError) as error:
        print(f"{name}: refused: {' '.join(str(error).split())}")
        return False
    print(f"{name}: accepted: {result['robust']['correct']} of {result['robust']['n']} robust; {said}")
    return True


def attacked_again(result: dict, beside: dict, weights: Path | None, sample: int) -> str:
    """Return, in words, what attacking some images again gave. ValueError if they get other verdicts."""
    address = beside.get("weights_url", "")
    if not (weights or address):
        return "no weights were given, so nothing was attacked again"
    from unshaken.runs.verify import recheck  # torch, for those that bring weights

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        classifier = (weights / "classifier.safetensors").read_bytes() if weights else fetched(address)
        (run / "classifier.safetensors").write_bytes(classifier)
        (run / "result.json").write_text(json.dumps(result))
        found = recheck(run / "result.json", sample, quiet=True)
    if not found.holds:
        raise ValueError(f"its images get other verdicts: {'; '.join(found.lines())}")
    return f"{found.n} images were attacked again and agree"


def fetched(address: str) -> bytes:
    if not address.startswith("https://"):
        raise ValueError(f"weights are fetched from an https address, not from {address!r}")
    with urllib.request.urlopen(address, timeout=60) as answer:
        content = answer.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"the file at {address} is larger than {LARGEST} bytes")
    return content


if __name__ == "__main__":
    sys.exit(main())
