"""The comparison runs, and the command line starts as fast as it should."""

import pytest
from bench.startup import begun
from compared import compared


@pytest.mark.extra
def test_the_comparison_runs():
    result = compared("startup", "--quick", "--rounds", "1")
    seconds = result["seconds"]
    assert (result["name"], result["n"], result["ours_s"]) == (
        "startup",
        1,
        pytest.approx(seconds["first step"], abs=1e-3),
    )
    assert result["ratio"] > 0
    assert 0 < seconds["help"] < seconds["first step"]
    assert seconds["import torch"] > 0


@pytest.mark.extra
def test_a_command_that_trains_nothing_is_no_measurement():
    with pytest.raises(RuntimeError, match=r"no step was made: unshaken: .*acl/digitz"):
        begun(["pretrain", "acl/digitz"], "checkpoint.safetensors")
