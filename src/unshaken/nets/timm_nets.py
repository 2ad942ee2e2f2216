"""Networks of the package timm: any of its names, and ViT-S with patches for small images; published classifiers.

timm is an extra, and is imported when one of its networks is built, not before. Its networks are as it defines them
but for the classifier, which is left out, and the side of the images, where one is part of the network: a ResNet of
timm's has its 7×7 stem and its pool at 32 pixels too (resnet18 without "timm/" has neither).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn

from unshaken.base.suggest import did_you_mean
from unshaken.nets.network import Normalize
from unshaken.nets.published_weights import from_hub, from_url
from unshaken.nets.resnet import Stem
from unshaken.nets.torchvision_ops import declare_operators

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

PATCHES = {32: 4, 96: 12, 224: 16}
"""Of ViT-S, side of a patch in pixels by that of the image: 64, 64 and 196 patches."""


def timm_package() -> ModuleType:
    """ValueError if it is not installed."""
    declare_operators()
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name not in ("timm", "torchvision"):  # an installed timm that is broken says so itself
            raise
        raise ValueError(f"this network needs {error.name}, of the extra: pip install 'unshaken[timm]'") from None
    return timm


def timm_config(name: str) -> PretrainedCfg:
    """What timm notes of a network: input_size, mean, std, has_weights. ValueError if it has none of this name.

    name    timm's, such as resnet18, or with a tag resnet18.a1_in1k
    """
    timm = timm_package()
    try:
        config = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # the tag is wrong
        config = None
    if config is None:
        hint = did_you_mean(name, [*timm.list_models(), *timm.list_pretrained()])
        raise ValueError(f"timm has no network {name!r}{hint}")
    return config


def timm_net(name: str, stem: Stem, channels: int = 3, pretrained: bool = False) -> tuple[nn.Module, int]:
    """timm's network without its classifier, and how many features it gives.

    pretrained  with the published weights, which timm downloads; its own initial weights otherwise
    """
    config = timm_config(name)
    wanted: dict[str, Any] = {"num_classes": 0, "in_chans": channels}
    wanted |= _with_weights(name, config) if pretrained else {}
    create = timm_package().create_model
    try:
        net = create(name, **wanted, img_size=stem)
    except TypeError as error:  # unexpected keyword argument: a network of convolutions reads any side
        if "img_size" not in str(error):
            raise
        net = create(name, **wanted)
    net.pretrained_cfg.pop("state_dict", None)
    return net, net.head_hidden_size  # num_features is the width before a layer that some have below the classifier


def _with_weights(name: str, config: PretrainedCfg) -> dict[str, Any]:
    """What timm's create_model is given to load weights that were read here: it would read a pickle by itself."""
    if config.custom_load:  # arrays of NumPy, which timm loads without pickles
        return {"pretrained": True}
    if config.hf_hub_id:
        repository, _, revision = config.hf_hub_id.partition("@")
        file = config.hf_hub_filename if config.hf_hub_filename not in (None, "pytorch_model.bin") else None
        weights = from_hub(repository, f"timm/{name}", file, revision or None)
    else:
        weights = from_url(config.url, f"timm/{name}")  # pyright: ignore[reportArgumentType]
    return {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": weights}}


def vit_small(stem: Stem, channels: int = 3) -> tuple[nn.Module, int]:
    """ViT-S (Touvron et al., ICML 2021, arXiv:2012.12877): 12 blocks, 384 wide, 6 heads; the class token's features."""
    net = timm_package().create_model(
        "vit_small_patch16_224", num_classes=0, in_chans=channels, img_size=stem, patch_size=PATCHES[stem]
    )
    return net, net.head_hidden_size


def published_classifier(name: str, pretrained: bool = True) -> tuple[nn.Module, int]:
    """A network for images in [0, 1] with the weights that a package has for it; the side of its images.

    name        timm/NAME or torchvision/NAME
    pretrained  download the weights if they are not there; False leaves initial ones
    """
    package, _, known = name.partition("/")
    make = {"timm": _timm_classifier, "torchvision": _torchvision_classifier}.get(package)
    if make is None:
        raise ValueError(f"a published classifier is named timm/NAME or torchvision/NAME, not {name!r}")
    return make(known, pretrained)


def _timm_classifier(name: str, pretrained: bool) -> tuple[nn.Module, int]:
    config = timm_config(name)
    if pretrained and not config.has_weights:
        raise ValueError(f"timm has no weights for {name}, so there is nothing to judge")
    net = timm_package().create_model(name, **(_with_weights(name, config) if pretrained else {}))
    net.pretrained_cfg.pop("state_dict", None)
    return nn.Sequential(Normalize(config.mean, config.std), net), config.input_size[-1]


def _torchvision_classifier(name: str, pretrained: bool) -> tuple[nn.Module, int]:
    timm_package()  # which says what is missing, torchvision being of the same extra
    from torchvision import models

    known = models.list_models(module=models)  # which leaves detectors and segmenters out
    if name not in known:
        raise ValueError(f"torchvision has no network {name!r}{did_you_mean(name, known)}")
    weights = models.get_model_weights(name).DEFAULT  # pyright: ignore[reportAttributeAccessIssue]
    how = weights.transforms()
    with _our_reader(type(weights), name):
        net = models.get_model(name, weights=weights if pretrained else None, progress=False)
    return nn.Sequential(Normalize(how.mean, how.std), net), how.crop_size[0]


def class_words(name: str, count: int) -> tuple[tuple[str, ...], ...]:
    """What the logits of a published classifier stand for, in all words known for each; () where nobody says.

    name   timm/NAME or torchvision/NAME, as in `published_classifier`
    count  how many logits it has
    """
    package, _, known = name.partition("/")
    timm_package()
    from timm.data import ImageNetInfo, infer_imagenet_subset

    words: list[tuple[str, ...]] = [()] * count
    if subset := infer_imagenet_subset({"num_classes": count}):
        info = ImageNetInfo(subset)
        words = [(info.index_to_label_name(k), *info.index_to_description(k).split(", ")) for k in range(count)]
    if package == "torchvision":
        from torchvision import models

        names = models.get_model_weights(known).DEFAULT.meta.get("categories") or ()  # pyright: ignore[reportAttributeAccessIssue]
        if len(names) == count:
            words = [(*known, name) for known, name in zip(words, names, strict=True)]
    return tuple(words) if all(words) else ()


@contextmanager
def _our_reader(kind: type, name: str) -> Iterator[None]:
    """torchvision's builders ask their table of weights to load them, which it does with a pickle that may run code."""
    owner = next(each for each in kind.__mro__ if "get_state_dict" in vars(each))
    theirs = owner.get_state_dict
    owner.get_state_dict = lambda weights, *_, **__: from_url(weights.url, f"torchvision/{name}")
    try:
        yield
    finally:
        owner.get_state_dict = theirs
