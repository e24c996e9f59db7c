"""What every model family promises, on a tiny random model of its real class.

`families.py` is the table of the families and says how one is added.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from explicit_flow import DECAF, VLSAM, explicit_flow
from families import FAMILIES
from PIL import Image, ImageOps
from steering_reference import Reference, reference_attention

from grounding.attention import RowRequest, record
from grounding.attention.rows import TOLERANCE
from grounding.compat import decoder_attentions, last_logits, last_logits_option
from grounding.errors import ImageError, MethodError, RecordingError
from grounding.geometry import Box, uncovered_share
from grounding.layout import ImageGrid
from grounding.methods import load_method
from grounding.models.base import VLM
from grounding.models.maps import record_maps
from grounding.models.prepared import Prepared
from grounding.models.registry import FAMILIES as KNOWN
from grounding.models.teacher_forcing import continued, control_tokens_hidden
from grounding.record_spec import RecordSpec
from grounding.segmenters.load import load_segmenter
from grounding.steering.base import GenerationContext
from grounding.steering.decoding import Decoding
from grounding.steering.editor import applied
from grounding.steering.generate import generate
from grounding.steering.method import Steering
from grounding.steering.modulation import Renormalise, Values
from pipelines.describe import FaithfulDescription
from pipelines.referring import ReferringSegmentation

ALLOWED = TOLERANCE[torch.float32]
EXPRESSIONS = ("dog", "the red elephant left of the dog")
GREEDY = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
GREY, BRIGHT = (90, 90, 90), (255, 0, 200)


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def greedy(model: Any) -> dict[str, Any]:
    """Options of three greedy steps."""
    return GREEDY | last_logits_option(model)


class Subject:
    """One family's model, and two prepared batches of it."""

    def __init__(self, name: str) -> None:
        self.name, self.family, self.model_type = name, FAMILIES[name], name.partition("/")[0]
        self.vlm = self.family.vlm(self.model_type)
        self.kernel = self.vlm.model.config._attn_implementation
        self.pictures = [noise(size, seed) for seed, size in enumerate(self.family.sizes)]
        self.batch = self.vlm.prepare(self.pictures, EXPRESSIONS)

    @property
    def pair(self) -> Prepared:
        """One prompt with two pictures; of a family that takes one, with the second alone."""
        several = self.vlm.takes_several
        return self.vlm.prepare([self.pictures if several else self.pictures[1:]], [EXPRESSIONS[1]])


@cache
def subject_of(name: str) -> Subject:
    return Subject(name)


@pytest.fixture(params=list(FAMILIES))
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    one = subject_of(request.param)
    with torch.no_grad():
        yield one
    assert one.vlm.model.config._attn_implementation == one.kernel


@contextmanager
def eager(subject: Subject) -> Iterator[Any]:
    subject.vlm.model.set_attn_implementation("eager")
    try:
        yield subject.vlm.model
    finally:
        subject.vlm.model.set_attn_implementation(subject.kernel)


def full_attention(subject: Subject, prepared: Prepared) -> torch.Tensor:
    """[B, L, H, N, N]"""
    with eager(subject) as model:
        found = decoder_attentions(model(**prepared.inputs, output_attentions=True, use_cache=False))
    return torch.stack(of_layers(subject.vlm, found, subject.vlm.row_layers), dim=1)


def full_weights(subject: Subject, prepared: Prepared) -> list[torch.Tensor]:
    """Per element [L, H, N, K] over `TokenLayout.keys`."""
    if subject.family.weights is not None:
        with eager(subject):
            return subject.family.weights(subject.vlm, prepared)
    full = full_attention(subject, prepared)
    return [own[..., layout.keys.tolist()] for own, layout in zip(full, prepared.layouts, strict=True)]


def of_layers(vlm: VLM, attentions: tuple[torch.Tensor, ...], layers: tuple[int, ...]) -> list[torch.Tensor]:
    """Those of some layers, where a model returns those of all layers and not of the wanted kind alone."""
    return [attentions[layer] for layer in layers] if len(attentions) == vlm.layer_count else list(attentions)


def queries_of(prepared: Prepared) -> tuple[tuple[int, ...], ...]:
    """The last three positions of each element, and its first image cell or token."""
    firsts = (int((layout.cells if len(layout.cells) else layout.image)[0]) for layout in prepared.layouts)
    return tuple((first, *range(prepared.length - 3, prepared.length)) for first in firsts)


def request_of(subject: Subject, *, decode: bool = False) -> RowRequest:
    """These rows of all layers whose rows are maps."""
    return RowRequest(queries_of(subject.batch), decode=decode, spec=map_spec(subject))


