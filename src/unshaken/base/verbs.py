"""The verbs of the command line, with a line on each."""

from __future__ import annotations

VERBS = {
    "pretrain": "train an encoder: unshaken pretrain acl/cifar10",
    "robustify": "make a pre-trained encoder robust without labels: unshaken robustify timm/resnet50 --data photos",
    "plan": "say what this machine can do in a given time: unshaken plan acl/cifar10 --seconds 600",
    "finetune": "fine-tune it with labels (SLF, ALF, AFF): unshaken finetune RUN --mode all",
    "evaluate": "measure standard and robust accuracy: unshaken evaluate RUN",
    "compare": "test if two results differ by more than chance: unshaken compare A.json B.json",
    "report": "show results as a table, or as a page: unshaken report RUN [RUN ...] [--html FILE]",
    "board": "make a site of static pages from results: unshaken board results --out site",
    "submit": "write one file of a run, for a board: unshaken submit RUN --by NAME",
    "doctor": "check if an evaluation can be believed: unshaken doctor RUN",
    "checkup": "check an encoder without labels: unshaken checkup ENCODER --data FOLDER",
    "dial": "accuracy between the original and the robust encoder: unshaken dial ENCODER --data FOLDER",
    "frontier": "draw accuracy against speed-up on coresets: unshaken frontier RUN [RUN ...]",
    "coreset": "show which images were selected: unshaken coreset show RUN",
    "demo": "do all of it on digits, in minutes on two CPU cores",
    "import": "read a checkpoint of other code: unshaken import FILE",
    "export": "write an encoder for timm, torchvision, ONNX or the Hub: unshaken export RUN --to onnx",
    "pack": "copy images into one file, for sets larger than memory: unshaken pack FOLDER --out FILE",
    "embed": "write the features of all images: unshaken embed ENCODER --data FOLDER --out FILE.parquet",
    "predict": "write the predicted classes: unshaken predict CLASSIFIER --data FOLDER --out FILE.csv",
    "text-embeddings": "embed class names for zero-shot: unshaken text-embeddings FOLDER --names names.txt",
    "verify": "check that a network or a result is what it says: unshaken verify FILE",
    "list": "list methods, modes, data, networks, or a recipe's values: unshaken list acl/cifar10",
    "cite": "print BibTeX of what a run used: unshaken cite RUN",
    "completion": "print a script by which a shell completes words: unshaken completion bash",
}
