"""A linear probe as a finished fine-tuning run: it goes to `unshaken evaluate` like any other classifier."""

from __future__ import annotations

from pathlib import Path

from unshaken.base.json_files import write_json
from unshaken.base.serialize import to_json
from unshaken.compute.runtime import Runtime
from unshaken.data.source import DataSource
from unshaken.evaluation.linear_probe import probed
from unshaken.interop.fingerprint import fingerprint
from unshaken.interop.import_options import recipe_of
from unshaken.interop.load import LoadedModel
from unshaken.nets.checkpoint import digest, load_classifier, save_classifier
from unshaken.nets.dual_bn import single_route
from unshaken.nets.network import Network
from unshaken.runs.encoder import PretrainedEncoder, encoder_file
from unshaken.train.image_sets import image_identity, load_labelled, slug
from unshaken.train.training_images import finetuned_on

CLASSIFIER = "classifier.safetensors"


def probe(encoder: Path, source: DataSource, runtime: Runtime = Runtime(), of: Path | None = None) -> Path:
    """Fit a linear probe on the labelled training images of a set, and return the folder of its classifier.

    of  the folder of another encoder's probe: its layer is put on this encoder as it is, and nothing is fitted

    It lies beside the encoder. The encoder stays as it is, and its batch norms are those of its first route.
    """
    file = encoder_file(encoder)
    given = PretrainedEncoder.read(file)
    kind = "old-probe" if of else "probe"
    stem = "" if file.stem in ("encoder", "model") else f"{file.stem}-"
    run = file.parent / f"{stem}{kind}-{slug(source)}-{source.size or given.backbone.image_size}"
    images = load_labelled(source, given.backbone)
    finetuned_on(run, given.seen, images)
    if of is None:
        net = probed(given.encoder, images, runtime)
    else:
        net = Network(single_route(given.encoder, "shared"), load_classifier(of)[0].head).eval()
    recipe = recipe_of(given.metadata["pretrain"]["recipe"]["name"], source.name, method={"type": kind})
    recipe["data"] = to_json(source)
    data = {"encoder": digest(given.encoder), "images": image_identity(images)}
    metadata = {"finetune": {"recipe": recipe, "data": data}, "pretrain": given.metadata["pretrain"]}
    metadata["fingerprint"] = fingerprint(LoadedModel(net, given.backbone, {}))
    save_classifier(run / CLASSIFIER, net, given.backbone, images.names, metadata)
    write_json(run / "recipe.json", {"recipe": to_json(recipe), "data": data})
    write_json(run / "run.json", {"digest": digest(net), "seconds": None, "world": {}})
    return run
