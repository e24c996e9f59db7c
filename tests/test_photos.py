from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_photos import SIZE, write_photos

from grounding.errors import ManifestError
from grounding.photos import is_test, read_photos

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "photos_mini"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", count=60)


def test_what_is_asked_about_is_never_trained_on(folder: Path):
    photos = read_photos(folder)
    assert photos.asked == {1, 2, 3}
    train, test = {p.id for p in photos.train}, {p.id for p in photos.test}
    assert photos.asked <= test
    assert train | test == set(range(1, 61))
    assert not train & test
    assert photos.photos[0].size == SIZE


def test_a_fifth_of_the_rest_is_kept_whatever_else_is_there():
    kept = [number for number in range(5000) if is_test(number, ())]
    assert 0.17 < len(kept) / 5000 < 0.23
    assert is_test(kept[0], {7, 8})


@given(st.integers(0, 10**9), st.sets(st.integers(0, 10**9), max_size=5))
def test_being_asked_about_only_ever_adds_to_the_test_photos(number: int, asked: set[int]):
    assert is_test(number, asked) == (number in asked or is_test(number, ()))


@pytest.mark.skipif(not (PHOTOS / "images.json").is_file(), reason=f"no COCO photos in {PHOTOS}")
def test_no_photo_of_an_evaluation_is_among_the_real_training_photos():
    photos = read_photos(PHOTOS)
    trained = {photo.id for photo in photos.train}
    for split in ("random", "popular", "adversarial"):
        rows = json.loads((PHOTOS / f"pope_{split}.json").read_text())
        assert not trained & {int(row["image"][-16:-4]) for row in rows}
    assert not trained & {row["image_id"] for row in json.loads((PHOTOS / "expressions.json").read_text())}
    assert not trained & {int(key) for key in json.loads((PHOTOS / "instances_some.json").read_text())}
    assert len(trained) > 1000
    assert len(photos.test) > 500


def test_a_broken_folder_is_one_sentence(folder: Path):
    (folder / "images" / "000000000004.jpg").unlink()
    with pytest.raises(ManifestError, match="1 of 60 photos are missing"):
        read_photos(folder)
    (folder / "images.json").write_text('[{"id": 1}]')
    with pytest.raises(ManifestError, match=r"field required at 0\.width"):
        read_photos(folder)
    (folder / "images.json").write_text("no")
    with pytest.raises(ManifestError, match="is not JSON"):
        read_photos(folder)
    with pytest.raises(ManifestError, match="expected a folder of photos"):
        read_photos(folder / "none")
