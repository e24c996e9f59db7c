from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from made_maps import xy_to_cells
from PIL import Image
from rich.console import Console

from grounding.errors import ImageError, MethodError
from grounding.methods import load_method
from grounding.models.llava import Llava
from grounding.models.load import load
from grounding.models.qwen_vl import QwenVL
from grounding.models.tiny import tiny_llava, tiny_qwen2_5_vl
from grounding.scenes.drawing import SHAPES, draw_scene
from grounding.scenes.language import DESCRIBE, caption
from grounding.segmenters.load import load_segmenter
from grounding.steering.base import GenerateOverrides
from grounding.steering.decoding import Decoding
from grounding.steering.generate import generate
from grounding.steering.method import Steering
from grounding.text.repeats import repeat_start
from grounding.types import Segment
from pipelines.commands.render import write_description
from pipelines.describe import FaithfulDescription
from pipelines.records import caption_record
from pipelines.results import Description, NounMentions

SCENES = [draw_scene(seed) for seed in range(7_200_000, 7_200_008)]


@dataclass(frozen=True)
class Shorter:
    """A steering step of the tests: nothing but a smaller limit on the text."""

    name: ClassVar[str] = "shorter"
    tokens: int = 3

    @contextlib.contextmanager
    def applied(self, subject):
        yield GenerateOverrides(options={"max_new_tokens": self.tokens})


@dataclass(frozen=True)
class Nothing:
    """A step that changes nothing."""

    name: ClassVar[str] = "nothing"

    @contextlib.contextmanager
    def applied(self, subject):
        yield GenerateOverrides()


def steering(step) -> Steering:
    return Steering(step.name, "of the tests", "the tests", (step,))


@pytest.fixture(scope="module")
def starter():
    return load("starter", "cpu")


@pytest.fixture(scope="module")
def pipe(starter):
    return FaithfulDescription(starter, load_method("starter"))


@pytest.fixture(scope="module")
def told(pipe):
    return pipe([scene.image for scene in SCENES])


def test_the_map_of_a_named_shape_lies_on_it(told) -> None:
    hits = []
    for scene, description in zip(SCENES, told, strict=True):
        assert description.question == DESCRIBE
        for noun in description.unsteered.nouns:
            assert description.unsteered.text[slice(*noun.span)] == noun.text
            masks = [thing.mask for thing in scene.objects if thing.kind.shape == noun.noun]
            x, y = noun.points.xy[0].astype(int)
            if masks:
                hits.append(any(mask[y, x] for mask in masks))
    assert len(hits) > 15
    assert np.mean(hits) > 0.8


def test_every_object_of_a_caption_is_a_noun_and_most_are_supported(told) -> None:
    for description in told:
        text = description.unsteered.text
        assert len(description.unsteered.nouns) == sum(word in SHAPES for word in text.split())
        assert description.unsteered.finished
        assert description.unsteered.tokens_per_second > 0
    nouns = [noun for description in told for noun in description.unsteered.nouns]
    assert np.mean([noun.supported for noun in nouns]) > 0.8
    for noun in nouns:
        assert (
            0
            <= min(noun.support.image_mass_ratio, noun.support.sharpness)
            <= max(noun.support.image_mass_ratio, noun.support.sharpness)
            <= 1
        )


def test_what_is_not_there_has_less_support_and_is_flagged(pipe) -> None:
    present, absent = [], []
    for scene in SCENES:
        missing = [shape for shape in SHAPES if shape not in {thing.kind.shape for thing in scene.objects}]
        text = caption(scene.objects, attributes=True).removesuffix(" .") + f" and a large green {missing[0]} ."
        *true, false = pipe.check(scene.image, text).nouns
        assert false.noun == missing[0]
        present += [noun.support.value for noun in true]
        absent.append(false.support.value)
    assert max(absent) < np.median(present)
    assert np.mean(np.array(absent) < pipe.threshold) > 0.7
    assert np.mean(np.array(present) < pipe.threshold) < 0.15


