from __future__ import annotations

import json
from pathlib import Path

import pytest

from grounding.errors import ManifestError, UsageError
from grounding.steering.samples import manifest_samples
from pipelines.manifest import items_from_manifest, items_from_words


def write(folder: Path, *lines: str) -> Path:
    file = folder / "list.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_paths_are_relative_to_the_manifest_and_other_fields_stay(tmp_path):
    file = write(
        tmp_path,
        '{"image": "x/a.png", "expression": "red dog", "image_id": 7}',
        "",
        '{"image": "/data/b.png", "expression": "Hund\u2028grün"}',
    )
    one, other = items_from_manifest(file)
    assert one.path == tmp_path / "x" / "a.png"
    assert one.image == "x/a.png"
    assert one.extra == {"image_id": 7}
    assert other.path == Path("/data/b.png")
    assert other.expression == "Hund\u2028grün"


def test_an_item_that_stands_twice_is_two_items_of_one_piece_of_work(tmp_path):
    line = json.dumps({"image": "a.png", "expression": "dog"})
    one, other = items_from_manifest(write(tmp_path, line, line))
    assert one.work("x") == other.work("x")
    assert one.key("x") != other.key("x")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 2 of the manifest .* is not JSON"),
        ("[1]", "line 2 of the manifest .* is list"),
        ('{"image": "a.png"}', "line 2 of the manifest .* has expression = None, expected text"),
        ('{"image": 3, "expression": "dog"}', "line 2 of the manifest .* has image = 3, expected text"),
    ],
)
def test_a_wrong_line_is_named(line, sentence, tmp_path):
    with pytest.raises(ManifestError, match=sentence):
        items_from_manifest(write(tmp_path, '{"image": "a.png", "expression": "dog"}', line))


def test_a_manifest_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"cannot be read \(No such file"):
        items_from_manifest(tmp_path / "none.jsonl")
    with pytest.raises(ManifestError, match="is empty"):
        items_from_manifest(write(tmp_path, "", " "))
    (tmp_path / "list.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ManifestError, match="not UTF-8"):
        items_from_manifest(tmp_path / "list.jsonl")


def test_words_are_images_and_then_an_expression():
    items = items_from_words(("a.png", "b.png", "a.png", "red dog"))
    assert [(item.image, item.expression) for item in items] == [("a.png", "red dog"), ("b.png", "red dog")]
    with pytest.raises(UsageError, match="1 arguments were given"):
        items_from_words(("a.png",))


def test_keys_differ_by_image_words_and_configuration():
    one, other = items_from_words(("a.png", "b.png", "dog"))
    keys = {one.key("x"), other.key("x"), one.key("y"), items_from_words(("a.png", "cat"))[0].key("x")}
    assert len(keys) == 4
    assert one.key("x") == items_from_words(("a.png", "dog"))[0].key("x")


def test_two_kinds_of_manifest_are_read_alike(tmp_path):
    """Manifests of items and of calibration samples name their own fields in the same sentences."""
    for content, said in (("", "is empty: expected one JSON object a line with"), ("{", "expected an object with")):
        file = write(tmp_path, content)
        with pytest.raises(ManifestError, match=f"{said} image and expression"):
            items_from_manifest(file)
        with pytest.raises(ManifestError, match=f"{said} image and answer"):
            manifest_samples(file)
    with pytest.raises(ManifestError, match=r"give a file of JSON lines with image and answer"):
        manifest_samples(tmp_path / "none.jsonl")
