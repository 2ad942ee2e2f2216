"""JSON documents: what is damaged, missing, too deep or of another shape is one line with the file's name."""

import json
from pathlib import Path

import pytest

from unshaken.base.json_files import (
    DEPTH,
    Lines,
    add_checksum,
    parse_json,
    read_foreign_json,
    read_json,
    write_json,
    write_text,
)
from unshaken.base.json_shapes import Each, Items, Number, Or, Whole, check_shape


def refused(path: Path, shape: object, match: str, read=read_json) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        read(path, shape)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert type(caught.value) is ValueError


def said_or(read, path: Path) -> object:
    """What a file holds, or the line that says why it is refused."""
    try:
        return read(path)
    except ValueError as error:
        return str(error)


def test_json_is_read_back_as_written(tmp_path: Path):
    value = {"é": [1, 2.5, None, True], "eps": 8 / 255, "inner": {"3": [[]]}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert json.loads((tmp_path / "a.json").read_text()).keys() - value == {"checksum"}


def test_tuples_and_numbers_as_names_are_what_json_makes_of_them(tmp_path: Path):
    write_json(tmp_path / "a.json", {"pair": (1, 2), "by": {10: "a", 9: "b"}})
    assert read_json(tmp_path / "a.json") == {"pair": [1, 2], "by": {"10": "a", "9": "b"}}


def test_nan_is_refused_and_nothing_is_written(tmp_path: Path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b"not json", b"\xff\xfe\x00", b"[" * 100_000, b'{"a":' * 5000])
def test_a_file_that_is_no_json_is_named_in_one_line(content: bytes, tmp_path: Path):
    (tmp_path / "a.json").write_bytes(content)
    refused(tmp_path / "a.json", object, "cannot be read as JSON")


def test_a_file_that_is_missing_or_a_folder(tmp_path: Path):
    refused(tmp_path / "none.json", object, "there is no file")
    refused(tmp_path, object, "is a folder")


def test_every_byte_of_a_document_counts(tmp_path: Path):
    """What is accepted says the same as before: 1e-05 and 1E-05 are one number."""
    path, value = (
        tmp_path / "a.json",
        {"correct": 412, "bits": "v///8A=", "eps": 1e-05, "name": "acl", "é": [None, True]},
    )
    write_json(path, value)
    content = path.read_bytes()
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        found = said_or(read_json, path)
        assert found == value or (isinstance(found, str) and str(path) in found and "\n" not in found)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.pop("a"),
        lambda v: v.pop("checksum"),
        lambda v: v.update(a=2),
        lambda v: v.update(more=1),
        lambda v: v.update(checksum=3),
        lambda v: v.update(a=1.0),
    ],
)
def test_a_removed_added_or_changed_field_is_detected(change, tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1, "b": "x"})
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    refused(path, object, "damaged or altered|has no checksum")


def test_the_checksum_ignores_spaces_and_the_order_of_fields(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1, "b": "x"})
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True, indent=4))
    assert read_json(path) == {"a": 1, "b": "x"}


def test_a_field_twice_is_refused(tmp_path: Path):
    write_text(tmp_path / "a.json", '{"a": 1, "a": 1}')
    refused(tmp_path / "a.json", object, "the field 'a' twice", read_foreign_json)


def test_a_list_at_the_top_is_refused(tmp_path: Path):
    write_text(tmp_path / "a.json", "[1, 2]")
    refused(tmp_path / "a.json", object, "a list of 2 items, but must be an object")


def test_brackets_in_text_are_no_depth():
    assert parse_json(json.dumps({"a": "[" * 1000 + '\\"[{'}), "x") == {"a": "[" * 1000 + '\\"[{'}
    deep = "[" * DEPTH + "]" * DEPTH
    assert parse_json(deep, "x")
    with pytest.raises(ValueError, match="nested more than"):
        parse_json(f"[{deep}]", "x")


