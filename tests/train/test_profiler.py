"""A profile: a trace that is JSON, a table of ten operations and a step's spans, and the bits of a run without one."""

import gzip
import json
from dataclasses import replace

import pytest

import unshaken
from unshaken.base.json_files import read_json
from unshaken.train.profiler import TOP, table

RECIPE = replace(unshaken.recipe("acl/digits"), data=unshaken.DataSource(limit=192), epochs=1, batch_size=32)


def test_it_changes_no_bit_and_tells_where_the_time_goes(tmp_path):
    plain, looked = (
        unshaken.pretrain(RECIPE, unshaken.Workspace(tmp_path / "plain", quiet=True)),
        unshaken.pretrain(RECIPE, unshaken.Workspace(tmp_path / "looked", quiet=True, profile=2)),
    )
    assert read_json(plain / "run.json")["digest"] == read_json(looked / "run.json")["digest"]
    trace = json.loads(gzip.decompress((looked / "profile.json.gz").read_bytes()))
    assert {"aten::mkldnn_convolution", "attack", "views"} <= {event.get("name") for event in trace["traceEvents"]}
    lines = (looked / "profile.md").read_text().splitlines()
    assert lines[0] == "# 2 steps on cpu"
    spans = dict(row.strip("| ").split(" | ") for row in lines if row.startswith(("| views", "| attack", "| loss")))
    assert float(spans["views"]) > 0
    assert 0 < float(spans["attack"]) < float(spans["loss"])
    begin = next(k for k, line in enumerate(lines) if line.startswith("| operation")) + 2
    parts = [float(line.split("|")[2].strip("% ")) for line in lines[begin:]]
    assert len(parts) == TOP
    assert parts == sorted(parts, reverse=True)
    assert "convolution" in lines[begin]


@pytest.mark.extra
@pytest.mark.parametrize(("batch", "steps"), [(32, 3), (192, 0)])
def test_a_run_that_is_over_before(tmp_path, capsys, batch, steps):
    """What there was is looked at, and it is said if there was nothing."""
    run = unshaken.pretrain(replace(RECIPE, batch_size=batch), unshaken.Workspace(tmp_path, quiet=True, profile=20))
    told = "the run had fewer" in capsys.readouterr().err
    assert told == (steps == 0) != (run / "profile.md").exists()
    if steps:
        assert (run / "profile.md").read_text().startswith(f"# {steps} steps on cpu")


class Event:
    def __init__(self, key: str, own: float, count: int = 4) -> None:
        self.key, self.self_cpu_time_total, self.count = key, own, count
        self.cpu_time_total = self.self_device_time_total = 3 * own


def test_the_table_is_a_step_s():
    events = [Event("mm", 3000.0), Event("attack", 1000.0), Event("conv", 4000.0), Event("ProfilerStep*", 9.0)]
    found = table(events, 2, "cpu").splitlines()
    assert "4.0 ms per step in operations." in found
    assert "| attack | 1.5 |" in found
    assert found[-2:] == ["| conv | 50.0% | 2.0 | 2 |", "| mm | 37.5% | 1.5 | 2 |"]
    assert "| conv | 50.0% | 6.0 | 2 |" in table(
        [Event("mm", 3000.0), Event("attack", 1e3), Event("conv", 4e3)], 2, "gpu"
    )


def test_a_negative_number_of_steps(tmp_path):
    with pytest.raises(ValueError, match="the number of profiled steps is ≥ 0, for example 20, not -1"):
        unshaken.pretrain(RECIPE, unshaken.Workspace(tmp_path, quiet=True, profile=-1))
