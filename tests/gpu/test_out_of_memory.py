"""A device without enough memory: one line that says what to do, and exit code 2."""

import gc

import torch
from machine import KEY, classes_of

from unshaken import cli
from unshaken.data.source import DataSource
from unshaken.train.loop import Loop

WORDS = "not enough memory; try a smaller --batch-size"


def test_out_of_memory_is_one_line(device, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(DataSource, "load", lambda source, split: classes_of(8, 1, 1200))
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        room = torch.cuda.memory_allocated() + 64 * 2**20
        torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    else:
        monkeypatch.setattr(Loop, "_update", lambda *_: torch.empty(2**60))
    args = ["pretrain", "simclr/digits", "--runtime.device", device, "--batch-size", "1200", "--epochs", "1"]
    assert cli.run([*args, "--out", str(tmp_path)]) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert [line for line in said if line.startswith("unshaken:")] == said[-1:]
    assert WORDS in said[-1]
    if device == "cuda":  # and what comes after has all of it
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.rand(1000, device=device, generator=KEY.on(device)).sum() > 0
