from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bright_source import BrightCells
from PIL import Image

from grounding.errors import MethodError
from grounding.models.llava import Llava
from grounding.models.tiny import tiny_llava
from grounding.record_spec import RecordSpec
from grounding.source import Backgrounds, MapSource, fingerprint

SPEC = RecordSpec(background_prompt="Describe the image.")


def plain(level: int, size=(20, 10)) -> Image.Image:
    return Image.new("RGB", size, (level, level, level))


def test_vlms_and_others_are_sources() -> None:
    assert isinstance(Llava(*tiny_llava()), MapSource)
    assert isinstance(BrightCells(), MapSource)


def test_a_background_is_recorded_once_per_picture() -> None:
    source = BrightCells()
    backgrounds = Backgrounds(source)
    one, two, again = backgrounds.of([plain(1), plain(2), plain(1)], SPEC)
    assert one is again
    assert one is not two
    assert [word.text for word in one.words] == ["Describe", "the", "image", "<last>"]
    assert source.calls == [(("", ""), replace(SPEC, background_prompt=None), "Describe the image.")]
    assert backgrounds.of([plain(2)], SPEC) == [two]
    assert len(source.calls) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"background_prompt": "What is it?"},
        {"layers": (0,)},
        {"heads": (0,)},
        {"reduce": "heads"},
        {"head_statistics": ("max_all",)},
        {"residual_sinks": True},
    ],
)
def test_every_part_of_the_spec_is_in_the_key(other) -> None:
    source = BrightCells()
    backgrounds = Backgrounds(source)
    (first,) = backgrounds.of([plain(1)], SPEC)
    (second,) = backgrounds.of([plain(1)], replace(SPEC, **other))
    assert first is not second
    assert source.calls[1][1:] == (
        replace(SPEC, **{**other, "background_prompt": None}),
        other.get("background_prompt", SPEC.background_prompt),
    )


def test_only_the_latest_pictures_are_kept() -> None:
    source = BrightCells()
    backgrounds = Backgrounds(source)
    for level in (1, 2, 1):
        backgrounds.of([plain(level)], SPEC)
    assert len(source.calls) == 3


def test_a_failed_recording_is_not_kept(monkeypatch) -> None:
    source = BrightCells()
    backgrounds = Backgrounds(source)
    with monkeypatch.context() as broken:
        broken.setattr(source, "shape", (1, 0))
        with pytest.raises(ValueError, match="must be > 0"):
            backgrounds.of([plain(1)], SPEC)
    assert len(backgrounds.of([plain(1)], SPEC)) == 1


def test_a_spec_without_a_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="no background_prompt"):
        Backgrounds(BrightCells()).of([plain(1)], RecordSpec())


def test_equal_bytes_of_another_shape_or_mode_are_another_picture() -> None:
    pictures = [plain(1), plain(1, (10, 20)), Image.new("L", (60, 10), 1), plain(2)]
    assert len({fingerprint(picture) for picture in pictures}) == 4
    assert fingerprint(plain(1)) == fingerprint(plain(1).copy())


def test_a_blank_picture_has_the_words_and_the_size_and_one_colour() -> None:
    source = BrightCells()
    spec = RecordSpec(background_kind="blank", features=True)
    image = plain(10)
    image.paste(Image.new("RGB", (10, 10), (200, 0, 0)))
    (maps,) = Backgrounds(source).of([image], spec, ["the star"])
    assert source.calls == [(("the star",), RecordSpec(), None)]
    assert maps.image_size == image.size
    np.testing.assert_allclose(maps.values, 1 / 48, rtol=1e-5)  # bright cells of a picture of one colour


def test_moved_pictures_are_steps_of_one_background() -> None:
    source = BrightCells(shape=(4, 4))
    image = Image.new("RGB", (40, 40))
    image.paste(Image.new("RGB", (10, 10), (250, 250, 250)), (10, 0))
    backgrounds = Backgrounds(source)
    spec = RecordSpec(background_kind="shifted")
    (maps,) = backgrounds.of([image], spec, ["the star"], "Where is {expression}?")
    assert [row.argmax() for row in maps.values[:, 0, 0, 0]] == [3, 9, 11]  # cell 1 moved right, down, and both
    assert {prompt for _, _, prompt in source.calls} == {"Where is {expression}?"}
    backgrounds.of([image], spec, ["the star"], "Where is {expression}?")
    assert len(source.calls) == 3
    backgrounds.of([image], spec, ["the square"], "Where is {expression}?")
    assert len(source.calls) == 6


def test_a_background_without_the_query_is_the_prompt_without_the_expression() -> None:
    source = BrightCells()
    spec = RecordSpec(background_kind="no-query")
    (maps,) = Backgrounds(source).of([plain(1)], spec, ["the star"], "Where is {expression} ?")
    assert source.calls[0][2] == "Where is ?"
    assert [word.text for word in maps.words] == ["Where", "is", "<last>"]
    source.default_prompt = "find {expression}"  # type: ignore[attr-defined]
    Backgrounds(source).of([plain(1)], spec, ["the star"])
    assert source.calls[1][2] == "find"
    with pytest.raises(MethodError, match="prompt with words around"):
        Backgrounds(source).of([plain(1)], spec, ["the star"], "{expression}")


def test_backgrounds_of_several_specs_are_kept_side_by_side() -> None:
    source = BrightCells()
    backgrounds = Backgrounds(source)
    other = RecordSpec(background_kind="blank")
    for _ in range(2):
        backgrounds.of([plain(1)], SPEC)
        backgrounds.of([plain(1)], other, ["the star"])
    assert len(source.calls) == 2
