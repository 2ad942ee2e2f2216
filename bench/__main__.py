"""`python -m bench NAME`: one comparison; its last line is one JSON object."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

import torch

from bench import records

NAMES = {
    "acl-step": "one step of ACL in float32 and in bf16, against the published one",
    "air-forms": "the gradients of AIR's three forms on natural images, beside ACL's",
    "air-step": "the same with adversarial invariant regularisation",
    "augment": "SimCLR's views of a batch, against torchvision on one PIL image at a time",
    "campaign": "a robust encoder in a given time, from the plan to AutoAttack (options of its own: campaign --help)",
    "clusters": "pseudo-labels of ++ on CIFAR-10 against its classes (options of its own: clusters --help)",
    "evidence": "methods at about one cost on CIFAR-10 (options of its own: evidence --help)",
    "autoattack": "AutoAttack in float32 and with a verified bf16 search, against pyautoattack",
    "gpu": "training steps on a GPU: images/s, memory, utilisation, the price of determinism, projected hours",
    "loss": "NT-Xent and its gradient in time and memory, against whole matrices of all pairs",
    "networks": "steps of ACL and DeACL on networks of many kinds, against two plain ways to compute them",
    "rcs-gain": "whether the gain that RCS maximises forecasts robustness, over random fifths of digits",
    "scaling": "what an image costs in a set of a thousand and in one of a million, and the memory of a selection",
    "selection": "a coreset selection by RCS, against the published procedure",
    "selectors": "coreset selectors against chance on digits (options of its own: selectors --help)",
    "report": "no comparison: print the kept results as a table, with processor and precision",
    "startup": "from the command to the help, and to the first training step, against importing torch",
}
OWN_OPTIONS = ("campaign", "clusters", "evidence", "selectors")


def main() -> None:
    if sys.argv[1:] == ["--names"]:
        gpu = importlib.import_module("bench.gpu").there()
        print("\n".join(name for name in NAMES if name not in (*OWN_OPTIONS, "report") and (name != "gpu" or gpu)))
        return
    if sys.argv[1:2] and sys.argv[1] in OWN_OPTIONS:
        importlib.import_module(f"bench.{sys.argv[1]}").main(sys.argv[2:])
        return
    if sys.argv[1:2] == ["report"]:
        print(records.report())
        return
    listing = "\n".join(f"  {name:<11} {line}" for name, line in NAMES.items())
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench", description=f"{__doc__}\n\n{listing}", formatter_class=form)
    parser.add_argument("name", choices=NAMES, metavar="NAME")
    parser.add_argument("--data", type=Path, help="a folder of real images, where a comparison can use them")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side runs; seeds are 1, 2, ...")
    parser.add_argument("--quick", action="store_true", help="the same on few images, to see that it runs")
    parser.add_argument("--keep", action="store_true", help="keep the result in bench/results/NAME.json")
    parser.add_argument("--seconds", type=float, help="gpu: the short form, in so many seconds")
    parser.add_argument("--out", type=Path, help="gpu: a file to which each row is added as it is measured")
    options = parser.parse_args()
    if options.rounds < 1:
        sys.exit(f"bench: --rounds is 1 or more, not {options.rounds}")
    if options.data and not options.data.exists():
        sys.exit(f"bench: there is no {options.data}")
    if options.name not in ("gpu", "scaling"):  # threads wait for each other where other programs use the cores
        torch.set_num_threads(1)
    before = records.load()
    module = importlib.import_module(f"bench.{options.name.replace('-', '_')}")
    given = {"seconds": options.seconds, "out": options.out} if options.name == "gpu" else {}
    result = {"name": options.name} | module.compare(options.data, options.rounds, options.quick, **given)
    result |= records.about(before)
    if options.keep:
        records.keep(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