SHAPE = {
    "name": str,
    "n": Whole(1),
    "share?": Number(0, 1),
    "kind": ("a", "b"),
    "of": {"list": Items(Whole(), 1, 3)},
    "any?": Each(Items(bool)),
    "seed?": Or((Whole(), str, None)),
}
GOOD = {"name": "x", "n": 3, "kind": "a", "of": {"list": [1]}, "seed": None, "other": [1]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 3}, "'name' is 3, but must be text"),
        ({"n": 0}, "'n' is 0, but must be a whole number of at least 1"),
        ({"n": True}, "'n' is true, but must be a whole number"),
        ({"n": 2.0}, "'n' is 2.0"),
        ({"share": 1.5}, "'share' is 1.5, but must be a finite number from 0 to 1"),
        ({"share": 10**400}, "'share' is a whole number of more than 64 bits"),
        ({"kind": "c"}, "'kind' is 'c', but must be one of a, b"),
        ({"of": [1]}, "'of' is a list of 1 items, but must be an object"),
        ({"of": {}}, "it has no 'of.list'"),
        ({"of": {"list": []}}, "'of.list' is a list of 0 items, but must be a list whose length is from 1 to 3"),
        ({"of": {"list": [1, "2"]}}, r"'of.list\[1\]' is '2'"),
        ({"any": {"x": [True], "y": [0]}}, r"'any.y\[0\]' is 0, but must be true or false"),
        ({"seed": 1.5}, "'seed' is 1.5, but must be a whole number or text or null"),
        ({"name": "x" * 100}, None),
    ],
)
def test_a_field_of_another_shape_is_named(change: dict, said: str | None, tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, GOOD | change)
    if said is None:
        assert read_json(path, SHAPE) == GOOD | change
    else:
        refused(path, SHAPE, said)


def test_an_infinite_number_is_refused(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1e999, "checksum": "0"}')
    refused(path, object, "damaged or altered")
    refused(path, {"a": Number()}, "'a' is inf, but must be a finite number", read_foreign_json)


def test_a_document_of_an_earlier_version_says_how_it_gets_a_checksum(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    refused(path, object, "has no checksum.*verify --write")
    add_checksum(path)
    assert read_json(path) == {"a": 1}
    add_checksum(path)
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(ValueError, match="damaged or altered"):
        add_checksum(path)


def filled(path: Path, count: int = 5) -> list[dict]:
    values = [{"step": k, "loss": k / 3} for k in range(count)]
    lines = Lines(path)
    lines.rewrite(values[:2])
    for value in values[2:]:
        lines.append(value)
    return values


def test_lines_go_there_and_back_and_grow(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    values = filled(path)
    again = Lines(path)
    assert (again.values, again.fault) == (values, "")
    again.append({"step": 5})
    assert Lines(path).values == [*values, {"step": 5}]


def test_a_change_of_any_byte_of_a_line_is_detected(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    values = filled(path, 3)
    content = path.read_bytes()
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        found = Lines(path)
        assert all(value in values for value in found.values)
        assert found.values == values or found.fault or at == len(content) - 1


@pytest.mark.parametrize("kept", [(0, 2, 3, 4), (0, 1, 1, 2, 3, 4), (0, 2, 1, 3, 4), (1, 2, 3, 4)])
def test_a_removed_repeated_or_moved_line_is_detected(kept: tuple[int, ...], tmp_path: Path):
    path = tmp_path / "a.jsonl"
    values = filled(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[k] for k in kept))
    found = Lines(path)
    assert str(path) in found.fault
    assert all(value in values for value in found.values)
    assert len({value["step"] for value in found.values}) == len(found.values)


def test_a_damaged_line_costs_itself_and_no_more_than_the_next(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    values = filled(path)
    text = path.read_text()
    path.write_text(text.replace('"step": 1', '"step": 7'))
    assert Lines(path).values == [values[0], *values[2:]]
    path.write_text(text.replace('{"step": 1', "{step: 1"))
    assert Lines(path).values == [values[0], *values[3:]]


def test_the_last_line_of_a_process_that_was_killed_is_left_out_without_a_word(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    values = filled(path)
    path.write_bytes(path.read_bytes()[:-5])
    found = Lines(path)
    assert (found.values, found.fault) == (values[:-1], "")


def test_lines_of_another_shape(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    values = filled(path)
    Lines(path).append({"step": "six"})
    found = Lines(path, {"step": Whole()})
    assert found.values == values
    assert "line 6: 'step' is 'six'" in found.fault


@pytest.mark.parametrize("value", ["1", [1], {"a": 1}, None, True, float("nan"), 10**400])
def test_what_is_no_number_is_refused_in_one_line(value):
    with pytest.raises(ValueError, match="file.json: 'seconds' is .*, but must be a finite number"):
        check_shape({"seconds": value}, {"seconds": Number(0)}, "file.json")
