"""Networks from timm, ViT-S for small images, and published classifiers.

timm is an optional dependency, imported only when one of its networks is built. The networks are as timm defines them,
except that they have no classifier and, where the image size is part of the network, the size that is asked for. A timm
ResNet keeps its 7×7 stem and its pool even for 32 pixels (resnet18 without "timm/" has neither).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn

from unshaken.base.suggest import did_you_mean
from unshaken.nets.network import Normalize
from unshaken.nets.published_weights import file_of, from_hub, from_url
from unshaken.nets.torchvision_ops import declare_operators

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

PATCHES = 8
"""ViT-S has this many patches along a side for images of up to 128 pixels; for larger ones, patches of 16 pixels."""


def timm_package() -> ModuleType:
    """Import timm. ValueError if it is not installed."""
    declare_operators()
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name not in ("timm", "torchvision"):  # timm is installed but broken: its own error is clearer
            raise
        raise ValueError(f"this network needs {error.name}: pip install 'unshaken[timm]'") from None
    return timm


def timm_config(name: str) -> PretrainedCfg:
    """Return timm's configuration of a network: input_size, mean, std, has_weights. ValueError for an unknown name.

    name    timm's name, such as resnet18, or with a tag resnet18.a1_in1k
    """
    timm = timm_package()
    try:
        config = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # timm raises this for an unknown tag
        config = None
    if config is None:
        hint = did_you_mean(name, [*timm.list_models(), *timm.list_pretrained()])
        raise ValueError(f"timm has no network {name!r}{hint}")
    return config


def timm_net(name: str, side: int, channels: int = 3, pretrained: bool = False) -> tuple[nn.Module, int]:
    """Build a timm network without its classifier; return it and its number of features.

    pretrained  download the published weights; otherwise the network has timm's initial weights
    """
    config = timm_config(name)
    wanted: dict[str, Any] = {"num_classes": 0, "in_chans": channels}
    wanted |= _with_weights(name, config) if pretrained else {}
    create = timm_package().create_model
    try:
        net = create(name, **wanted, img_size=side)
    except TypeError as error:  # a convolutional network has no argument img_size: it reads any side
        if "img_size" not in str(error):
            raise
        net = create(name, **wanted)
    net.pretrained_cfg.pop("state_dict", None)
    return net, net.head_hidden_size  # not num_features: some networks have one more layer below the classifier


def _with_weights(name: str, config: PretrainedCfg) -> dict[str, Any]:
    """Return the arguments that make timm's create_model load weights read here; timm itself would unpickle them."""
    if config.custom_load:  # NumPy arrays, which timm loads without unpickling
        return {"pretrained": True}
    if config.hf_hub_id:
        repository, _, revision = config.hf_hub_id.partition("@")
        file = config.hf_hub_filename if config.hf_hub_filename not in (None, "pytorch_model.bin") else None
        weights = from_hub(repository, f"timm/{name}", file, revision or None)
    else:
        weights = from_url(config.url, f"timm/{name}")  # pyright: ignore[reportArgumentType]
    return {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": weights}}


def patch_of(side: int) -> int:
    """Return the side of a patch of ViT-S: 4 pixels for images of 32, 12 for 96, 16 for 128 and more."""
    if side > 16 * PATCHES and side % 16:
        raise ValueError(f"vit-small reads images above {16 * PATCHES} pixels in multiples of 16, not {side}")
    return min(side // PATCHES, 16)


def vit_small(side: int, channels: int = 3) -> tuple[nn.Module, int]:
    """Build ViT-S (Touvron et al., ICML 2021, arXiv:2012.12877): 12 blocks, width 384, 6 heads, class token."""
    net = timm_package().create_model(
        "vit_small_patch16_224", num_classes=0, in_chans=channels, img_size=side, patch_size=patch_of(side)
    )
    return net, net.head_hidden_size


def published_classifier(name: str, pretrained: bool = True) -> tuple[nn.Module, int]:
    """Build a published classifier for images in [0, 1]; return it and the side of its images.

    name        timm/NAME or torchvision/NAME
    pretrained  download the weights unless they are cached; False keeps initial weights
    """
    package, _, short = name.partition("/")
    make = {"timm": _timm_classifier, "torchvision": _torchvision_classifier}.get(package)
    if make is None:
        raise ValueError(f"a published classifier is named timm/NAME or torchvision/NAME, not {name!r}")
    return make(short, pretrained)


def _timm_classifier(name: str, pretrained: bool) -> tuple[nn.Module, int]:
    config = timm_config(name)
    if pretrained and not config.has_weights:
        raise ValueError(f"timm has no weights for {name}, so there is nothing to evaluate")
    net = timm_package().create_model(name, **(_with_weights(name, config) if pretrained else {}))
    net.pretrained_cfg.pop("state_dict", None)
    return nn.Sequential(Normalize(config.mean, config.std), net), config.input_size[-1]


def _torchvision_classifier(name: str, pretrained: bool) -> tuple[nn.Module, int]:
    timm_package()  # raises a clear error if torchvision, which the same extra installs, is missing
    from torchvision import models

    names = models.list_models(module=models)  # classifiers only: no detectors, no segmenters
    if name not in names:
        raise ValueError(f"torchvision has no network {name!r}{did_you_mean(name, names)}")
    weights = models.get_model_weights(name).DEFAULT  # pyright: ignore[reportAttributeAccessIssue]
    how = weights.transforms()
    with _safe_reader(type(weights), name):
        net = models.get_model(name, weights=weights if pretrained else None, progress=False)
    return nn.Sequential(Normalize(how.mean, how.std), net), how.crop_size[0]


def torchvision_file(name: str) -> Path:
    """Return the file of torchvision's default weights for a network, which is downloaded if it is missing."""
    timm_package()  # raises a clear error if torchvision, which the same extra installs, is missing
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise ValueError(f"torchvision has no network {name!r}{did_you_mean(name, names)}")
    return file_of(models.get_model_weights(name).DEFAULT.url, f"torchvision/{name}")  # pyright: ignore[reportAttributeAccessIssue]


def class_words(name: str, count: int) -> tuple[tuple[str, ...], ...]:
    """Return all names of each class of a published classifier, in the order of its logits; () if they are unknown.

    name   timm/NAME or torchvision/NAME, as in `published_classifier`
    count  the number of logits
    """
    package, _, short = name.partition("/")
    timm_package()
    from timm.data import ImageNetInfo, infer_imagenet_subset

    words: list[tuple[str, ...]] = [()] * count
    if subset := infer_imagenet_subset({"num_classes": count}):
        info = ImageNetInfo(subset)
        words = [(info.index_to_label_name(k), *info.index_to_description(k).split(", ")) for k in range(count)]
    if package == "torchvision":
        from torchvision import models

        names = models.get_model_weights(short).DEFAULT.meta.get("categories") or ()  # pyright: ignore[reportAttributeAccessIssue]
        if len(names) == count:
            words = [(*others, name) for others, name in zip(words, names, strict=True)]
    return tuple(words) if all(words) else ()


@contextmanager
def _safe_reader(kind: type, name: str) -> Iterator[None]:
    """Make torchvision's builders load weights with our reader: their own unpickles the file, which may run code."""
    owner = next(each for each in kind.__mro__ if "get_state_dict" in vars(each))
    theirs = owner.get_state_dict
    owner.get_state_dict = lambda weights, *_, **__: from_url(weights.url, f"torchvision/{name}")
    try:
        yield
    finally:
        owner.get_state_dict = theirs
