"""Data sets of pictures in every form they come in."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from pathlib import Path

import pytest
from extras import needs_extra
from PIL import Image

from evals.data import picture_in, read_data
from evals.inputs import read_rows
from evals.task import image_hash
from grounding.errors import EvalDataError, ImageError, MissingExtraError, UsageError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for number in (1, 2):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    return tmp_path


def first_values(rows):
    """The red of each picture's corner."""
    return [
        (Image.open(row.picture) if isinstance(row.picture, Path) else row.picture()).getpixel((0, 0))[0]
        for row in rows
    ]


@pytest.mark.parametrize("inner", ["", "images"])
def test_a_folder_of_pictures(inner, folder):
    rows = read_data(str(folder / inner))
    assert [row.name for row in rows] == ["1.png", "2.png"]
    assert first_values(rows) == [1, 2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", '{"file_name": "2.png", "image_id": 7}\n{"file_name": "images/1.png", "image_id": 8}\n'),
        ("images.json", [{"file_name": "2.png", "image_id": 7}, {"file_name": "1.png", "image_id": 8}]),
        ("instances.json", {"images": [{"file_name": "2.png", "image_id": 7}, {"file_name": "1.png", "image_id": 8}]}),
    ],
)
def test_a_listing_beside_the_pictures(name, content, folder):
    file = folder / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    for source in (folder, file):
        rows = read_data(str(source))
        assert first_values(rows) == [2, 1]
        assert [row.fields["image_id"] for row in rows] == [7, 8]


def test_what_is_no_data(folder):
    (folder / "empty").mkdir()
    (folder / "object.json").write_text('{"images": {"a": 1}}')
    (folder / "other.json").write_text('{"a": 1}')
    (folder / "rows.jsonl").write_text('{"caption": "x"}\n')
    for source, said in (
        ("empty", "has neither pictures nor"),
        ("object.json", "holds no list of objects"),
        ("other.json", "row 1 of .* has no 'image'"),
        ("rows.jsonl", "row 1 of .* has no 'image'"),
        ("missing.json", "there is no file"),
        ("missing.parquet", "there is no file"),
        ("missing/", "there is no folder"),
    ):
        with pytest.raises(EvalDataError, match=said):
            read_data(str(folder / source))
    with pytest.raises(UsageError, match="--data is missing"):
        read_data("")


def test_only_a_line_feed_ends_a_json_line(folder):
    """Our own files hold U+2028 and the like unescaped, which `str.splitlines` takes for line ends."""
    texts = ["a\u2028b", "c\u0085d", "e\u2029f"]
    rows = [{"image": f"{number}.png", "caption": text} for number, text in zip((1, 2, 1), texts, strict=True)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "rows.jsonl").write_bytes("\r\n".join(lines).encode())
    assert [row["caption"] for row in read_rows(folder / "rows.jsonl", "the captions")] == texts


def test_a_picture_that_is_not_there_is_found_out_when_it_is_opened(folder):
    assert picture_in(str(folder), "1.png") == folder / "images" / "1.png"
    assert picture_in(str(folder), "images/2.png") == folder / "images" / "2.png"
    assert not picture_in(str(folder), "3.png").exists()


def test_without_the_package_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (folder / "rows.parquet").write_bytes(b"PAR1")
    for source in (str(folder / "rows.parquet"), "owner/name"):
        with pytest.raises(MissingExtraError, match=r"needs the package 'datasets'.*vlm-grounding\[eval\]"):
            read_data(source)


@needs_extra("datasets", "eval")
@pytest.mark.parametrize("declared", [True, False])
def test_parquet(declared, folder):
    import datasets

    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 0, 0)).save(stream, "PNG")
    held = [{"bytes": stream.getvalue(), "path": None}, {"bytes": b"broken", "path": None}]
    table = datasets.Dataset.from_dict({"image": held, "question_id": [3, 4], "image_source": ["a", "b"]})
    if declared:
        table = table.cast_column("image", datasets.Image())
    table.to_parquet(str(folder / "rows.parquet"))
    good, broken = read_data(str(folder / "rows.parquet"))
    assert good.picture().getpixel((0, 0)) == (9, 0, 0)
    assert (good.name, good.fields["question_id"]) == ("a", 3)
    assert image_hash(good.picture) == hashlib.sha256(stream.getvalue()).hexdigest()[:16]
    assert image_hash(broken.picture) != image_hash(good.picture)
    with pytest.raises(ImageError, match=r"the image of row 1 of .* is not a picture"):
        broken.picture()
    (folder / "parts").mkdir()
    table.to_parquet(str(folder / "parts" / "0.parquet"))
    assert [row.name for row in read_data(str(folder / "parts"))] == ["a", "b"]
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(str(folder / "words.parquet"))
    with pytest.raises(EvalDataError, match="has no column of pictures, only text"):
        read_data(str(folder / "words.parquet"))
    (folder / "bad.parquet").write_bytes(b"nothing")
    with pytest.raises(EvalDataError, match="cannot be read as the data"):
        read_data(str(folder / "bad.parquet"))
