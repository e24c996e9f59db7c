from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from forced_answers import says
from PIL import Image
from pycocotools import mask as coco_mask

from grounding.errors import MethodError, OutputError
from grounding.io import decode_mask
from grounding.methods import load_method
from grounding.models.load import load
from grounding.scenes.drawing import draw_scene
from grounding.segmenters.peeling import Peeling
from grounding.steering.decoding import Decoding
from grounding.text.categories import Category, CategoryFinder, Vocabulary
from pipelines.open_ended import DEFAULT_DECODING, OpenEndedSegmentation
from pipelines.open_ended_settings import LIST_QUESTIONS, WRITE_QUESTIONS, DiscoverySettings, written_questions

SCENES = [draw_scene(seed) for seed in range(7_500_000, 7_500_004)]
ONCE = Peeling(rounds=1)


@pytest.fixture(scope="module")
def starter():
    return load("starter", "cpu")


@pytest.fixture
def scene_pipe(starter, loaded):
    """The starter with the tiny SAM, whose masks are noise: for names, maps, points and runs."""

    def make(decoding=DEFAULT_DECODING, **settings):
        return OpenEndedSegmentation(
            starter, loaded[1], load_method("starter"), DiscoverySettings(**settings), decoding, batch_size=16
        )

    return make


@pytest.fixture
def saying(loaded, noise):
    """What the tiny LLaVA's pipeline finds in noise after it has said a text."""

    def run(text, for_ever=False, decoding=DEFAULT_DECODING, categories=None, **settings):
        vlm, segmenter = loaded
        pipe = OpenEndedSegmentation(
            vlm,
            segmenter,
            load_method("plain-mean"),
            DiscoverySettings(peeling=ONCE, **settings),
            decoding,
            says(text, for_ever),
            categories,
        )
        return pipe(noise)

    return run


@pytest.fixture(scope="module")
def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8))


@pytest.mark.parametrize("maps", ["answer", "question"])
def test_points_of_named_shapes_lie_on_them(scene_pipe, maps):
    hits = []
    for scene, result in zip(SCENES, scene_pipe(maps=maps)([scene.image for scene in SCENES]), strict=True):
        assert result.answers[0].asked == "describe the image ."
        for one in result.maps:
            assert one.heatmap is not None
            row, column = np.unravel_index(one.heatmap.values.argmax(), one.heatmap.values.shape)
            height, width = one.heatmap.values.shape
            y, x = (int((at + 0.5) * 384 / side) for at, side in ((row, height), (column, width)))
            shapes = [thing.mask for thing in scene.objects if thing.kind.shape == one.name.name]
            hits.append(any(mask[y, x] for mask in shapes))
        assert [one.name.words for one in result.maps] == list(result.answers[0].names)
    assert len(hits) > 8
    assert np.mean(hits) > 0.7


def test_runs_are_counted_view_by_view_and_question_by_question(scene_pipe):
    image = SCENES[0].image
    plain = scene_pipe(peeling=ONCE)(image)
    names = len(plain.maps)
    assert names >= 1
    assert (plain.runs.answers, plain.runs.maps, plain.runs.encoder, plain.runs.prompts) == (1, 1, 1, names)
    assert plain.runs.model == 2
    asked = scene_pipe(peeling=ONCE, maps="question")(image)
    assert (asked.runs.answers, asked.runs.maps) == (1, names)
    several = scene_pipe(peeling=ONCE, question_ensemble="fixed")(image)
    assert [one.asked for one in several.answers] == list(scene_pipe().vlm.own_words.listing)
    assert (several.runs.answers, several.runs.encoder) == (3, 1)
    assert several.answers[0].text == plain.answers[0].text
    views = scene_pipe(peeling=ONCE, multi_scale=True)(image)
    assert [one.view for one in views.answers] == [0, 1, 2, 3, 4]
    assert views.runs.answers == 5
    for one in views.maps:
        assert one.heatmap.image_size == image.size
        for segment in one.segments:
            assert segment.mask.shape == (384, 384)


