"""Watch a run from your own program: an observer is any object with some of these methods.

    python examples/own_observer.py [FOLDER]

The command line has ready ones: unshaken pretrain acl/digits --observe csv,tensorboard
"""

import sys
from dataclasses import replace

import unshaken
from unshaken.train.trackers import CSV


class LossDrop:
    """Note the loss at the end of each epoch, and say at the end by how much it fell."""

    def start(self, run):
        self.losses = []
        print(f"{run.name}: {run.epochs} epochs, method {run.recipe['name']}")

    def line(self, line):
        self.last = line["loss"]

    def epoch(self, epoch):
        self.losses.append(self.last)

    def end(self, outcome, summary):
        print(f"{outcome}: the loss fell from {self.losses[0]:.2f} to {self.losses[-1]:.2f}")


workspace = unshaken.Workspace(sys.argv[1] if len(sys.argv) > 1 else "runs", quiet=True)
recipe = replace(unshaken.recipe("simclr/digits"), data=unshaken.DataSource("digits", limit=256), epochs=4)
run = unshaken.pretrain(recipe, workspace, observers=[LossDrop(), CSV()])
print((run / "metrics.csv").read_text().splitlines()[0])