def test_a_given_text_is_judged_as_a_generated_one(pipe, told) -> None:
    checked = pipe.check(SCENES[0].image, told[0].unsteered.text)
    assert checked.tokens_per_second is None
    assert checked.text == told[0].unsteered.text
    for one, other in zip(checked.nouns, told[0].unsteered.nouns, strict=True):
        assert one.support.value == pytest.approx(other.support.value, abs=1e-4)
        np.testing.assert_allclose(one.map.values, other.map.values, atol=1e-3)


def test_both_texts_from_one_seed_side_by_side(starter) -> None:
    decoding = Decoding(max_new_tokens=40, do_sample=True, temperature=2.0, seed=5)
    both = [
        FaithfulDescription(starter, load_method("starter"), steering=steering(step), decoding=decoding)(
            SCENES[1].image
        )
        for step in (Nothing(), Shorter())
    ]
    same, shorter = both
    assert same.steered.text == same.unsteered.text == shorter.unsteered.text
    assert shorter.steered.tokens == 3
    assert not shorter.steered.finished
    assert shorter.unsteered.text.startswith(shorter.steered.text)
    assert (same.steering, same.seed) == ("nothing", 5)
    assert list(same.captions) == ["unsteered", "steered"]


def test_beams_are_read_too(starter) -> None:
    pipe = FaithfulDescription(starter, load_method("starter"), decoding=Decoding(max_new_tokens=40, num_beams=2))
    assert pipe(SCENES[2].image).unsteered.nouns


def test_masks_cover_the_named_shapes_and_join_the_support(starter, tiny_segmenter) -> None:
    segmenter = load_segmenter(str(tiny_segmenter), "cpu")
    (noun, *_) = FaithfulDescription(starter, load_method("starter"), segmenter)(SCENES[3].image).unsteered.nouns
    assert noun.segment.mask.shape == SCENES[3].image.size[::-1]
    assert noun.segment.label == noun.text
    assert noun.support.agreement == max(0.0, noun.segment.agreement)
    parts = (noun.support.image_mass_ratio, noun.support.sharpness, noun.support.agreement)
    assert noun.support.value == pytest.approx(np.prod(parts) ** (1 / 3))


def test_tokens_are_streamed_as_the_text_they_make(starter) -> None:
    class Kept:
        def __init__(self) -> None:
            self.ids: list[int] = []
            self.ended = False

        def put(self, value) -> None:
            self.ids.extend(value.flatten().tolist())

        def end(self) -> None:
            self.ended = True

    kept: dict[str, Kept] = {}
    pipe = FaithfulDescription(starter, load_method("starter"), steering=steering(Shorter()))
    found = pipe(SCENES[0].image, stream=lambda label: kept.setdefault(label, Kept()))
    for label, one in found.captions.items():
        assert kept[label].ended
        assert starter.tokenizer.decode(kept[label].ids[-one.tokens :], skip_special_tokens=True).strip() == one.text


@pytest.mark.parametrize("method", ["plain-mean", "default", "vl-sam", "decaf"])
@pytest.mark.parametrize("vlm", [lambda: Llava(*tiny_llava()), lambda: QwenVL(*tiny_qwen2_5_vl())])
def test_other_families_and_methods_with_a_generic_prompt(vlm, method) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    pipe = FaithfulDescription(vlm(), load_method(method), decoding=Decoding(max_new_tokens=8))
    described = pipe(picture)
    assert described.question == "Please describe this image in detail."
    assert described.unsteered.tokens <= 8
    checked = pipe.check(picture, "the red dog is on the image, left of a dog.")
    assert [noun.text for noun in checked.nouns] == ["red dog", "dog"]
    for noun in checked.nouns:
        assert noun.map.image_size == (80, 60)
        assert noun.supported is None  # no threshold was measured for this model
        if noun.points is not None:
            (cell,) = xy_to_cells(noun.points.xy[:1], noun.map.values.shape, (80, 60))
            assert noun.map.values[tuple(cell)] > noun.map.values.mean()


def test_a_threshold_of_one_flags_everything_and_of_nothing_nothing(pipe) -> None:
    text = caption(SCENES[0].objects, attributes=False)
    for threshold, expected in ((0.0, True), (1.0, False)):
        strict = FaithfulDescription(pipe.vlm, pipe.method, threshold=threshold)
        assert {noun.supported for noun in strict.check(SCENES[0].image, text).nouns} == {expected}
    with pytest.raises(MethodError, match=r"threshold of 1\.5"):
        FaithfulDescription(pipe.vlm, pipe.method, threshold=1.5)


