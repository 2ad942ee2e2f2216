"""Networks of a user's own: a function or class that a name finds, `mine.py:net`, or a module given as an object.

A name is code that runs, and a file of weights may come from anybody. So only names that the user has given are found:
in this process, earlier on this machine (they are remembered), or in the variable UNSHAKEN_NETWORKS. A run names its
file as it was typed, without the folder of this machine; in another folder, the given file of that name stands for it.
"""

from __future__ import annotations

import copy
import inspect
import os
import sys
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unshaken.base.json_files import read_json, write_json
from unshaken.base.json_shapes import Items
from unshaken.base.own_code import FILES, find, keywords, origin_of
from unshaken.base.source_digest import code_of, code_of_function

VARIABLE = "UNSHAKEN_NETWORKS"
"""An environment variable with names whose code may run, separated by commas."""
GIVEN = "given:"
"""How the name of a network begins that was given as an object."""
_allowed: set[str] = set()
_given: dict[str, nn.Module] = {}
_said: set[str] = set()


def is_own(name: str) -> bool:
    """Return whether a network's name is of a user's own: FILE.py:FUNCTION, PACKAGE.MODULE:FUNCTION, or given."""
    return ":" in name


def allow(name: str) -> None:
    """Allow the code of a name to run in this process: the user has given it."""
    _allowed.add(origin_of(name))


def remember(name: str) -> None:
    """Allow the code of a name in later processes too, such as the one that fine-tunes the run."""
    if name.startswith(GIVEN) or (origin := given_origin(name) or origin_of(name)) in _remembered():
        return
    try:
        _store().parent.mkdir(parents=True, exist_ok=True)
        write_json(_store(), {"networks": [*_remembered(), origin]})
    except OSError as error:
        print(
            f"note: {_store()} cannot be written ({error.strerror}): in other processes, name the network by "
            f"{VARIABLE}={origin}",
            file=sys.stderr,
        )


def _remembered() -> list[str]:
    return read_json(_store(), {"networks": Items(str)})["networks"] if _store().exists() else []


def _store() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "unshaken" / "networks.json"


def factory(name: str) -> Callable[..., Any]:
    """Return the function or class that a name stands for. ValueError if it is not there, or not allowed to run."""
    origin = given_origin(name)
    if origin is None:
        module, _, function = name.rpartition(":")
        there = not module.endswith(".py") or Path(module).expanduser().is_file()
        path = origin_of(name) if there else f"/path/to/{Path(module).name}:{function}"
        raise ValueError(
            f"the network is built by {name}, which is code that would run: to allow it, set {VARIABLE}={path}"
        )
    if origin != origin_of(name) and origin not in _said:
        _said.add(origin)
        print(f"note: {name} is taken from {origin.rpartition(':')[0]}", file=sys.stderr)
    found = find(name if origin == origin_of(name) else origin)
    if not callable(found):
        raise ValueError(f"{name} is a {type(found).__name__}, and not a function or class that makes a network")
    return found


def given_origin(name: str) -> str | None:
    """Return the name with the path of its file, if the user has given it; None if not.

    If the name's own path is not among the given ones, another file of the same name stands for it: first one of
    UNSHAKEN_NETWORKS, and else, if the name's own is not there, the only one that was given earlier. ValueError if
    several are possible.
    """
    named = [origin_of(each.strip()) for each in os.environ.get(VARIABLE, "").split(",") if ":" in each]
    own, earlier = origin_of(name), [*_allowed, *_remembered()]
    if own in named or not own.rpartition(":")[0].endswith(".py"):
        return own if own in {*named, *earlier} else None
    if like := _of_the_same_name(named, own):
        return _only(like, name)
    if own in earlier or Path(own.rpartition(":")[0]).is_file():
        return own if own in earlier else None
    return _only(_of_the_same_name(earlier, own), name)


def _of_the_same_name(origins: list[str], own: str) -> list[str]:
    """Return the given files that are there and have the file's name and the function of another name, each once."""
    found = [each for each in dict.fromkeys(origins) if Path(each).name == Path(own).name]
    return [each for each in found if Path(each.rpartition(":")[0]).is_file()]


