"""One Parquet file: its columns of images and labels, and the classes that it declares."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unshaken.base.json_files import parse_json

if TYPE_CHECKING:
    from pyarrow import Field
    from pyarrow.parquet import ParquetFile

IMAGE = ("image", "img", "images", "picture", "photo")
LABEL = ("label", "labels", "fine_label", "class", "target", "category", "y")
"""Names of columns; if a file has several of them, the first in this order is read."""


def declared_classes(file: ParquetFile, column: str, shard: Path) -> tuple[str, ...]:
    """Return the class names in Hugging Face's header. A line on stderr says if the header cannot be understood."""
    text = (file.schema_arrow.metadata or {}).get(b"huggingface")
    if text is None:
        return ()
    try:
        found = parse_json(text, str(shard), {"info": {"features": {}}})
        feature: Any = found["info"]["features"].get(column) or {}
        names = feature.get("names") or ()
        if isinstance(names, dict):
            names = [names[str(k)] for k in range(len(names))]
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError):
        print(
            f"{shard}: its Hugging Face header cannot be understood, so the labels serve as class names",
            file=sys.stderr,
        )
        return ()
    return tuple(names)


def _named(file: ParquetFile, names: tuple[str, ...]) -> str | None:
    by_lower = {name.lower(): name for name in reversed(file.schema_arrow.names)}
    return next((by_lower[name] for name in names if name in by_lower), None)


def image_column(file: ParquetFile) -> str | None:
    """Return the column of encoded images: by its name, or the only column with binary values."""
    if (name := _named(file, IMAGE)) is not None and _holds_images(file.schema_arrow.field(name)):
        return name
    possible = [field.name for field in file.schema_arrow if _holds_images(field)]
    return possible[0] if len(possible) == 1 else None


def _holds_images(field: Field) -> bool:
    import pyarrow as pa

    kind = field.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def label_column(file: ParquetFile) -> str | None:
    return _named(file, LABEL)


def opened(shard: Path) -> ParquetFile:
    """Open a file that has a column of images. ValueError if it has none or cannot be read."""
    try:
        import pyarrow  # noqa: F401   where the package was removed, pyarrow.parquet may still be found
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(f"{shard}: reading Parquet needs another package: pip install 'unshaken[data]'") from error
    with reading(shard):
        file, size = ParquetFile(shard), shard.stat().st_size
        rows = file.metadata.num_rows
    if rows > max(size, 1000):
        raise ValueError(f"{shard} declares {rows:,} images but has only {size:,} bytes: it is damaged")
    if image_column(file) is None:
        raise ValueError(
            f"{shard} has no column 'image' of encoded images (binary, or a struct with bytes); "
            f"it has {', '.join(file.schema_arrow.names)}"
        )
    return file


@contextmanager
def reading(shard: Path) -> Iterator[None]:
    """Turn any error of the Parquet reader into a ValueError that names the file."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{shard} cannot be read as Parquet: {reason}") from error
