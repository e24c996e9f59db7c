"""Families whose processors write more than image tokens in place of a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.errors import ModelError
from grounding.layout import ImageGrid, Separator
from grounding.models.llava import Llava
from grounding.models.maps import record_maps
from grounding.models.tiny import tiny_llava
from grounding.models.tiny.llava import LLAVA_TEMPLATE
from grounding.record_spec import RecordSpec
from grounding.text.tiny import byte_tokenizer

SIDE = 4  # cells along each side of a picture
HALF = ("<image>" * SIDE + "<row>") * (SIDE // 2) + "<tile>"
PICTURES = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (60, 80, 3), dtype=np.uint8)) for i in range(2)]
WORDS = ["dog", "the red elephant left of the dog"]


class RowsOfLlava(Llava):
    """LLaVA whose processor ends each row of cells with a newline token, and each half of the picture with another.

    The halves stand for tiles: each has its own grid.
    """

    def picture_text(self, picture):
        return HALF * 2

    def grids(self, picture, positions):
        (whole,) = super().grids(picture, positions)
        x0, y0, x1, y1 = whole.box_xyxy
        middle, half = (y0 + y1) / 2, len(positions) // 2
        return (
            ImageGrid(positions[:half], (SIDE // 2, SIDE), (x0, y0, x1, middle)),
            ImageGrid(positions[half:], (SIDE // 2, SIDE), (x0, middle, x1, y1)),
        )


def with_rows(template: str = LLAVA_TEMPLATE) -> tuple[Any, Any]:
    """A tiny LLaVA with two more tokens, and a processor that writes them."""
    model, processor = tiny_llava()
    tokenizer = byte_tokenizer(
        ("<unk>", "<s>", "</s>", "<pad>", "<image>", "<row>", "<tile>"), bos="<s>", eos="</s>", pad="<pad>"
    )
    model.resize_token_embeddings(len(tokenizer))

    class Rows(type(processor)):
        def __call__(self, images, text, **options):
            pixels = self.image_processor(images, return_tensors="pt")
            for name in ("return_tensors", "return_text_replacement_offsets"):
                options.pop(name)
            written = [one.replace("<image>", HALF * 2) for one in text]
            return {**tokenizer(written, return_tensors="pt", **options), **pixels}

    rows = Rows(processor.image_processor, tokenizer, patch_size=14, chat_template=template)
    return model, rows


@pytest.fixture(scope="module")
def vlm() -> RowsOfLlava:
    return RowsOfLlava(*with_rows())


def test_separators_belong_to_the_picture_and_are_no_cells(vlm: RowsOfLlava) -> None:
    prepared = vlm.prepare(PICTURES, WORDS)
    for layout, ids in zip(prepared.layouts, prepared.inputs["input_ids"], strict=True):
        tokens = vlm.tokenizer.convert_ids_to_tokens(ids)
        assert {tokens[p] for p in layout.cells} == {"<image>"}
        (separator,) = (span for span in layout.spans if isinstance(span, Separator))
        assert [tokens[p] for p in separator.positions] == ["<row>", "<row>", "<tile>"] * 2
        np.testing.assert_array_equal(layout.image, np.arange(layout.image[0], layout.image[0] + SIDE * SIDE + 6))
        assert [grid.shape for grid in layout.grids] == [(2, 4), (2, 4)]
        assert not {"<image>", "<row>", "<tile>"} & {tokens[p] for p in (*layout.system, *layout.instruction)}


def test_words_behind_separators_are_found(vlm: RowsOfLlava) -> None:
    prepared = vlm.prepare(PICTURES, WORDS)
    assert prepared.layouts[0].padding > 0
    batch = zip(WORDS, prepared.words, prepared.layouts, prepared.inputs["input_ids"], strict=True)
    for expression, words, layout, ids in batch:
        for word in words[:-1]:
            assert vlm.tokenizer.decode(ids[list(word.positions)]).strip() == word.text
        assert vlm.tokenizer.decode(ids[layout.expression]).strip() == expression
        assert set(layout.expression) >= {p for word in words[:-1] for p in word.positions}


def test_rows_over_cells_and_separators_are_those_of_eager_attention(vlm: RowsOfLlava) -> None:
    prepared = vlm.prepare(PICTURES, WORDS)
    recorded = record_maps(vlm, prepared, RecordSpec())
    vlm.model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            full = torch.stack(vlm.model(**prepared.inputs, output_attentions=True, use_cache=False).attentions, dim=1)
    finally:
        vlm.model.set_attn_implementation("sdpa")
    for maps, layout, weights in zip(recorded, prepared.layouts, full.numpy(), strict=True):
        np.testing.assert_array_equal(maps.keys, layout.image)
        for row, word in enumerate(maps.words):
            expected = weights[:, :, list(word.positions)][..., layout.image].mean(2)
            np.testing.assert_allclose(maps.values[0, :, :, row], expected, atol=1e-6)


def test_tokens_that_the_family_does_not_expect_are_refused() -> None:
    model, processor = with_rows()
    with pytest.raises(ModelError, match="expected 16 tokens in place of the prompt's image token"):
        Llava(model, processor).prepare(PICTURES[:1], WORDS[:1])  # expects image tokens alone
    model, processor = tiny_llava()
    processor.tokenizer = with_rows()[1].tokenizer
    with pytest.raises(ModelError, match="expected 22 tokens in place"):
        RowsOfLlava(model, processor).prepare(PICTURES[:1], WORDS[:1])


def test_a_picture_behind_the_text_moves_no_word() -> None:
    behind = (
        "{% for message in messages %}USER: {% for content in message['content'] %}"
        "{% if content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %} <image>"
        "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
    )
    vlm = RowsOfLlava(*with_rows(behind))
    prepared = vlm.prepare(PICTURES[:1], ["the red dog"])
    (layout,) = prepared.layouts
    ids = prepared.inputs["input_ids"][0]
    assert vlm.tokenizer.decode(ids[layout.expression]).strip() == "the red dog"
    assert [vlm.tokenizer.decode(ids[list(word.positions)]).strip() for word in prepared.words[0][:-1]] == [
        "the",
        "red",
        "dog",
    ]
    assert set(layout.expression) <= set(layout.system)
    assert vlm.tokenizer.decode(ids[layout.instruction]).strip() == "ASSISTANT:"


def test_an_image_token_that_the_tokenizer_splits_is_refused() -> None:
    model, processor = tiny_llava()
    vlm = Llava(model, processor)
    processor.image_token = "<|dog|>"
    with pytest.raises(ModelError):
        vlm.prepare(PICTURES[:1], WORDS[:1])


def test_two_pictures_of_a_processor_that_does_not_say_what_it_wrote_are_refused(vlm: RowsOfLlava) -> None:
    with pytest.raises(ModelError, match="which of its 32 image tokens belong to which of the 2 pictures"):
        vlm.prepare([PICTURES], WORDS[:1])


def test_text_between_two_pictures_is_of_the_system() -> None:
    between = (
        "{% for message in messages %}USER: {% for content in message['content'] %}"
        "{% if content['type'] == 'text' %} {{ content['text'] }}{% else %} picture <image>{% endif %}{% endfor %}"
        "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
    )
    model, processor = tiny_llava()
    processor.chat_template = between
    vlm = Llava(model, processor)
    prepared = vlm.prepare([PICTURES, PICTURES[:1]], ["the red dog", "dog"])
    two, one = prepared.layouts
    ids = prepared.inputs["input_ids"]
    assert vlm.tokenizer.decode(ids[0][two.system]).split() == ["<s>USER:", "picture", "picture"]
    assert vlm.tokenizer.decode(ids[0][two.expression]).strip() == "the red dog"
    assert [grid.picture for grid in two.grids] == [0, 1]
    np.testing.assert_array_equal(np.concatenate([two.of_picture(0), two.of_picture(1)]), two.image)
    assert one.padding > 0
    maps = record_maps(vlm, prepared, RecordSpec())
    assert [m.grids[0].picture for m in maps] == [0, 1, 0]
    assert [m.words[-2].text for m in maps] == ["dog"] * 3
