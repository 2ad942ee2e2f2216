"""The README and the addresses that a package index shows: links to the repository's files, or plain words without one.

The one place for the address is `[tool.unshaken] source` in pyproject.toml, such as https://HOST/OWNER/unshaken/blob/main.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?![a-z]+:|#)([^()\s]+)\)")


def for_index(text: str, source: str) -> str:
    """Return Markdown without relative links: an index has none of the files that they lead to."""

    def replaced(match: re.Match[str]) -> str:
        image, words, target = match.groups()
        if not source:
            return "" if image else words
        return f"{image}[{words}]({source}/{target}{'?raw=true' if image else ''})"

    fences = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(replaced, part) for part in fences)


def urls_of(source: str) -> dict[str, str]:
    """Return the project's addresses, below that of the repository; none without it."""
    home = source.partition("/blob/")[0]
    return (
        {}
        if not source
        else {
            "Homepage": home,
            "Documentation": f"{source}/docs/tutorial.md",
            "Changelog": f"{source}/CHANGELOG.md",
            "Issues": f"{home}/issues",
        }
    )


class ReadmeHook(MetadataHookInterface):
    """Sets the readme and the addresses of the package's metadata."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict) -> None:
        root = Path(self.root)
        source = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["unshaken"]["source"]
        text = for_index((root / "README.md").read_text(encoding="utf-8"), source)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = urls_of(source)
