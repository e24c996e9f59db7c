"""The packaged photo starter on photographs that a dependency carries."""

from __future__ import annotations

import numpy as np
import pytest
import skimage
from PIL import Image

from grounding.errors import ExpressionError
from grounding.methods import load_method, run_stages
from grounding.models.base import Family
from grounding.models.load import load, starter_folder
from grounding.models.maps import attend
from grounding.starter.photo.export import LARGEST
from grounding.types import FloatArray


@pytest.fixture(scope="module")
def family() -> Family:
    return load("starter-photo", device="cpu")


def heat(family: Family, picture: str, words: str) -> FloatArray:
    image = Image.open(f"{skimage.data_dir}/{picture}.png").convert("RGB")
    method = load_method("starter-photo")
    (maps,) = attend(family, family.prepare([image], [words]), layers=method.request_knobs(family.layer_count).layers)
    return run_stages(method, maps).values


def test_the_weights_are_small_enough_to_ship():
    size = sum(file.stat().st_size for file in starter_folder("starter-photo").glob("*.safetensors"))
    assert 0 < size <= LARGEST


def test_every_run_says_what_the_model_is(family: Family):
    assert "1,244 photos" in str(family.notice)
    assert "hub model" in str(family.notice)


def test_a_cup_is_found_and_other_words_look_elsewhere(family: Family):
    cup, woman = heat(family, "coffee", "the cup"), heat(family, "coffee", "the woman")
    height, width = cup.shape
    row, column = np.unravel_index(cup.argmax(), cup.shape)
    # The cup's bowl in the photograph of 600 x 400 px: about x 190 to 410, y 10 to 290.
    assert 0.3 < column / width < 0.7
    assert row / height < 0.75
    assert np.corrcoef(cup.ravel(), woman.ravel())[0, 1] < 0.9


def test_a_word_that_no_caption_had_is_refused_with_near_ones(family: Family):
    image = Image.new("RGB", (64, 64))
    with pytest.raises(ExpressionError, match=r"'catz'.*\bcat\b.*--model"):
        family.prepare([image], ["the catz"])
