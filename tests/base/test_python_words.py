"""Errors in Python say which arguments the options of the command line stand for."""

import inspect
from pathlib import Path

import pytest
import torch

import unshaken
from unshaken import cli
from unshaken.base.python_words import arguments_for
from unshaken.base.shard import Shard


def test_an_option_is_an_argument_by_its_name():
    assert arguments_for("choose another --data.root, or a smaller --data.size") == (
        "in Python, --data.root is data.root, --data.size is data.size"
    )
    assert arguments_for("(leave it out with --no-classifier)") == "in Python, --no-classifier is classifier=False"
    assert (
        arguments_for("name it by --backbone.image-size 32.")
        == "in Python, --backbone.image-size is backbone.image_size"
    )
    assert not arguments_for("`unshaken verify --write a.safetensors` adds one; /a--b/c is a file")
    assert not arguments_for("there is no file x: unshaken pretrain acl/digits --epochs 3 makes one")


def test_every_function_of_the_interface_says_it():
    functions = [name for name in unshaken._WHERE if inspect.isfunction(getattr(unshaken, name))]
    assert len(functions) >= 18
    assert [name for name in functions if not hasattr(getattr(unshaken, name), "__wrapped__")] == []
    assert list(inspect.signature(unshaken.evaluate).parameters)[:2] == ["classifier", "images"]


def noted(call) -> list[str]:
    with pytest.raises(ValueError, match="--") as caught:
        call()
    return caught.value.__notes__


def test_errors_of_values_and_verbs_have_the_note(tmp_path: Path, capsys):
    images = torch.randint(256, (12, 3, 8, 8), dtype=torch.uint8)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    evaluation = unshaken.Evaluation(until=1.0)
    pair = (images, torch.arange(12) % 2)
    assert noted(lambda: unshaken.evaluate(net, pair, evaluation, shard=Shard(1, 2))) == [
        "in Python, --until is until, --shard is shard"
    ]
    assert noted(lambda: unshaken.DataSource(unreadable="ignore")) == [
        "in Python, --data.unreadable is data.unreadable"
    ]
    assert cli.run(["pretrain", "acl/digits", "--data.unreadable", "ignore"]) == 2
    assert "in Python" not in capsys.readouterr().err
