"""`unshaken text-embeddings`: class embeddings for zero-shot evaluation, by open_clip or transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unshaken.base.amounts import amount

from unshaken.evaluation.text_embeddings import TEMPLATES, text_embeddings as embeddings_of  # isort: skip
from unshaken.options import parse, subject


@dataclass(frozen=True)
class TextEmbeddingsOptions:
    """Write the embeddings of class names by an encoder's text tower, for `unshaken evaluate ENCODER
    --class-embeddings`."""

    names: Path | None = None
    """Text file with the name of a class in each line, in plain words."""
    templates: Path | None = None
    """Text file with a sentence in each line, with {} in place of the class. By default seven that suit most images."""
    out: Path = Path("classes.safetensors")
    """File to write."""

    def __post_init__(self) -> None:
        if self.out.suffix != ".safetensors":
            raise ValueError(f"--out must be a file NAME.safetensors, not {self.out}")


def text_embeddings(args: list[str]) -> None:
    what = "a folder that open_clip or transformers wrote, or open_clip/OWNER/NAME or hf/OWNER/NAME"
    name, rest = subject(args, "text-embeddings", "ENCODER", what, TextEmbeddingsOptions())
    options = parse(TextEmbeddingsOptions(), rest, f"unshaken text-embeddings {name}")
    if options.names is None:
        raise ValueError("name the classes: --names FILE, with a class in each line")
    if options.out.exists():
        raise ValueError(f"{options.out} exists already; choose another --out")
    templates = lines_of(options.templates) if options.templates else TEMPLATES
    found = embeddings_of(name, lines_of(options.names), templates)
    found.write(options.out)
    classes = amount(len(found.names), "class", "classes")
    print(f"{options.out}  {classes}, {found.weight.shape[1]} numbers each, scale {found.scale:.4g}")
    print(f"next: unshaken evaluate ENCODER --class-embeddings {options.out} --data FOLDER")


def lines_of(file: Path) -> list[str]:
    """Return the lines of a text file that are not empty."""
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
