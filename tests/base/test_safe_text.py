"""Text that leaves the machine: without local paths, whether they stand alone or within a sentence."""

import pytest

from unshaken.base.safe_text import without_paths


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/alice/photos", "photos"),
        ("trained on /home/alice/photos, then stopped", "trained on photos, then stopped"),
        ("read from ~/photos/cats (--data)", "read from cats (--data)"),
        (r"C:\Users\alice\photos", "photos"),
        ("runs/acl/encoder.safetensors", "encoder.safetensors"),
        ("8/255", "8/255"),
        ("acl/cifar10", "acl/cifar10"),
        ("https://example.org/a/b", "https://example.org/a/b"),
    ],
)
def test_paths_are_shortened_wherever_they_stand(text: str, shown: str):
    assert without_paths({"said": [text], "in": {"deep": text}}) == {"said": [shown], "in": {"deep": shown}}
