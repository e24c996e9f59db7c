"""What every model family promises of recording: rows, logits, padding, decode steps, two pictures.

`families.py` is the table of the families and says how one is added.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from explicit_flow import DECAF, VLSAM, explicit_flow
from subjects import (
    ALLOWED,
    EXPRESSIONS,
    Subject,
    eager,
    full_attention,
    full_weights,
    greedy,
    map_spec,
    of_layers,
    queries_of,
    request_of,
)

from grounding.attention import RowRequest, record
from grounding.compat import last_logits
from grounding.errors import ImageError
from grounding.models.maps import record_maps
from grounding.models.teacher_forcing import continued, control_tokens_hidden
from grounding.record_spec import RecordSpec


def test_rows_equal_eager_attention(subject: Subject) -> None:
    prepared = subject.batch
    full = full_weights(subject, prepared)
    recorded = record_maps(subject.vlm, prepared, RecordSpec())
    assert len(recorded) == 2
    for index, maps in enumerate(recorded):
        np.testing.assert_array_equal(maps.keys, prepared.layouts[index].keys)
        for row, word in enumerate(maps.words):
            expected = full[index][:, :, list(word.positions)].mean(dim=2)
            np.testing.assert_allclose(maps.values[0, :, :, row], expected.numpy(), rtol=0, atol=ALLOWED)
    assert max(maps.values.max() / maps.values.mean() for maps in recorded) > 3, "too uniform to prove anything"


def test_logits_are_bit_equal_under_recording(subject: Subject) -> None:
    inputs = subject.batch.inputs
    plain = subject.vlm.model(**inputs).logits
    with record(subject.vlm.model, request_of(subject)):
        recorded = subject.vlm.model(**inputs).logits
    assert torch.equal(recorded, plain)
    assert torch.equal(subject.vlm.model(**inputs).logits, plain)


def test_the_flow_of_every_family_is_that_of_its_matrices(subject: Subject) -> None:
    prepared = subject.batch
    attention = full_attention(subject, prepared)
    image = tuple(tuple(layout.image.tolist()) for layout in prepared.layouts)
    for rule in (VLSAM, DECAF):
        request = RowRequest(queries_of(prepared), image_keys=image, spec=RecordSpec(flow=rule))
        with record(subject.vlm.model, request) as recording:
            subject.vlm.model(**prepared.inputs, use_cache=False, logits_to_keep=last_logits())
        for element, rows in enumerate(request.queries):
            real = prepared.inputs["attention_mask"][element].bool()
            expected = explicit_flow(attention[element], rule, real, torch.tensor(image[element]))[list(rows)]
            torch.testing.assert_close(recording.prefill[element][0, 0].double(), expected, atol=2e-6, rtol=1e-4)


def test_a_left_padded_batch_of_two_sizes_equals_its_elements(subject: Subject) -> None:
    layouts = subject.batch.layouts
    assert max(layout.padding for layout in layouts) > 0 == min(layout.padding for layout in layouts)
    together = record_maps(subject.vlm, subject.batch, RecordSpec())
    for index, maps in enumerate(together):
        alone = subject.vlm.prepare([subject.pictures[index]], [EXPRESSIONS[index]])
        for one, other in zip(alone.layouts[0].grids, layouts[index].grids, strict=True):
            assert (one.shape, one.box_xyxy) == (other.shape, other.box_xyxy)
            shift = 0 if layouts[index].cross else layouts[index].padding
            np.testing.assert_array_equal(one.positions + shift, other.positions)
        expected = record_maps(subject.vlm, alone, RecordSpec())[0]
        np.testing.assert_allclose(maps.values, expected.values, rtol=0, atol=1e-5)


def test_prefill_and_decode_equal_eager_generation(subject: Subject) -> None:
    model, inputs, queries = subject.vlm.model, subject.batch.inputs, queries_of(subject.batch)
    with record(model, request_of(subject, decode=True)) as recording:
        generated = model.generate(**inputs, **greedy(model))
    assert torch.equal(generated, model.generate(**inputs, **greedy(model)))
    with eager(subject):
        slow = model.generate(**inputs, **greedy(model), output_attentions=True, return_dict_in_generate=True)
    assert torch.equal(slow.sequences, generated)
    for element, rows in enumerate(queries):
        layers = of_layers(subject.vlm, slow.attentions[0], subject.vlm.map_layers)
        expected = torch.stack([layer[element] for layer in layers])[:, :, list(rows)]
        torch.testing.assert_close(recording.prefill[element], expected, atol=ALLOWED, rtol=0)
        for step, attentions in enumerate(slow.attentions[1:]):
            layers = of_layers(subject.vlm, attentions, subject.vlm.map_layers)
            expected = torch.stack([layer[element] for layer in layers])
            found = recording.decode[element][step, ..., : expected.shape[-1]]
            torch.testing.assert_close(found, expected, atol=ALLOWED, rtol=0)


def test_rows_of_generated_tokens_equal_those_of_teacher_forcing(subject: Subject) -> None:
    vlm, prepared = subject.vlm, subject.batch
    with record(vlm.model, request_of(subject, decode=True)) as recording:
        generated = vlm.model.generate(**prepared.inputs, **greedy(vlm.model))
    tokens = generated[:, prepared.length :].tolist()
    with control_tokens_hidden(vlm, tokens, prepared.length) as shown:
        inputs = continued(vlm, prepared.inputs, shown)
        at = ((prepared.length, prepared.length + 1),) * 2  # the last token generated is not read
        with record(vlm.model, RowRequest(at, spec=map_spec(subject))) as whole:
            vlm.model(**inputs, use_cache=False, logits_to_keep=last_logits())
    for element in range(2):
        for step in range(2):
            columns = prepared.length + step + 1 if vlm.map_attention == "softmax" else None
            found = recording.decode[element][step, :, :, 0, :columns]
            expected = whole.prefill[element][:, :, step, :columns]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_two_pictures_in_one_prompt(subject: Subject) -> None:
    vlm = subject.vlm
    if not vlm.takes_several:
        with pytest.raises(ImageError, match="takes one picture for each expression, got 2"):
            vlm.prepare([subject.pictures], ["dog"])
        return
    prepared = subject.pair
    (layout,) = prepared.layouts
    assert layout.image_sizes == subject.family.sizes
    assert {grid.picture for grid in layout.grids} == {0, 1}
    (full,) = full_weights(subject, prepared)
    maps = record_maps(vlm, prepared, RecordSpec())
    assert [one.image_size for one in maps] == list(subject.family.sizes)
    for picture, one in enumerate(maps):
        np.testing.assert_array_equal(one.keys, layout.keys_of_picture(picture))
        columns = np.searchsorted(layout.keys, one.keys).tolist()
        for row, word in enumerate(one.words):
            expected = full[:, :, list(word.positions)][..., columns].mean(dim=2)
            np.testing.assert_allclose(one.values[0, :, :, row], expected.numpy(), rtol=0, atol=ALLOWED)
