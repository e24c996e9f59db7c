"""The packaged photo starter on photographs that a dependency carries."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from grounding.errors import ExpressionError
from grounding.methods import load_method, run_stages
from grounding.model_files import starter_folder
from grounding.models.base import VLM
from grounding.models.load import load
from grounding.starter.model import SPECIAL_TOKENS
from grounding.starter.photo.export import LARGEST
from grounding.text.vocabulary import words_among
from grounding.types import FloatArray
from pipelines.referring import ReferringSegmentation


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return load("starter-photo", device="cpu")


@pytest.fixture(scope="module")
def pipe(vlm: VLM) -> ReferringSegmentation:
    return ReferringSegmentation(vlm, None, load_method("starter-photo"))


def heat(pipe: ReferringSegmentation, picture: str, words: str) -> FloatArray:
    image = Image.fromarray(getattr(skimage.data, picture)()).convert("RGB")
    (maps,) = pipe.record_maps([(image, words)])
    return run_stages(pipe.method, maps).values


def test_the_weights_are_small_enough_to_ship():
    size = sum(file.stat().st_size for file in starter_folder("starter-photo").glob("*.safetensors"))
    assert 0 < size <= LARGEST


def test_every_place_gives_one_number_of_words(vlm: VLM):
    words = len(words_among(set(vlm.tokenizer.get_vocab()) - set(SPECIAL_TOKENS)))
    card = (starter_folder("starter-photo") / "README.md").read_text()
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    with pytest.raises(ExpressionError) as refused:
        vlm.prepare([Image.new("RGB", (64, 64))], ["the zyzzyva"])
    for text in (str(vlm.notice), card, readme, str(refused.value)):
        assert re.findall(r"knows\s+([\d,]+) words", text) == [f"{words:,}"]


def test_every_run_says_what_the_model_is(vlm: VLM):
    assert "hub model" in str(vlm.notice)


def test_a_cat_is_found_and_other_words_look_elsewhere(pipe: ReferringSegmentation):
    cat, woman = heat(pipe, "chelsea", "the cat"), heat(pipe, "chelsea", "the woman")
    height, width = cat.shape
    row, column = np.unravel_index(cat.argmax(), cat.shape)
    # The cat's face in the photograph of 451 x 300 px: about x 70 to 290, y 40 to 270.
    assert 0.15 < column / width < 0.65
    assert 0.13 < row / height < 0.9
    assert np.corrcoef(cat.ravel(), woman.ravel())[0, 1] < 0.9


def test_a_word_that_no_caption_had_is_refused_with_near_ones(vlm: VLM):
    image = Image.new("RGB", (64, 64))
    with pytest.raises(ExpressionError, match=r"'catz'.*\bcat\b.*--model"):
        vlm.prepare([image], ["the catz"])