def map_spec(subject: Subject) -> RecordSpec:
    return RecordSpec(layers=subject.vlm.map_layers, attention=subject.vlm.map_attention)


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


def test_the_table_holds_every_family() -> None:
    assert {name.partition("/")[0] for name in FAMILIES} == set(KNOWN)


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


def test_cells_are_the_image_tokens_and_cover_the_picture(subject: Subject) -> None:
    vlm = subject.vlm
    for index, layout in enumerate(subject.batch.layouts):
        ids = subject.batch.inputs["input_ids"][index].numpy()
        image = np.flatnonzero(ids == vlm.image_token_id)
        assert set(layout.cells) <= set(image) <= set(layout.image)
        cells = np.concatenate([grid.positions for grid in layout.grids])
        if not layout.cross:
            np.testing.assert_array_equal(np.sort(cells), layout.cells)
        assert set(cells) <= set(layout.keys)
        assert len(set(cells)) == sum(grid.shape[0] * grid.shape[1] for grid in layout.grids)
        assert len(layout.grids) == subject.family.grids[index]
        assert sorted({*layout.image, *layout.system, *layout.instruction}) == list(
            range(layout.padding, layout.length)
        )
        if subject.family.full:
            assert uncovered_share([grid.box_xyxy for grid in layout.grids], subject.family.sizes[index]) == 0


def test_every_cell_has_a_feature_of_its_own_and_logits(subject: Subject) -> None:
    cells_are_tokens = not subject.batch.layouts[0].cross
    for maps in subject.vlm.maps(subject.pictures, EXPRESSIONS, RecordSpec(features=True, logits=cells_are_tokens)):
        assert maps.features is not None
        if cells_are_tokens:
            assert maps.logits is not None
            assert maps.logits.shape == (len(maps.words), len(maps.keys))
            assert np.isfinite(maps.logits).all()
        at = np.searchsorted(maps.keys, np.concatenate([grid.positions for grid in maps.grids]))
        assert len(np.unique(maps.features[at], axis=0)) == len(at)  # the picture is noise


def test_cells_that_are_keys_of_cross_attention_have_no_logits_and_are_no_residual_sinks(subject: Subject) -> None:
    sinks = RecordSpec(residual_sinks=True)
    if not subject.batch.layouts[0].cross:
        assert all(maps.residual_sinks.any() for maps in record_maps(subject.vlm, subject.batch, sinks))
        return
    with pytest.raises(RecordingError, match="cells are no tokens of its language model and have no logits at cells"):
        record_maps(subject.vlm, subject.batch, RecordSpec(logits=True))
    for maps in record_maps(subject.vlm, subject.batch, sinks):
        assert maps.residual_sinks.shape == (maps.values.shape[1], len(maps.keys))
        assert not maps.residual_sinks.any()


def test_each_words_tokens_spell_the_word(subject: Subject) -> None:
    for prepared in (subject.batch, subject.pair):
        for words, ids in zip(prepared.words, prepared.inputs["input_ids"], strict=True):
            for word in words[:-1]:
                assert subject.vlm.tokenizer.decode(ids[list(word.positions)]).strip() == word.text
            assert words[-1].positions == (prepared.length - 1,)


class EndOfPassError(Exception):
    pass