def test_a_questions_ensemble_shares_its_beginning_and_steering_does_not(scene_pipe, starter, loaded):
    image = SCENES[0].image
    passes = []
    handle = starter.model.model.vision_tower.register_forward_hook(lambda m, a, o: passes.append(o[0].shape[0]))
    try:
        result = scene_pipe(question_ensemble="fixed", peeling=ONCE)(image)
    finally:
        handle.remove()
    assert passes[-2] == 1  # the shared beginning, before the pass over the three answers
    assert passes[-1] == 3
    assert not any("common beginning" in note for note in result.notes)
    settings = DiscoverySettings(question_ensemble="fixed", peeling=ONCE)
    steered = OpenEndedSegmentation(
        starter, loaded[1], load_method("starter"), settings, steering=says("a red star ."), batch_size=4
    )(image)
    assert any("was run for each of them: steering edits every pass" in note for note in steered.notes)
    assert {one.text for one in steered.answers} == {"a red star ."}


def test_drawn_answers_differ_and_greedy_ones_are_refused(scene_pipe):
    with pytest.raises(MethodError, match="without sampling"):
        scene_pipe(answers=2)
    decoding = Decoding(max_new_tokens=40, do_sample=True, temperature=2.0, stop_at_repeats=True)
    found = scene_pipe(decoding, answers=3, peeling=ONCE)(SCENES[1].image)
    assert len(found.answers) == found.runs.answers == 3
    assert len({one.text for one in found.answers}) > 1
    again = scene_pipe(decoding, answers=3, peeling=ONCE)(SCENES[1].image)
    assert [one.text for one in again.answers] == [one.text for one in found.answers]


def test_instances_are_ranked_and_do_not_overlap(scene_pipe):
    result = scene_pipe(overlap=0.3, peeling=Peeling(rounds=3, least_peak=0.0, least_new=0.0))(SCENES[2].image)
    scores = [one.score for one in result.instances]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    masks = [coco_mask.encode(np.asfortranarray(one.segment.mask, np.uint8)) for one in result.instances]
    ious = coco_mask.iou(masks, masks, [0] * len(masks)) - np.eye(len(masks))
    assert ious.max(initial=0) <= 0.3
    every = scene_pipe(overlap=1.0, peeling=Peeling(rounds=3, least_peak=0.0, least_new=0.0))(SCENES[2].image)
    assert len(every.instances) == sum(len(one.segments) for one in every.maps) >= len(result.instances)


@pytest.mark.parametrize("text", ["no", ".", "it is what it is", ""])
def test_a_model_that_lists_nothing_finds_nothing_and_says_so(saying, text, tmp_path):
    result = saying(text)
    assert result.instances == ()
    assert (result.runs.maps, result.runs.encoder, result.runs.prompts) == (0, 0, 0)
    assert result.notes == ("the model named no object",)
    files = result.save(tmp_path, formats=("png", "mask", "cutout", "coco", "npz", "explain"))
    assert all(file.is_file() for file in files)
    assert json.loads((tmp_path / "objects.coco.json").read_text()) == []


def test_two_hundred_names_are_looked_for_up_to_the_limit(loaded, noise):
    photo = load("starter-photo", "cpu")
    known = [word for word in sorted(photo.tokenizer.get_vocab()) if word.isalpha() and len(word) > 4]
    text = " , ".join(known[:200])
    decoding = Decoding(max_new_tokens=500)
    result = OpenEndedSegmentation(
        photo,
        loaded[1],
        load_method("starter-photo"),
        DiscoverySettings(max_names=7, peeling=ONCE),
        decoding,
        says(text),
    )(noise)
    (answer,) = result.answers
    assert len(answer.names) == len(result.maps) == 7
    assert answer.dropped > 100
    assert f"{answer.dropped} names beyond 7 of an answer were not looked for" in result.notes
    assert result.runs.prompts <= 7


def test_a_model_that_repeats_itself_for_ever_is_stopped(saying):
    result = saying("a dog , ", for_ever=True)
    (answer,) = result.answers
    assert answer.repeated
    assert not answer.finished
    assert answer.names == ("dog",)
    assert answer.tokens < 40
    unlike = saying("abcdefg hijk lmnop , qrst uvw xyz ", for_ever=True, decoding=Decoding(max_new_tokens=50))
    assert unlike.answers[0].tokens == 50


def test_names_of_another_language_have_maps_and_masks(saying):
    result = saying("一只狗，两只猫")  # noqa: RUF001 - that is how a list is written
    assert [one.name.name for one in result.maps] == ["一只狗", "两只猫"]
    assert all(one.heatmap is not None for one in result.maps)
    assert {one.name for one in result.instances} <= {"一只狗", "两只猫"}


