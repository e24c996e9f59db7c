from __future__ import annotations

import numpy as np
import pytest
from bright_source import BrightCells
from PIL import Image

from grounding.errors import GroundingError
from grounding.methods import load_method
from grounding.segmenters.load import load_segmenter
from pipelines.describe import FaithfulDescription
from pipelines.referring import ReferringSegmentation

BOXES = ((10, 20, 40, 50), (70, 10, 110, 40))


def square(box) -> Image.Image:
    image = Image.new("RGB", (120, 90), (20, 20, 20))
    image.paste((250, 250, 250), box)
    return image


@pytest.mark.parametrize("method", ["plain-mean", "relative"])
def test_a_source_that_is_not_a_vlm_drives_the_pipeline(method, tiny_segmenter) -> None:
    source = BrightCells()
    pipe = ReferringSegmentation(source, load_segmenter(str(tiny_segmenter), "cpu"), load_method(method))
    results = pipe([(square(box), "the white square") for box in BOXES])
    for (x0, y0, x1, y1), result in zip(BOXES, results, strict=True):
        x, y = result.points.xy[0]
        assert x0 < x < x1
        assert y0 < y < y1
        assert result.segments[0].mask.shape == (90, 120)
        assert result.map.values.max() == pytest.approx(1)
        height, width = result.map.values.shape
        xs, ys = (np.arange(width) + 0.5) * 120 / width, (np.arange(height) + 0.5) * 90 / height
        far = ((ys < y0 - 16) | (ys > y1 + 16))[:, None] | ((xs < x0 - 16) | (xs > x1 + 16))[None]  # a cell is 15 px
        assert result.map.values[far].max() < 0.2
    prompts = [prompt for _, _, prompt in source.calls]
    assert prompts == ([None] if method == "plain-mean" else [None, load_method(method).background_prompt])


def test_masks_and_points_follow_the_picture_and_not_the_order(tiny_segmenter) -> None:
    pipe = ReferringSegmentation(
        BrightCells(), load_segmenter(str(tiny_segmenter), "cpu"), load_method("relative"), batch_size=1
    )
    pairs = [(square(box), words) for box in BOXES for words in ("square", "white")]
    for pair, result in zip(pairs[::-1], pipe(pairs[::-1]), strict=True):
        np.testing.assert_array_equal(result.points.xy, pipe(*pair).points.xy)


@pytest.mark.parametrize("pipeline", [ReferringSegmentation, FaithfulDescription])
def test_the_noun_finder_is_chosen_before_a_model_is_loaded(pipeline, tiny_model, tiny_segmenter, monkeypatch) -> None:
    with pytest.raises(GroundingError, match="noun finder 'nltk'"):
        pipeline.from_pretrained("no-such-model", method="plain-mean", nouns="nltk")
    finder = object()
    monkeypatch.setattr("grounding.text.parse.noun_finder", {"spacy": finder}.__getitem__)
    pipe = pipeline.from_pretrained(str(tiny_model), str(tiny_segmenter), "plain-mean", "cpu", nouns="spacy")
    assert getattr(pipe, "source", getattr(pipe, "vlm", None)).finder is finder
