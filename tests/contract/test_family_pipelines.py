"""What every model family promises of the pipelines."""

from __future__ import annotations

from typing import Any

import pytest
from subjects import EXPRESSIONS, REFUSAL, Subject

from grounding.errors import MethodError
from grounding.methods import load_method
from grounding.segmenters.load import load_segmenter
from grounding.steering.decoding import Decoding
from grounding.steering.generate import generate
from grounding.steering.method import Steering
from grounding.steering.modulation import Renormalise, Values
from pipelines.describe import FaithfulDescription
from pipelines.referring import ReferringSegmentation


@pytest.fixture(scope="module")
def segmenter(tiny_segmenter) -> Any:
    return load_segmenter(str(tiny_segmenter), "cpu")


def test_segment_end_to_end(subject: Subject, segmenter: Any) -> None:
    pipe = ReferringSegmentation(subject.vlm, segmenter, load_method("plain-mean"), 2)
    for result in pipe(list(zip(subject.pictures, EXPRESSIONS, strict=True))):
        assert result.segments[0].mask.shape == (result.image.height, result.image.width)
        assert result.map.values.max() == 1


def test_describe_end_to_end(subject: Subject) -> None:
    steering = Steering("test", "", "", (Renormalise(gain=3.0),))
    if subject.vlm.map_attention == "cross":
        with pytest.raises(MethodError, match=REFUSAL):
            FaithfulDescription(subject.vlm, load_method("plain-mean"), None, steering)
        steering = Steering("test", "", "", (Values(gain=3.0),))
    pipe = FaithfulDescription(subject.vlm, load_method("plain-mean"), None, steering, Decoding(max_new_tokens=4))
    description = pipe(subject.pictures[0])
    (expected,) = generate(subject.vlm, [subject.pictures[0]], [subject.vlm.default_question], None, Decoding(4))
    assert description.unsteered.text == expected.text.strip()
    assert description.steered is not None
    assert pipe.check(subject.pictures[0], "A red dog.").nouns[0].noun == "dog"
