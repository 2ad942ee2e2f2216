"""Train and evaluate on images of your own program: arrays here, but a torch Dataset or Pillow images do as well.

python examples/own_images.py [FOLDER]
"""

import sys
from dataclasses import replace

import numpy as np
from sklearn.datasets import load_digits

import unshaken

# Any program's images: floats in [0, 1] or bytes, (N H W), (N H W C) or (N C H W), with labels or without.
pixels, label = load_digits(return_X_y=True)
pixels = (pixels.reshape(-1, 8, 8) / 16).astype(np.float32)
train = unshaken.Images.of(pixels[:1200], label[:1200], name="mine")
test = unshaken.Images.of(pixels[1200:], label[1200:], name="mine")

workspace = unshaken.Workspace(sys.argv[1] if len(sys.argv) > 1 else "runs", quiet=True)
recipe = replace(unshaken.recipe("simclr/digits"), epochs=2)

# The run is named by the images' content: the same script finds it again, or resumes it.
encoder = unshaken.pretrain(recipe, workspace, data=train)
probe = replace(unshaken.finetune_recipe(encoder, "slf"), epochs=3)
classifier = unshaken.finetune(encoder, probe, unshaken.Workspace(quiet=True), data=train)

# Test images that the run has learned from would be refused.
attack = unshaken.Evaluation(limit=200)
result = unshaken.evaluate(classifier, test, attack, workspace)
for what in ("standard", "robust"):
    print(f"{what} accuracy: {result[what]['correct']} of {result[what]['n']}")
