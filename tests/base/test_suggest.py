"""What somebody may have meant."""

from unshaken.base.suggest import ASIDE, closest, did_you_mean

KNOWN = {"resnet18": 1, "vit-small": 2}


def test_the_closest_name_is_asked_for():
    assert closest("resnet19", KNOWN) == "resnet18"
    assert did_you_mean("resnet19", KNOWN) == "; did you mean resnet18?"
    assert did_you_mean("vitsmall", KNOWN, ASIDE) == " (did you mean 'vit-small'?)"


def test_no_name_is_suggested_if_none_is_close():
    assert closest("cat", KNOWN) is None
    assert did_you_mean("cat", KNOWN) == ""
    assert closest("vsl", KNOWN) is None
    assert closest("vsl", KNOWN, cutoff=0.3) == "vit-small"
