"""Callbacks for Lightning: adversarial views, a robust probe in training, an evaluation at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unshaken.attacks.ball import Linf
from unshaken.attacks.base import Attack
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.data.images import Images
from unshaken.evaluation.protocol import Evaluation
from unshaken.nets.network import device_of, frozen
from unshaken.nets.torchvision_ops import declare_operators
from unshaken.runs.evaluate import evaluate
from unshaken.runs.workspace import Workspace

ENCODERS = ("backbone", "encoder")
"""Attributes of a LightningModule that are taken as the encoder, the first that there is."""
CHUNK = 256


def _callback() -> type:
    """Return Lightning's Callback, of the package that the program imported, else of the one that is installed."""
    declare_operators()  # torchmetrics imports torchvision
    names = ("pytorch_lightning", "lightning.pytorch")
    for name in sorted(names, key=lambda name: name not in sys.modules):
        try:
            return import_module(name).Callback
        except ImportError:
            continue
    raise ImportError("no Lightning is installed: pip install 'unshaken[lightning]'")


Callback: Any = _callback()


def encoder_of(module: nn.Module, encoder: str | Callable[[nn.Module], nn.Module] | None) -> nn.Module:
    """Return the encoder of a LightningModule, from images to features. ValueError if it is not found."""
    if callable(encoder):
        return encoder(module)
    names = ENCODERS if encoder is None else (encoder,)
    found = next((getattr(module, name) for name in names if isinstance(getattr(module, name, None), nn.Module)), None)
    if found is None:
        raise ValueError(f"{type(module).__name__} has no {' or '.join(names)}: name its encoder, encoder='net'")
    return found


class Pixels:
    """The map between a module's normalised images and images in [0, 1]."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def normalised(self, x: Tensor) -> Tensor:
        return (x - self.mean.to(x)) / self.std.to(x)

    def plain(self, x: Tensor) -> Tensor:
        return x * self.std.to(x) + self.mean.to(x)


class AdversarialViews(Callback):
    """Replace views of each training batch by adversarial ones, which move the encoder's features the farthest.

    attack   maximises ‖f(x̃) − f(x)‖² within its ball around each image; without labels
    views    how many of the image tensors of a batch are replaced, the first ones
    encoder  the encoder's attribute, or a function that finds it in the module
    mean,    the normalisation of the images in the batches; by default they are in [0, 1]
    std

    The module's modes, gradients and statistics are as before. Images of the batch are changed in place.
    """

    def __init__(
        self,
        attack: Attack = PGD(Linf(8 / 255), steps=5),
        views: int = 1,
        encoder: str | Callable[[nn.Module], nn.Module] | None = None,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        seed: int = 1,
    ) -> None:
        self.attack, self.views, self.encoder, self.pixels = attack, views, encoder, Pixels(mean, std)
        self.key = Key(seed) / "lightning"

    def on_train_batch_start(self, trainer: Any, pl_module: nn.Module, batch: Any, batch_idx: int) -> None:
        net, key = encoder_of(pl_module, self.encoder), self.key / trainer.global_step
        for number, x in zip(range(self.views), images_in(batch), strict=False):
            with frozen(net):
                x.copy_(self.pixels.normalised(self._attacked(net, self.pixels.plain(x), key / number)))

    def _attacked(self, net: nn.Module, x: Tensor, key: Key) -> Tensor:
        def features(x: Tensor) -> Tensor:
            return net(self.pixels.normalised(x)).flatten(1)

        with torch.no_grad():
            f = features(x)
        return self.attack(lambda x: (features(x) - f).square().sum(1), x.clamp(0, 1), None, key).detach()


def images_in(batch: Any) -> Iterator[Tensor]:
    """Yield the image tensors (N C H W) of a batch, in its order, also within lists, tuples and dictionaries."""
    if isinstance(batch, Tensor):
        if batch.ndim == 4 and batch.is_floating_point():
            yield batch
    elif isinstance(batch, (list, tuple, dict)):
        for each in batch.values() if isinstance(batch, dict) else batch:
            yield from images_in(each)


class RobustProbe(Callback):
    """Log clean and robust accuracy of a linear probe every few epochs, and evaluate the encoder at the end.

    train, test  labelled images, `Images`, or anything that `Images.of` reads: the probe is a ridge regression on the
                 features of the first, and is judged on the second
    every        epochs between two probes, on the first `limit` test images; 0: only at the end
    evaluation   what is measured, as by `unshaken.evaluate`; at the end on all test images
    folder       where the result of the end is written; None: it is only `result`

    The rest is as for `AdversarialViews`. Logged are robust/standard and robust/robust, in percent.
    """

    def __init__(
        self,
        train: Any,
        test: Any,
        every: int = 10,
        limit: int = 256,
        evaluation: Evaluation = Evaluation(),
        encoder: str | Callable[[nn.Module], nn.Module] | None = None,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        folder: Path | str | None = None,
    ) -> None:
        self.train, self.test = (
            each if isinstance(each, Images) else Images.of(*(each if isinstance(each, tuple) else (each,)))
            for each in (train, test)
        )
        self.every, self.limit, self.evaluation, self.encoder = every, limit, evaluation, encoder
        self.pixels, self.folder, self.result = Pixels(mean, std), folder, None

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.every and (trainer.current_epoch + 1) % self.every == 0:
            result = self._evaluated(pl_module, self.test[: self.limit], None)
            pl_module.log_dict({f"robust/{name}": result[name]["percent"] for name in ("standard", "robust")})

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.result = self._evaluated(pl_module, self.test, self.folder)

    def _evaluated(self, module: nn.Module, images: Images, folder: Path | str | None) -> dict[str, Any]:
        net = encoder_of(module, self.encoder)
        classifier = Probed(net, self.pixels, self.train, device_of(net))
        with torch.enable_grad(), torch.inference_mode(False):
            result = evaluate(
                classifier, images, self.evaluation, Workspace(folder, quiet=True), name=type(module).__name__
            )
        assert result is not None
        return result


class Probed(nn.Module):
    """A linear probe on an encoder: ridge regression of the classes on its features, in float64."""

    def __init__(
        self, net: nn.Module, pixels: Pixels, images: Images, device: torch.device, ridge: float = 1e-2
    ) -> None:
        super().__init__()
        if images.label is None:
            raise ValueError(f"a probe needs labels, and {images.name} has none")
        self.net, self.pixels = net, pixels
        with frozen(net), torch.no_grad():
            parts = [images.floats(slice(at, at + CHUNK)).to(device) for at in range(0, len(images), CHUNK)]
            f = torch.cat([self.features(x) for x in parts]).double()
        f = torch.cat([f, torch.ones(len(f), 1, device=device)], 1)
        gram = f.T @ f / len(f) + ridge * torch.eye(f.shape[1], device=device)
        target = torch.nn.functional.one_hot(images.label.to(device), len(images.names)).double()
        self.register_buffer("theta", torch.linalg.solve(gram, f.T @ target / len(f)).float())

    def features(self, x: Tensor) -> Tensor:
        return self.net(self.pixels.normalised(x)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x) @ self.theta[:-1] + self.theta[-1]  # pyright: ignore[reportIndexIssue]