def _only(found: list[str], name: str) -> str | None:
    if len(found) > 1:
        raise ValueError(f"{name} may be {' or '.join(found)}: say which by {VARIABLE}={found[0]}")
    return found[0] if found else None


def name_of(made_by: Callable[..., Any]) -> str:
    """Return the name that finds a function or class in another process; "" if none does."""
    module, function = getattr(made_by, "__module__", None), getattr(made_by, "__qualname__", "")
    if not module or not function.isidentifier():
        return ""
    if module != "__main__" and not module.startswith(FILES):
        return f"{module}:{function}"
    file = getattr(sys.modules[module], "__file__", None)
    if file is None:
        return ""
    path, here = Path(file).resolve(), Path.cwd().resolve()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{function}"


def give(module: nn.Module) -> str:
    """Keep a network that was given as an object, and return its name, by class and layout."""
    layout = [(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)]
    digest = blake2b(repr((_classes(module), layout, repr(module))).encode(), digest_size=4).hexdigest()
    name = f"{GIVEN}{type(module).__name__}-{digest}"
    _given[name] = module
    return name


def given_again(name: str) -> nn.Module:
    """Return the network of this name that was given in this process. ValueError if there is none."""
    if name not in _given:
        raise ValueError(
            f"the network {name.removeprefix(GIVEN)} was given as an object, and no name builds it: give one like it "
            "first, unshaken.Backbone.of(net); a network that is built by mine.py:function needs no such help"
        )
    return _given[name]


def build(name: str, args: str, filled: dict[str, int], given: nn.Module | None = None) -> nn.Module:
    """Build a network of a user's own, or copy the one that was given.

    args    arguments of the function as Python writes them: "width=64, norm='batch'"
    filled  arguments that the function gets if it has parameters of these names and `args` does not set them
    """
    if name.startswith(GIVEN):
        return copy.deepcopy(given if given is not None else given_again(name))
    make, chosen = factory(name), keywords(args)
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):  # a class of C has no signature
        parameters = {}
    chosen = {key: value for key, value in filled.items() if key in parameters} | chosen
    takes_any = any(each.kind == inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    if parameters and not takes_any and (unknown := [key for key in chosen if key not in parameters]):
        raise ValueError(f"{name} has no argument {unknown[0]!r}; it has {', '.join(parameters)}")
    net = make(**chosen)
    if not isinstance(net, nn.Module):
        raise ValueError(f"{name} returned a {type(net).__name__}, and an encoder is a torch.nn.Module")
    return net


def code(name: str, given: nn.Module | None) -> str:
    """Return 8 digits that change with the code that builds the network; of a given one also with its weights."""
    if not name.startswith(GIVEN):
        return code_of_function(factory(name))
    given = given if given is not None else given_again(name)
    total = blake2b(_classes(given).encode(), digest_size=4)
    for key, tensor in given.state_dict().items():
        total.update(key.encode())
        total.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy())
    return total.hexdigest()


def _classes(module: nn.Module) -> str:
    """Return the code of the classes of a module and of its parts, without those of torch."""
    kinds = {type(each) for each in module.modules() if type(each).__module__.partition(".")[0] != "torch"}
    return " ".join(sorted(f"{kind.__qualname__} {code_of(kind)}" for kind in kinds))


def features_of(net: nn.Module, name: str, channels: int, side: int) -> int:
    """Return the number of features of a network's output. ValueError if it is not one vector for each image."""
    modes = [(module, module.training) for module in net.modules()]
    try:
        with torch.no_grad():
            out = net.eval()(torch.zeros(2, channels, side, side))
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise ValueError(f"{name} fails on images of {channels} x {side} x {side}: {words}") from error
    finally:
        for module, mode in modes:
            module.training = mode
    shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != 2:
        raise ValueError(f"{name} has to return one vector for each image, (N D), and for 2 images it returns {shape}")
    return out.shape[1]