def test_stuff_is_one_instance(loaded, noise):
    peeling = Peeling(rounds=3, least_peak=0.0, least_new=0.0, margin=0.0)
    found = {}
    for stuff in ("one", "many", "drop"):
        settings = DiscoverySettings(peeling=peeling, stuff=stuff, overlap=1.0)
        pipe = OpenEndedSegmentation(*loaded, load_method("plain-mean"), settings, steering=says("the sky"))
        found[stuff] = pipe(noise)
    assert len(found["many"].instances) == 3
    (one,) = found["one"].instances
    union = np.any([other.segment.mask for other in found["many"].instances], axis=0)
    np.testing.assert_array_equal(one.segment.mask, union)
    assert one.segment.agreement is not None
    assert found["drop"].instances == ()


def test_names_become_categories_and_what_is_none_is_left_out_of_coco(saying, tmp_path):
    vocabulary = Vocabulary((Category(7, "animal", ("dog",)), Category(9, "bench")))
    result = saying("a dog and a zebra", categories=CategoryFinder(vocabulary), overlap=1.0)
    assert {(one.name, one.category_id) for one in result.instances} == {("animal", 7), ("zebra", None)}
    entries = result.coco(3)
    assert {(entry["image_id"], entry["category_id"]) for entry in entries} == {(3, 7)}
    assert decode_mask(entries[0]["segmentation"]).shape == (80, 120)
    free = saying("a dog and a zebra", overlap=1.0)
    assert {entry["category_id"] for entry in free.coco()} == {1, 2}


def test_one_mask_may_have_several_likely_categories(saying):
    def embed(texts):
        return np.ones((len(texts), 1), np.float32)

    vocabulary = Vocabulary((Category(1, "cat"), Category(2, "bench")))
    result = saying("a dog", categories=CategoryFinder(vocabulary, embed, top=2))
    assert {one.name for one in result.instances} == {"cat", "bench"}
    assert {one.score for one in result.instances} == {result.instances[0].score}


def test_a_model_can_write_the_questions_itself(loaded, noise):
    written = "1. What is red ?\n2. What is left of the dog?\n- What is red ?\nThat is all."
    assert written_questions(written) == ("What is red ?", "What is left of the dog?")
    assert len(written_questions("\n".join(f"{i}. Is there {i} ?" for i in range(30)))) == 10
    vlm, segmenter = loaded
    settings = DiscoverySettings(question_ensemble="written", peeling=ONCE)
    pipe = OpenEndedSegmentation(vlm, segmenter, load_method("plain-mean"), settings, steering=says(written))
    result = pipe(noise)
    assert [one.asked for one in result.answers] == ["What is red ?", "What is left of the dog?"]
    assert result.runs.answers == 3
    silent = OpenEndedSegmentation(vlm, segmenter, load_method("plain-mean"), settings, steering=says("a dog"))(noise)
    assert [one.asked for one in silent.answers] == list(LIST_QUESTIONS[:1])
    assert any("wrote no question" in note for note in silent.notes)
    assert "10 questions" in WRITE_QUESTIONS


def test_a_picture_without_objects_may_have_instances_but_never_fails(scene_pipe):
    result = scene_pipe(multi_scale=True, peeling=ONCE)(Image.new("RGB", (64, 64), "black"))
    assert result.runs.answers == 5
    assert all(one.segment.mask.any() for one in result.instances)


@pytest.mark.parametrize(
    "wrong",
    [{"answers": 0}, {"max_names": 0}, {"overlap": 2.0}, {"question": " "}, {"maps": "x"}, {"rank": "x"},
     {"question": "what ?", "question_ensemble": "fixed"}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(MethodError):
        DiscoverySettings(**wrong)


def test_every_format_is_written(saying, tmp_path):
    result = saying("a dog and a cat", overlap=1.0)
    files = result.save(tmp_path, "it", ("explain", "npz", "png"))
    assert [file.name for file in files] == ["it.png", "it.npz", "it.explain.png", "it.explain.json"]
    with np.load(tmp_path / "it.npz") as maps:
        assert sorted(maps.files) == ["0 dog", "1 cat"]
        np.testing.assert_array_equal(maps["0 dog"], result.maps[0].heatmap.values)
    told = json.loads((tmp_path / "it.explain.json").read_text())
    assert [one["words"] for one in told["names"]] == ["dog", "cat"]
    assert told["runs"]["model"] == 2
    with pytest.raises(OutputError, match="'gif'"):
        result.save(tmp_path, formats="gif")


def test_equal_calls_give_equal_results(saying):
    first, second = saying("a dog and a cat"), saying("a dog and a cat")
    assert first == second
    assert first != replace(second, notes=("other",))
