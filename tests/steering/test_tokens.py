from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.errors import MethodError
from grounding.models.llava import Llava
from grounding.models.qwen_vl import QwenVL
from grounding.models.tiny import tiny_llava, tiny_qwen2_5_vl
from grounding.steering.base import GenerationContext
from grounding.steering.decoding import Decoding
from grounding.steering.tokens import TokenChoice, largest, upper_outliers
from grounding.steering.vision import cell_attention


def pictures(count: int = 2) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(80, 100), (60, 120)][:count]
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for h, w in sizes]


def context_of(vlm, questions=("where is the red dog?", "where is it")) -> GenerationContext:
    images = pictures(len(questions))
    return GenerationContext(vlm, images, questions, vlm.prepare_questions(images, questions), Decoding())


@pytest.fixture(scope="module")
def llava() -> Llava:
    return Llava(*tiny_llava(), name="tiny")


@pytest.mark.parametrize("layer", [0, -2, 1])
def test_class_row_and_received_columns_equal_eager_attention(llava: Llava, layer: int) -> None:
    context = context_of(llava)
    model, _ = tiny_llava()
    tower = model.model.vision_tower
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        out = tower(context.prepared.inputs["pixel_values"], output_attentions=True)
    weights = out.attentions[layer]
    for element, found in enumerate(cell_attention(context, layer)):
        assert found.by_class is not None
        np.testing.assert_allclose(found.by_class, weights[element, :, 0, 1:].sum(0), atol=1e-5)
        np.testing.assert_allclose(found.received, weights[element, :, 1:, 1:].mean(0).sum(0), atol=1e-5)


def test_windows_of_a_tower_without_class_token_come_back_in_the_order_of_the_cells() -> None:
    vlm = QwenVL(*tiny_qwen2_5_vl(), name="tiny")
    together = context_of(vlm)
    for layer in (0, 1):
        both = cell_attention(together, layer)
        for element, (picture, question) in enumerate(zip(together.images, together.questions, strict=True)):
            alone = GenerationContext(
                vlm, [picture], [question], vlm.prepare_questions([picture], [question]), Decoding()
            )
            (own,) = cell_attention(alone, layer)
            assert both[element].by_class is None
            assert len(own.received) == len(alone.prepared.layouts[0].image)
            np.testing.assert_allclose(both[element].received, own.received, atol=1e-5)
            assert own.received.sum() == pytest.approx(4 * len(own.received), rel=1e-4)  # every patch's row sums to 1


def test_reading_the_tower_leaves_the_model_as_it_was(llava: Llava) -> None:
    context = context_of(llava)
    with torch.no_grad():
        before = llava.model(**context.prepared.inputs).logits
        TokenChoice(choice="local").select(context)
        assert torch.equal(llava.model(**context.prepared.inputs).logits, before)
    assert torch.overrides._get_current_function_mode() is None


def test_sets_are_as_described(llava: Llava) -> None:
    context = context_of(llava)
    early, late = cell_attention(context, 0), cell_attention(context, -2)
    local = TokenChoice(choice="local", local=0.25, spatial=0.2, winner="both").select(context)
    for element, positions in enumerate(local):
        cells = context.prepared.layouts[element].cells
        top = np.argsort(-early[element].by_class)[:4]
        spread = np.argsort(-early[element].received)[:3]
        assert set(positions) == set(cells[np.union1d(top, spread)])
    loose = TokenChoice(choice="summary", whisker=0.0)
    for element, positions in enumerate(loose.select(context)):
        cells = context.prepared.layouts[element].cells
        scores = late[element].by_class
        assert set(positions) == set(cells[scores > np.percentile(scores, 75)])
        assert len(positions) == 4
    mine = TokenChoice(choice="local", local=0.5, whisker=0.0).select(context)
    for element, positions in enumerate(mine):
        assert not set(positions) & set(loose.select(context)[element])


def test_a_tower_without_attention_is_replaced_by_the_language_model() -> None:
    vlm = Llava(*tiny_llava(), name="tiny")
    encoder = vlm.model.model.vision_tower.encoder
    encoder.layers = torch.nn.Sequential(*encoder.layers)  # no list of attention layers is found any more
    context = context_of(vlm)
    found = cell_attention(context, 1)
    eager, _ = tiny_llava()
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        weights = eager(**context.prepared.inputs, output_attentions=True).attentions[1]
    for element, layout in enumerate(context.prepared.layouts):
        expected = weights[element, :, layout.instruction][..., layout.image].mean(0).sum(0)
        np.testing.assert_allclose(found[element].received, expected, atol=1e-5)


def test_ranks_and_outliers() -> None:
    scores = np.array([1.0, 9.0, 2.0, 3.0, 2.0, 1.0, 2.0, 3.0], dtype=np.float32)
    assert largest(scores, 0.3).tolist() == [False, True, False, True, False, False, False, False]
    assert not largest(scores, 0.0).any()
    assert np.flatnonzero(upper_outliers(scores, 1.5)).tolist() == [1]
    with pytest.raises(MethodError, match="local and spatial"):
        TokenChoice(local=1.5)


def test_a_layer_that_is_not_there_is_refused(llava: Llava) -> None:
    with pytest.raises(MethodError, match="layer 7 of the vision tower does not exist: it has 2"):
        cell_attention(context_of(llava), 7)


def test_a_convolutional_tower_with_layers_is_replaced_too() -> None:
    """The photo starter's tower has a list of blocks, none of which attends."""
    from grounding.attention.introspect import tower_stack, vision_tower
    from grounding.models.load import load

    assert tower_stack(vision_tower(load("starter-photo").model)) is None
