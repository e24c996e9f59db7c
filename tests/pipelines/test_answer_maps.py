from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.errors import ExpressionError
from grounding.methods import load_method
from grounding.models.answer_words import answer_words
from grounding.models.llava import Llava
from grounding.models.load import load
from grounding.models.teacher_forcing import tokens_of
from grounding.models.tiny import tiny_llava
from grounding.record_spec import RecordSpec
from grounding.scenes.drawing import SHAPES, draw_scene
from grounding.types import Heatmap, WordKind
from pipelines.answer_maps import AnswerMaps, MappedAnswer
from pipelines.answer_page import answer_page, heat_layer
from pipelines.results import MappedWord

SCENES = [draw_scene(seed) for seed in range(7_400_000, 7_400_004)]
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def pipe() -> AnswerMaps:
    return AnswerMaps(load("starter", "cpu"), load_method("starter"))


@pytest.fixture(scope="module")
def answers(pipe) -> list[MappedAnswer]:
    return [pipe(scene.image) for scene in SCENES]


def peak(heatmap: Heatmap) -> tuple[int, int]:
    """The pixel (x, y) in the middle of the largest cell."""
    row, column = np.unravel_index(heatmap.values.argmax(), heatmap.values.shape)
    height, width = heatmap.values.shape
    return int((column + 0.5) * heatmap.image_size[0] / width), int((row + 0.5) * heatmap.image_size[1] / height)


def test_every_word_of_the_answer_has_a_map(answers) -> None:
    for answer in answers:
        assert answer.finished
        assert [word.text for word in answer.words] == re.findall(r"\w+", answer.text)
        assert all(answer.text[slice(*word.span)] == word.text for word in answer.words)
        assert all(0 < word.share < 1 and word.map.values.max() == pytest.approx(1) for word in answer.words)


def test_the_map_of_a_named_shape_lies_on_a_shape_of_its_kind(answers) -> None:
    hits = []
    for scene, answer in zip(SCENES, answers, strict=True):
        for word in answer.words:
            if word.text in SHAPES:
                masks = [thing.mask for thing in scene.objects if thing.kind.shape == word.text]
                x, y = peak(word.map)
                hits.append(any(mask[y, x] for mask in masks))
    assert len(hits) >= 8
    assert np.mean(hits) >= 0.75


def test_a_given_answer_is_mapped_as_the_models_own(pipe, answers) -> None:
    given = pipe(SCENES[0].image, answer=answers[0].text)
    assert given.text == answers[0].text
    for one, other in zip(given.words, answers[0].words, strict=True):
        assert one.share == pytest.approx(other.share, abs=1e-5)
        np.testing.assert_allclose(one.map.values, other.map.values, atol=1e-3)


def test_words_outside_a_closed_vocabulary_are_refused(pipe) -> None:
    with pytest.raises(ExpressionError, match="outside the vocabulary"):
        pipe(SCENES[0].image, answer="a purple elephant .")


def test_rows_are_those_of_eager_attention_over_question_and_answer() -> None:
    model, processor = tiny_llava()
    eager, _ = tiny_llava()
    eager.set_attn_implementation("eager")
    vlm = Llava(model, processor)
    prepared = vlm.prepare_questions([PICTURE], ["where is the red dog?"])
    tokens = tokens_of(vlm, "the red dog is on the left")
    found = answer_words(vlm, prepared, tokens, RecordSpec())
    assert [word.text for word in found.words] == ["the", "red", "dog", "is", "on", "the", "left"]
    ids = torch.cat([prepared.inputs["input_ids"], torch.tensor([tokens])], dim=1)
    inputs = {**prepared.inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.inference_mode():
        attentions = eager(**inputs, output_attentions=True).attentions
    every = torch.stack([a[0] for a in attentions])  # [L, H, N, N]
    for word, maps in zip(found.words, found.maps, strict=True):
        assert maps.words[0].is_head
        own = every[:, :, list(word.positions)].mean(2)[..., maps.keys]
        before = every[:, :, word.positions[0] - 1][..., maps.keys]
        np.testing.assert_allclose(maps.values[0, :, :, 0], own, atol=1e-6)
        np.testing.assert_allclose(maps.values[0, :, :, 1], before, atol=1e-6)


def made(text: str = "a <b> & c", question: str = "what </script>?") -> MappedAnswer:
    heat = Heatmap(np.array([[0, 0.5], [0, 1]], np.float32), PICTURE.size)
    words = tuple(
        MappedWord(found[0], found.span(), WordKind.CONTENT, 0.2 * (at + 1), heat)
        for at, found in enumerate(re.finditer(r"\w+", text))
    )
    return MappedAnswer(PICTURE, question, text, words, True, "made", "none", ("a note",))


def page_of(answer: MappedAnswer) -> str:
    return answer_page(answer.image, answer.question, answer.text, answer.words, answer.notes)


def test_the_page_holds_everything_and_escapes_what_was_said() -> None:
    page = page_of(made())
    assert page.count('data-map="data:image/png;base64,') == page.count("<button") == 3
    for text in ("&lt;<button", "what &lt;/script&gt;?", "a note"):
        assert text in page
    assert not re.search(r"(?:src|href)=\"(?!data:)[^\"]", page)
    assert "http" not in page


def test_the_page_of_an_answer_without_words() -> None:
    assert "<button" not in page_of(made("..."))


def test_a_layer_is_most_opaque_where_the_map_is_largest() -> None:
    layer = heat_layer(made().words[0].map, 60)
    assert layer.size == (60, 40)
    alpha = np.asarray(layer)[..., 3]
    assert alpha[-1, -1] == alpha.max() > 190
    assert alpha[:, 0].max() < 10


def test_both_files_are_written(tmp_path) -> None:
    files = made().save(tmp_path / "new", "one")
    assert [file.name for file in files] == ["one.html", "one.png"]
    assert Image.open(files[1]).width > 500
