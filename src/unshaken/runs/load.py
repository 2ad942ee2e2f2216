"""Models for use: an encoder or classifier in eval mode on one route, which a hub can store"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from unshaken.base.amounts import amount
from unshaken.base.python_words import in_python
from unshaken.evaluation.result_file import read_result
from unshaken.interop.export import ExportOptions, export
from unshaken.interop.load import LoadedModel, load_model
from unshaken.nets.locate import LIBRARIES, is_repo, locate
from unshaken.nets.network import Network
from unshaken.nets.timm_nets import published_classifier

if TYPE_CHECKING:
    from huggingface_hub import ModelHubMixin
else:
    try:
        from huggingface_hub import ModelHubMixin
    except ImportError:

        class ModelHubMixin:
            """Stands for the class of huggingface_hub where that is not installed."""

            def __init_subclass__(cls, **named: Any) -> None: ...

            def __getattr__(self, name: str) -> Any:
                if name in ("save_pretrained", "push_to_hub"):
                    raise ValueError(f"{name} needs huggingface_hub: pip install 'unshaken[hub]'")
                return super().__getattr__(name)


@in_python
def load(name: str | Path, route: str | None = None, revision: str | None = None) -> nn.Module:
    """Load a model for use: in eval mode, on its robust route, with the normalisation inside.

    name      a run, a file, a folder for a hub, OWNER/NAME on the Hugging Face Hub, timm/NAME or torchvision/NAME
    route     the batch-norm route that images take, adv or clean; by default adv if there is one
    revision  branch, tag or commit of a repository on the Hub

    The module takes images (N, C, H, W) with pixels in [0, 1]. An encoder gives features (N, D), and a classifier
    logits (N, K) in the order of its `names`. Its weights are frozen.
    """
    word = str(name)
    if word.startswith(LIBRARIES) and not Path(word).exists():
        return published_classifier(word)[0].eval().requires_grad_(False)
    return HubModel.from_path(locate(name, revision), route)


class HubModel(nn.Module, ModelHubMixin, library_name="unshaken"):
    """An encoder or a classifier as one module, in eval mode, whose images take one route.

    `save_pretrained`, `push_to_hub` and `from_pretrained` are those of huggingface_hub. The model card has the measured
    accuracies, also as the `model-index` that the Hub shows.

    net      from images (N, C, H, W) in [0, 1] to features or logits
    kind     encoder or classifier
    names    the classes of the logits; empty for an encoder
    origin   the run, file or folder that it was read from
    """

    def __init__(self, loaded: LoadedModel, origin: Path, taken: str | None) -> None:
        # not called `route`: huggingface_hub gives arguments the values of config.json, whose route is merged already
        super().__init__()
        self.net, self.kind, self.origin, self.route = loaded.net, loaded.kind, origin, taken
        self.names: tuple[str, ...] = tuple(loaded.metadata.get("names", ()))
        self.image_size, self.channels = loaded.backbone.image_size, loaded.backbone.channels
        self.eval().requires_grad_(False)

    @classmethod
    def from_path(cls, path: Path, route: str | None = None) -> HubModel:
        """Load a run, a file or a folder. ValueError if it was not written by unshaken, or lacks the route."""
        loaded, taken = load_model(path).with_one_route(route)
        return cls(loaded, path, taken)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            raise ValueError(f"images are floats in [0, 1], not {x.dtype}: x.float() / 255 makes them of pixels to 255")
        return self.net(x, "adv") if isinstance(self.net, Network) else self.net(x)

    def features(self) -> nn.Module:
        """Return a classifier's encoder alone, from images to features."""
        return self.net.encoder if isinstance(self.net, Network) else self

    def extra_repr(self) -> str:
        size = f"images ({self.channels}, {self.image_size}, {self.image_size}) in [0, 1]"
        return f"{self.kind} of {size}" + (f" to {amount(len(self.names), 'class', 'classes')}" if self.names else "")

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write model.safetensors, config.json and the model card, as `export --to hub` does."""
        (save_directory / "README.md").unlink(missing_ok=True)  # what is there is taken for a card of the user's
        export(self.origin, ExportOptions("hub", save_directory, self.route), results_in_run(self.origin))

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, revision: str | None = None, route: str | None = None, **_: Any
    ) -> HubModel:
        """Load a folder or a repository; what huggingface_hub passes beside is for downloads of its own."""
        path = locate(model_id, revision) if is_repo(model_id) else Path(model_id)
        return cls.from_path(path, route)


def results_in_run(path: Path) -> list[dict[str, Any]]:
    """Read all results in a run's folder and below it, for a model card."""
    return [read_result(file) for file in sorted(path.rglob("result*.json"))] if path.is_dir() else []
