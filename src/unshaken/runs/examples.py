"""Writing adversarial examples: a picture with the answers, and the images as safetensors."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from unshaken.base.json_files import write_bytes
from unshaken.evaluation.examples import AdversarialExamples
from unshaken.report.contact_sheet import PAPER, contact_sheet

TIMES = 10
"""The factor by which the sheet shows the perturbations."""
COLUMNS = 8
CAPTION = 12
"""The height in pixels of a line of text below an image, and the letters' width is half of it."""


def write_examples(found: AdversarialExamples, file: Path, quiet: bool) -> None:
    """Write NAME-examples.safetensors and NAME-examples.png beside a result's file, and say so."""
    if not len(found):
        print("note: the attack changed no answer, so there are no adversarial images to write", file=sys.stderr)
        return
    tensors = file.with_name(f"{file.stem}-examples.safetensors")
    found.save(tensors)
    buffer = BytesIO()
    sheet(found).save(buffer, "PNG")
    write_bytes(tensors.with_suffix(".png"), buffer.getvalue())
    if not quiet:
        print(
            f"{tensors.with_suffix('.png')} shows {len(found)} adversarial images (clean, {TIMES} × the perturbation, "
            f"adversarial), and {tensors.name} holds them",
            file=sys.stderr,
        )


def sheet(found: AdversarialExamples) -> Image.Image:
    """Draw rows of clean images, their perturbations and adversarial images, with label → answer below each."""
    groups = [slice(at, at + COLUMNS) for at in range(0, len(found), COLUMNS)]
    blocks = [_block(found, group) for group in groups]
    canvas = Image.new("RGB", (blocks[0].width, sum(block.height for block in blocks)), PAPER)
    top = 0
    for block in blocks:
        canvas.paste(block, (0, top))
        top += block.height
    return canvas


def _block(found: AdversarialExamples, group: slice) -> Image.Image:
    clean, adversarial = found.clean[group], found.adversarial[group]
    shown = torch.cat([clean, 0.5 + TIMES * (adversarial - clean), adversarial])
    pixels = (shown.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    images = contact_sheet(pixels, columns=len(clean))
    block = Image.new("RGB", (images.width, images.height + CAPTION), PAPER)
    block.paste(images, (0, 0))
    pen, width = ImageDraw.Draw(block), images.width // len(clean)
    for k, caption in enumerate(found.captions[group]):
        words = caption.replace(" → ", ">").encode("ascii", "replace").decode()[: max(3, 2 * width // CAPTION)]
        pen.text((2 + k * width, images.height), words, fill=(0, 0, 0))
    return block
