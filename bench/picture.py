"""The picture in the README: the answers of a SimCLR and an ACL classifier to attacked digits.

python -m bench.picture      # docs/readme.svg; the runs of `make demo` are trained first if they are missing
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

import unshaken
from unshaken.base.rng import Key
from unshaken.charts.svg import document, text
from unshaken.data.images import Images
from unshaken.nets.network import Network
from unshaken.runs.evaluate import default_evaluation

RUNS = Path("demo/runs")
OUT = Path("docs/readme.svg")
METHODS = ("simclr", "acl")
COUNT = 8
"""Number of digits: the first of the test images, whatever the answers are."""
CELL, LEFT, TOP = 76, 150, 44
"""In pixels: the side of a digit with its margin, and the position of the first digit."""
RIGHT, WRONG = "#1aa179", "#d8433b"
Row = tuple[str, str, Tensor, Tensor]
"""Title, subtitle, images (N 1 8 8) and answers (N)."""


def main() -> None:
    images = unshaken.DataSource("digits").load("test")[:COUNT]
    rows, lines = [], []
    for method in METHODS:
        found, line = rows_of(method, images)
        rows += found
        lines.append(line)
    OUT.write_text(picture(rows, images.label, lines))
    print("\n".join([*lines, str(OUT)]))


def rows_of(method: str, images: Images) -> tuple[list[Row], str]:
    """The clean and the attacked images with a classifier's answers, and its accuracies on all test images in words."""
    workspace = unshaken.Workspace(RUNS, unshaken.Runtime(precision="auto"), quiet=True)
    encoder = unshaken.pretrain(f"{method}/digits", workspace)
    run = unshaken.finetune(encoder, "slf", unshaken.Workspace(runtime=workspace.runtime, quiet=True))
    result = unshaken.evaluate(run, workspace=unshaken.Workspace(quiet=True))
    net, _ = unshaken.load_classifier(run / "classifier.safetensors")
    x, attack = images.floats(slice(None)), default_evaluation(run).attack
    x_adv = attack(
        lambda x: cross_entropy(net(x, "adv"), images.label, reduction="sum"), x, (Key(1) / "picture").on(x.device)
    )
    rows = [(method, "clean", x, answers(net, x)), (method, "attacked", x_adv, answers(net, x_adv))]
    counts = [f"{result[part]['correct']} of {result[part]['n']} {words}" for part, words in WORDS.items()]
    return rows, f"{method}: {', '.join(counts)}"


WORDS = {"standard": "clean digits right", "robust": "under PGD-20"}


@torch.no_grad()
def answers(net: Network, x: Tensor) -> Tensor:
    return net(x, "adv").argmax(dim=-1)


def picture(rows: list[Row], label: Tensor, lines: list[str]) -> str:
    """The rows as SVG, each digit with the answer to it in green or in red."""
    body = [
        text(16, 26, "Neither encoder saw a label; a linear classifier on each was fitted to clean digits.", "strong")
    ]
    top = TOP
    for method, kind, images, found in rows:
        body += [text(16, top + 30, method, "strong", size=14), text(16, top + 48, kind)]
        for k in range(COUNT):
            body += digit(LEFT + k * CELL, top, images[k, 0], int(found[k]), int(label[k]))
        top += CELL + 14
    for k, line in enumerate([*lines, "PGD-20, l∞ 0.1 on pixels in [0, 1]; one run each, seed 1"]):
        body.append(text(16, top + 16 + 16 * k, line))
    title = "Digits, and the answers of a SimCLR and an ACL classifier before and after an attack"
    return document(body, LEFT + COUNT * CELL + 8, top + 64, title, alone=True)


def digit(left: int, top: int, image: Tensor, answer: int, label: int) -> list[str]:
    side, colour = CELL - 20, RIGHT if answer == label else WRONG
    place = f'x="{left}" y="{top}" width="{side}" height="{side}"'
    mark = "✓" if answer == label else "✗"
    words = (
        f'<text x="{left + side / 2}" y="{top + side + 16}" text-anchor="middle" style="fill:{colour};font-weight:600"'
    )
    return [
        f'<image {place} href="data:image/png;base64,{png(image)}"/>',
        f'<rect {place} style="fill:none;stroke:{colour};stroke-width:2"/>',
        f'{words} font-size="13">{answer} {mark}</text>',
    ]


def png(image: Tensor) -> str:
    """A grey image (H W) in [0, 1], dark on white and seven times as large, in base 64."""
    pixels = (255 * (1 - image.clamp(0, 1))).round().to(torch.uint8)
    large = Image.fromarray(pixels.numpy()).resize((56, 56), Image.Resampling.NEAREST)
    held = io.BytesIO()
    large.save(held, "PNG", optimize=True)
    return base64.b64encode(held.getvalue()).decode()


if __name__ == "__main__":
    main()
