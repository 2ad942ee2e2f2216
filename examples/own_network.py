"""Pre-train, fine-tune and evaluate a network of your own: any torch.nn.Module from images to features.

    python examples/own_network.py [FOLDER]

The command line takes the same network: unshaken pretrain acl/digits --backbone.name examples/own_network.py:net
--backbone.args "width=32".
"""

import sys
from dataclasses import replace

from torch import nn

import unshaken


def net(width: int = 16, channels: int = 1) -> nn.Module:
    """A small network from images (N C H W) to features (N D). Its batch norms get a route for each kind of image."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def main(folder: str) -> None:
    workspace = unshaken.Workspace(folder, quiet=True)
    backbone = unshaken.Backbone.of(net, image_size=8, channels=1, width=24)
    print(f"the run names its network {backbone.name}({backbone.args}), and hashes its code: {backbone.code}")

    recipe = replace(unshaken.recipe("acl/digits"), backbone=backbone, epochs=1)
    encoder = unshaken.pretrain(replace(recipe, data=unshaken.DataSource("digits", limit=256)), workspace)
    probe = replace(unshaken.finetune_recipe(encoder, "slf"), epochs=3)
    classifier = unshaken.finetune(encoder, probe, unshaken.Workspace(quiet=True))
    result = unshaken.evaluate(classifier, evaluation=unshaken.Evaluation(limit=200), workspace=workspace)
    print(f"robust accuracy: {result['robust']['correct']} of {result['robust']['n']}")

    # A module given as an object trains as well, from the weights that it has. No name builds it again, so a later
    # process calls Backbone.of(such_a_network) before it loads the run.
    given = unshaken.Backbone.of(net(8), image_size=8, channels=1)
    print(f"a network given as an object: {given.name}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs")