def embeddings(vlm: VLM, prepared: Prepared) -> torch.Tensor:
    """[B, N, hidden] what the decoder's first layer is given, where no patch sees another before.

    Of a model that reads pictures by cross-attention [B, K, hidden], what its projector is given.
    """
    seen, changed = [], []

    def stop(module: Any, args: Any, kwargs: Any) -> None:
        rows = args[0] if args else kwargs["hidden_states"]
        seen.append(rows.reshape(len(rows), -1, rows.shape[-1]))
        raise EndOfPassError

    read = vlm.projector if prepared.layouts[0].cross else vlm.decoder.layers[0]
    handle = read.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        for parameter in attention_outputs(vlm):
            changed.append((parameter, parameter.clone()))
            parameter.zero_()
        for kernel in overlapping_kernels(vlm):
            changed.append((kernel, kernel.clone()))
            centre = kernel[..., kernel.shape[-2] // 2, kernel.shape[-1] // 2].clone()
            kernel.zero_()[..., kernel.shape[-2] // 2, kernel.shape[-1] // 2] = centre
        vlm.model(**prepared.inputs, use_cache=False)
    except EndOfPassError:
        pass
    finally:
        handle.remove()
        for parameter, before in changed:
            parameter.copy_(before)
    return seen[0]


def attention_outputs(vlm: VLM) -> Iterator[torch.Tensor]:
    """The weights and biases that write the outputs of all attention before the decoder's, but pooling in a cell's."""
    names = ("out_proj", "o_proj", "proj", "projection", "projection_layer", "wo")
    own = set(vlm.decoder.layers.modules())
    for at, module in vlm.model.named_modules():
        if module not in own and "attention" in type(module).__name__.lower() and "pooling" not in at:
            yield from (p for name in names if hasattr(module, name) for p in getattr(module, name).parameters())


def overlapping_kernels(vlm: VLM) -> Iterator[torch.Tensor]:
    """The weights of the convolutions before the decoder whose windows overlap."""
    own = set(vlm.decoder.layers.modules())
    for module in vlm.model.modules():
        if module not in own and isinstance(module, torch.nn.Conv2d) and module.kernel_size > module.stride:
            yield module.weight


def overlap(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def cell_boxes(grid: ImageGrid, beyond: float = 0.0) -> list[Box]:
    """Each cell's box in the picture, enlarged by a share of the cell on each side."""
    x0, y0, x1, y1 = grid.box_xyxy
    height, width = (y1 - y0) / grid.shape[0], (x1 - x0) / grid.shape[1]
    return [
        (
            x0 + (column - beyond) * width,
            y0 + (row - beyond) * height,
            x0 + (column + 1 + beyond) * width,
            y0 + (row + 1 + beyond) * height,
        )
        for row in range(grid.shape[0])
        for column in range(grid.shape[1])
    ]


def patches(grids: tuple[ImageGrid, ...], size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Boxes in whole pixels: the middle parts of the first, a middle and the last of the smallest cells in view."""
    area = [(g.box_xyxy[2] - g.box_xyxy[0]) * (g.box_xyxy[3] - g.box_xyxy[1]) / len(g.positions) for g in grids]
    smallest = [
        middle(box) for grid, own in zip(grids, area, strict=True) if own < 1.01 * min(area) for box in cell_boxes(grid)
    ]
    seen = [box for box in smallest if min(box) >= 0 and box[2] <= size[0] and box[3] <= size[1]]
    return [seen[0], seen[len(seen) // 2], seen[-1]]


def middle(box: Box, low: float = 0.36, high: float = 0.64) -> tuple[int, int, int, int]:
    """The middle part of a box, in whole pixels."""
    x0, y0, x1, y1 = (round(box[i] + share * (box[i + 2] - box[i])) for share in (low, high) for i in (0, 1))
    return x0, y0, x1, y1


def with_patch(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    picture = Image.new("RGB", size, GREY)
    picture.paste(BRIGHT, box)
    return picture


def moved(vlm: VLM, items: list[Any], grids: tuple[ImageGrid, ...]) -> list[list[np.ndarray]]:
    """Per item but the first and per grid, which cells' embeddings differ from the first item's."""
    found = embeddings(vlm, vlm.prepare(items, ["dog"] * len(items)))
    difference = (found[1:] - found[:1]).norm(dim=-1).numpy()  # [B - 1, N]
    return [[one[grid.positions] > 1e-3 * one.max() for grid in grids] for one in difference]


def check_moved(cells: list[np.ndarray], grids: tuple[ImageGrid, ...], patch: Box) -> None:
    area = overlap(patch, patch)
    for own, grid in zip(cells, grids, strict=True):
        for is_moved, box, near in zip(own, cell_boxes(grid), cell_boxes(grid, 0.3), strict=True):
            if overlap(box, patch) > 0.2 * area:
                assert is_moved, f"the cell {box} covers the patch {patch} and does not move"
            if not overlap(near, patch):
                assert not is_moved, f"the cell {box} lies apart from the patch {patch} and moves"


def test_a_bright_patch_moves_the_cells_that_cover_it_and_no_other(subject: Subject) -> None:
    for size in subject.family.sizes:
        (layout,) = subject.vlm.prepare([Image.new("RGB", size, GREY)], ["dog"]).layouts
        boxes = patches(layout.grids, size)
        items = [Image.new("RGB", size, GREY), *(with_patch(size, box) for box in boxes)]
        for cells, box in zip(moved(subject.vlm, items, layout.grids), boxes, strict=True):
            check_moved(cells, layout.grids, box)
            assert sum(int(own.sum()) for own in cells) >= 1


def test_a_mirrored_picture_mirrors_the_grid(subject: Subject) -> None:
    size = subject.family.sizes[0]
    plain = Image.new("RGB", size, GREY)
    grids = subject.vlm.prepare([plain], ["dog"]).layouts[0].grids
    boxes = patches(grids, size)
    pictures = [with_patch(size, box) for box in boxes]
    found = moved(subject.vlm, [plain, *pictures, *map(ImageOps.mirror, pictures)], grids)
    for cells, mirrored, box in zip(found[:3], found[3:], boxes, strict=True):
        check_moved(mirrored, grids, (size[0] - box[2], box[1], size[0] - box[0], box[3]))
        width = max((grid.box_xyxy[2] - grid.box_xyxy[0]) / grid.shape[1] for grid in grids)
        np.testing.assert_allclose(
            sorted(size[0] - x for x in centres(cells, grids)), sorted(centres(mirrored, grids)), atol=0.1 * width
        )


def centres(cells: list[np.ndarray], grids: tuple[ImageGrid, ...]) -> list[float]:
    """Per grid with moved cells, the mean x of their centres."""
    return [
        float(np.mean([(box[0] + box[2]) / 2 for box, is_moved in zip(cell_boxes(grid), own, strict=True) if is_moved]))
        for own, grid in zip(cells, grids, strict=True)
        if own.any()
    ]


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


def test_a_patch_in_the_second_picture_moves_its_cells_alone(subject: Subject) -> None:
    if not subject.vlm.takes_several:
        pytest.skip("the family takes one picture")
    size = subject.family.sizes[0]
    plain = Image.new("RGB", size, GREY)
    (layout,) = subject.vlm.prepare([[plain, plain]], ["dog"]).layouts
    second = tuple(grid for grid in layout.grids if grid.picture == 1)
    boxes = patches(second, size)
    items = [[plain, plain], *([plain, with_patch(size, box)] for box in boxes)]
    for cells, box in zip(moved(subject.vlm, items, layout.grids), boxes, strict=True):
        first = len(layout.grids) - len(second)
        assert not any(own.any() for own in cells[:first])
        check_moved(cells[first:], second, box)


REFUSAL = "by cross-attention, where every key is of the picture"
QUESTIONS = ("where is the red dog on the left?", "where is it")


def test_a_gain_of_one_is_bit_identical_and_another_equals_the_formula(subject: Subject) -> None:
    vlm = subject.vlm
    prepared = vlm.prepare_questions(subject.pictures, QUESTIONS)
    context = GenerationContext(vlm, subject.pictures, QUESTIONS, prepared, Decoding())
    edit: type[Renormalise | Values] = Renormalise
    if vlm.map_attention == "cross":
        edit = Values
        with pytest.raises(MethodError, match=REFUSAL), applied(Renormalise(gain=4.0), context):
            pass
    plain = vlm.model(**prepared.inputs).logits
    with applied(edit(gain=1.0, prefill="all"), context):
        assert torch.equal(vlm.model(**prepared.inputs).logits, plain)
    modulation = edit(gain=4.0, prefill="all")
    with reference_attention(vlm, Reference(modulation, context)):
        expected = vlm.model(**prepared.inputs).logits
    with applied(modulation, context):
        found = vlm.model(**prepared.inputs).logits
    for element, layout in enumerate(prepared.layouts):
        real = slice(layout.padding, None)
        torch.testing.assert_close(found[element, real], expected[element, real], atol=5e-5, rtol=1e-3)
        assert (found[element, -1] - plain[element, -1]).abs().max() > 1e-3
    assert torch.equal(vlm.model(**prepared.inputs).logits, plain)


@pytest.fixture(scope="module")
def segmenter(tiny_segmenter) -> Any:
    return load_segmenter(str(tiny_segmenter), "cpu")


def test_segment_end_to_end(subject: Subject, segmenter: Any) -> None:
    pipe = ReferringSegmentation(subject.vlm, segmenter, load_method("plain-mean"), 2)
    for result in pipe(list(zip(subject.pictures, EXPRESSIONS, strict=True))):
        assert result.segments[0].mask.shape == (result.image.height, result.image.width)
        assert result.map.values.max() == 1


def test_describe_end_to_end(subject: Subject) -> None:
    steering = Steering("test", "", "", (Renormalise(gain=3.0),))
    if subject.vlm.map_attention == "cross":
        with pytest.raises(MethodError, match=REFUSAL):
            FaithfulDescription(subject.vlm, load_method("plain-mean"), None, steering)
        steering = Steering("test", "", "", (Values(gain=3.0),))
    pipe = FaithfulDescription(subject.vlm, load_method("plain-mean"), None, steering, Decoding(max_new_tokens=4))
    description = pipe(subject.pictures[0])
    (expected,) = generate(subject.vlm, [subject.pictures[0]], [subject.vlm.default_question], None, Decoding(4))
    assert description.unsteered.text == expected.text.strip()
    assert description.steered is not None
    assert pipe.check(subject.pictures[0], "A red dog.").nouns[0].noun == "dog"
