from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration

from grounding.errors import ExpressionError
from grounding.model_files import starter_folder
from grounding.models.llava import Llava
from grounding.models.load import load
from grounding.models.maps import record_maps
from grounding.record_spec import RecordSpec
from grounding.scenes.drawing import draw_scene
from grounding.scenes.language import CELLS, VOCABULARY, SceneTexts
from grounding.starter.measure import measure
from grounding.starter.model import IMAGE_SIZE, build_model, build_processor, build_tokenizer
from grounding.starter.tower import StarterTowerConfig


def test_the_same_seed_builds_the_same_weights():
    one, two = build_model(3).state_dict(), build_model(3).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_saved_model_loads_through_the_auto_classes_with_equal_answers(tmp_path: Path):
    model = build_model(1).eval()
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert isinstance(again, LlavaForConditionalGeneration)
    pixels = torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    with torch.inference_mode():
        ours = model.model.vision_tower(pixels)
        theirs = again.model.vision_tower(pixels)
    assert ours.last_hidden_state.shape == (1, 1 + CELLS**2, model.config.vision_config.hidden_size)
    assert torch.equal(ours.last_hidden_state, theirs.last_hidden_state)
    assert torch.equal(ours.hidden_states[-1], ours.last_hidden_state)


def test_cells_of_the_tower_run_row_by_row_over_the_picture():
    """A change inside one cell moves that cell's feature more than any other's."""
    tower = load("starter", device="cpu").model.model.vision_tower
    grey = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    dotted = grey.clone()
    row, column = 3, 8
    dotted[:, 0, row * 16 + 2 : row * 16 + 14, column * 16 + 2 : column * 16 + 14] = 2
    with torch.inference_mode():
        moved = (tower.stem(dotted) - tower.stem(grey)).square().sum(1)[0]
    assert divmod(int(moved.argmax()), CELLS) == (row, column)


def test_halvings_and_cell_size_must_agree():
    with pytest.raises(ValueError, match="16 px"):
        StarterTowerConfig(patch_size=14)


def test_every_word_is_one_token_and_none_is_unknown():
    tokenizer = build_tokenizer()
    for word in VOCABULARY:
        assert tokenizer(word, add_special_tokens=False)["input_ids"] == [tokenizer.get_vocab()[word]]
    assert tokenizer("zebra", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]


def test_measuring_counts_every_kind_of_question():
    seeds = range(9_000_100, 9_000_104)
    untrained = measure(Llava(build_model(0).eval(), build_processor(), "starter"), seeds)
    trained = measure(load("starter", device="cpu"), seeds)
    texts = [SceneTexts(draw_scene(seed)) for seed in seeds]
    expected = Counter(f"locate {one.kind}" for text in texts for one in text.expressions)
    expected.update(one.kind for text in texts for one in text.questions)
    expected.update({"caption precision": 4, "caption recall": 4})
    assert {kind: score.n for kind, score in trained.items()} == expected
    assert {kind: score.n for kind, score in untrained.items()} == expected
    assert trained["caption recall"].share > 0.8 > 0.4 > untrained["caption recall"].share
    assert trained["exists"].share > 0.7


def test_the_shipped_weights_fit_and_point_at_things():
    assert sum(file.stat().st_size for file in starter_folder().iterdir()) <= 12_000_000
    vlm = load("starter", device="cpu")
    assert vlm.notice
    assert "drawn scenes only" in vlm.notice
    hits = []
    for seed in range(9_000_000, 9_000_016):
        scene = draw_scene(seed)
        expression = SceneTexts(scene).expressions[0]
        (maps,) = record_maps(vlm, vlm.prepare([scene.image], [expression.text]), RecordSpec())
        cells = maps.values[:, :, :, -1].mean(axis=(0, 1, 2))
        row, column = divmod(int(np.argmax(cells)), CELLS)
        side = scene.image.width / CELLS
        hits.append(scene.objects[expression.target_index].mask[int((row + 0.5) * side), int((column + 0.5) * side)])
    assert np.mean(hits) > 0.8
    with pytest.raises(ExpressionError, match="vocabulary"):
        vlm.prepare([scene.image], ["the kitchen sink"])
