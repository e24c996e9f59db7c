from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from grounding.candidates.verification import Verification, view_of
from grounding.errors import MethodError

IMAGE = Image.new("RGB", (100, 60), (200, 100, 50))
MASK = np.zeros((60, 100), bool)
MASK[20:40, 10:50] = True


def test_a_crop_shows_the_region_with_its_surroundings():
    assert view_of(IMAGE, MASK, Verification(margin=0.1)).size == (48, 24)
    assert view_of(IMAGE, MASK, Verification(margin=9.0)).size == IMAGE.size


def test_a_marked_picture_is_darker_off_the_mask_and_framed():
    shown = np.asarray(view_of(IMAGE, MASK, Verification("marked", shade=0.5)))
    assert shown.shape == (60, 100, 3)
    assert shown[30, 30].tolist() == [200, 100, 50]
    assert shown[5, 5].tolist() == [100, 50, 25]
    assert shown[20, 10].tolist() == shown[39, 49].tolist() == [255, 0, 0]


def test_the_question_is_about_the_expression_or_its_noun():
    assert Verification(question="is it {expression} ?").asked("the red cup", "cup") == "is it the red cup ?"
    assert Verification(question="is there a {noun} ?").asked("the red cup", "cup") == "is there a cup ?"


@pytest.mark.parametrize("wrong", [{"view": "x-ray"}, {"bar": 2.0}, {"tries": 0}, {"question": "is it there?"}])
def test_what_cannot_be_asked_is_refused(wrong):
    with pytest.raises(MethodError):
        Verification(**wrong)
