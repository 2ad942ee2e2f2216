"""What MkDocs does before it renders: pages from files outside docs/, and links to such files."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the site that are files of the repository's root."""
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text()).get("tool", {}).get("unshaken", {}).get("source", "")
"""The address below which the repository's files can be read; empty if there is none."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


def on_files(files: Files, config) -> Files:
    """Add the pages that are made: from the root's files, from notebooks, and of the public names."""
    for file, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / file).read_text()))
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        text = notebook_page(json.loads(notebook.read_text()), notebook.name)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
    files.append(File.generated(config, "api.md", content=api_page()))
    return files


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    """Write links to files outside docs/ as links within the site, to the repository, or as plain words."""
    source = {made: name for name, made in PAGES.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    fences = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(lambda m: linked(m, source), part) for part in fences)


def linked(match: re.Match[str], source: str) -> str:
    """One link of a page, whose file is `source` in the repository."""
    image, text, target = match.groups()
    path, mark, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", target):
        return match[0]
    whole = normpath((PurePosixPath(source).parent / path).as_posix())
    here = source.removeprefix("docs/") if source.startswith("docs/") else PAGES[source]
    inside = PAGES.get(whole) or (whole.removeprefix("docs/") if whole.startswith("docs/") else None)
    if inside is not None:
        return f"{image}[{text}]({relpath(inside, PurePosixPath(here).parent.as_posix())}{mark}{anchor})"
    return f"[{text}]({SOURCE}/{whole}{mark}{anchor})" if SOURCE else text


def notebook_page(notebook: dict, name: str) -> str:
    """A notebook as a page: its texts, and its code without what it printed."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join([*parts, f"The notebook: [{name}]({name})."]) + "\n"


def api_page() -> str:
    """The reference of the names of `unshaken`, in the order in which the package has them."""
    text = (ROOT / "src" / "unshaken" / "__init__.py").read_text()
    block = re.search(r"_WHERE = \{(.*?)\n\}", text, re.DOTALL)[1]
    parts = [
        "# API",
        "All names of `import unshaken`. Importing it does not import torch; the first use of a name does.",
    ]
    for line in block.splitlines():
        if comment := re.match(r"\s*# (.*)", line):
            parts.append(f"## {comment[1][0].upper()}{comment[1][1:]}")
        elif name := re.match(r'\s*"(\w+)": "([\w.]+)"', line):
            parts.append(f"::: {name[2]}.{name[1]}")
    rooms = re.search(r"_ROOMS = \((.*?)\)", text)[1]
    for room in re.findall(r'"(\w+)"', rooms):
        init = (ROOT / "src" / "unshaken" / room / "__init__.py").read_text()
        parts.append(f"## unshaken.{room}")
        parts += [f"::: unshaken.{room}.{file}.{name}" for name, file in re.findall(r'"(\w+)": "(\w+)"', init)]
    return "\n\n".join(parts) + "\n"
