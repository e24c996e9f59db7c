from __future__ import annotations

from dataclasses import replace

import pytest
from bright_source import BrightCells
from PIL import Image

from grounding.models.llava import Llava
from grounding.models.tiny import tiny_llava
from grounding.source import Backgrounds, MapSource, fingerprint
from grounding.types import RecordSpec

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