def test_saving_draws_one_picture_a_text(told, tmp_path) -> None:
    both = replace(told[0], steered=told[0].unsteered, steering="nothing")
    files = both.save(tmp_path / "deep", "scene")
    assert [file.name for file in files] == ["scene-unsteered.png", "scene-steered.png"]
    sheet = np.asarray(Image.open(files[0]))
    assert sheet.shape[1] > 3 * 260
    flagged = replace(told[0].unsteered, nouns=tuple(replace(n, supported=False) for n in told[0].unsteered.nouns))
    (red,) = replace(told[0], unsteered=flagged).save(tmp_path, "red")
    count = [
        ((s[..., 0] > 200) & (s[..., 1] < 60) & (s[..., 2] < 60)).sum() for s in (sheet, np.asarray(Image.open(red)))
    ]
    assert count[1] > count[0] + 100


def test_what_cannot_be_described_is_refused(pipe, tmp_path) -> None:
    with pytest.raises(ImageError):
        pipe(tmp_path / "none.png")
    with pytest.raises(MethodError, match="'nonsense' is unknown"):
        FaithfulDescription.from_pretrained("no-such-model", steer="nonsense")


def test_a_noun_is_listed_once_with_all_its_supports(pipe) -> None:
    text = "a red star and a blue star and a green circle"
    caption = pipe.check(SCENES[0].image, text)
    assert [(one.noun, len(one.mentions)) for one in caption.by_noun] == [("star", 2), ("circle", 1)]
    star, circle = caption.by_noun
    assert (star.title, circle.title) == ("star, 2 times", "green circle")
    assert star.note.startswith("support " + " ".join(f"{one.support.value:.2f}" for one in star.mentions) + ": gaze ")
    assert star.strongest.support.value == max(one.support.value for one in star.mentions)
    assert caption.summary.startswith("2 nouns in 3 mentions, ")
    (record,) = [one for one in caption_record(caption)["by_noun"] if one["noun"] == "star"]
    assert (record["count"], len(record["support"])) == (2, 2)


def test_a_noun_that_no_mask_fits_stands_out(pipe) -> None:
    caption = pipe.check(SCENES[0].image, "a red star and a blue star")
    first, second = caption.nouns
    size = SCENES[0].image.size
    segment = Segment(np.zeros(size[::-1], bool), 0.9, first.points, "star", agreement=0.0)
    bad = replace(first, segment=segment, support=replace(first.support, agreement=0.0), supported=None)
    fine = replace(second, segment=segment, support=replace(second.support, agreement=0.6), supported=None)
    assert NounMentions("star", (bad,)).flags == "no fitting mask"
    assert NounMentions("star", (bad, fine)).flags == "no fitting mask in 1 of 2"
    assert NounMentions("star", (fine,)).flags == ""
    console = Console(record=True, width=200, force_terminal=False, file=io.StringIO())
    told = Description(SCENES[0].image, "q", replace(caption, nouns=(bad, fine)), None, None, 0)
    write_description(told, console, streamed=False)
    assert "star, 2 times: no fitting mask in 1 of 2 (support 0.00 " in console.export_text()


def test_a_batch_ends_each_text_at_its_own_repeat(starter) -> None:
    """Rows that go on do not change because another one has ended."""
    images = [scene.image for scene in SCENES[:3]]
    plain = generate(starter, images, [DESCRIBE] * 3)
    stopped = generate(starter, images, [DESCRIBE] * 3, decoding=Decoding(stop_at_repeats=True))
    for one, other in zip(plain, stopped, strict=True):
        start = repeat_start(one.text)
        assert other.repeated == (start is not None)
        assert other.text == (one.text if start is None else one.text[:start].strip())
        assert one.token_ids[: len(other.token_ids)] == other.token_ids


def test_a_background_that_needs_an_expression_is_refused() -> None:
    with pytest.raises(MethodError, match="'no-query', which needs a referring expression"):
        FaithfulDescription(Llava(*tiny_llava()), load_method("laser"))
