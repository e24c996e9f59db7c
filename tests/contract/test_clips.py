"""What every family that reads clips promises, on a tiny random model of its real class."""

from __future__ import annotations

from collections.abc import Callable, Sized
from functools import cache
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
import torch
from families import FAMILIES
from PIL import Image

from grounding.attention.rows import TOLERANCE
from grounding.errors import ImageError, MethodError, ModelError
from grounding.images import as_rgb
from grounding.layout import ImageGrid
from grounding.maps.frames import frame_maps
from grounding.methods import load_method, run_stages
from grounding.models.clips import ClipReader, clip_reader
from grounding.models.maps import record_maps
from grounding.models.picture import Clip
from grounding.models.probing.movement import image_embeddings
from grounding.models.registry import family_class
from grounding.models.shared_prefix import why_not_shared
from grounding.record_spec import RecordSpec
from grounding.steering.base import GenerationContext
from grounding.steering.baselines.vcd import VisualContrast
from grounding.steering.decoding import Decoding
from grounding.steering.generate import generate
from grounding.steering.method import Steering
from grounding.steering.tokens import TokenChoice

SINGLE = ("internvl", "llava_onevision", "smolvlm")
"""Families whose frames have a grid each; others join two frames."""
READERS = [
    name for name in FAMILIES if "/" not in name and getattr(family_class(name), "clip_reader_class", None) is not None
]
SIZE, FRAMES = (141, 83), 5
GREY, BRIGHT = (90, 90, 90), (255, 0, 200)
EXPRESSIONS = ("dog", "the red elephant left of the dog")


@cache
def reader_of(name: str) -> ClipReader:
    return clip_reader(FAMILIES[name].vlm(name))


def noise(frames: int, size: tuple[int, int] = SIZE, fps: float = 2.0) -> Clip:
    generator = np.random.default_rng(frames)
    values = generator.integers(0, 256, (frames, size[1], size[0], 3), dtype=np.uint8)
    return Clip(tuple(Image.fromarray(one) for one in values), fps)


def boxes(grid: ImageGrid) -> list[tuple[float, float, float, float]]:
    """The box of each cell."""
    x0, y0, x1, y1 = grid.box_xyxy
    xs, ys = np.linspace(x0, x1, grid.shape[1] + 1), np.linspace(y0, y1, grid.shape[0] + 1)
    return [(float(a), float(c), float(b), float(d)) for c, d in pairwise(ys) for a, b in pairwise(xs)]


@pytest.mark.parametrize("name", READERS)
def test_the_tokens_of_a_clip_are_the_cells_of_its_steps_of_time(name: str) -> None:
    reader = reader_of(name)
    prepared = reader.prepare([noise(FRAMES)], ["dog"])
    (layout,), ids = prepared.layouts, prepared.inputs["input_ids"][0].numpy()
    tokens = np.flatnonzero(ids == reader.image_token_id)
    cells = np.concatenate([grid.positions for grid in layout.grids])
    np.testing.assert_array_equal(cells, tokens[: len(cells)])  # in the order of time
    assert len(tokens) - len(cells) == (name == "llava_onevision")  # its newline
    assert {grid.shape for grid in layout.grids} == {layout.grids[0].shape}
    step = 1 if name in SINGLE else 2
    assert [grid.frame for grid in layout.grids] == list(range(0, FRAMES, step))
    assert all(grid.box_xyxy == (0, 0, *SIZE) for grid in layout.grids)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("frame", [0, 3, 4])
def test_a_bright_patch_moves_the_cells_that_cover_it_in_time_and_space(name: str, frame: int) -> None:
    reader = reader_of(name)
    plain = [Image.new("RGB", SIZE, GREY)] * FRAMES

    def embeddings(frames: list[Image.Image]) -> torch.Tensor:
        inputs = reader.prepare([frames], ["dog"]).inputs
        return image_embeddings(reader.model, inputs, reader.image_token_id)[0]

    prepared = reader.prepare([plain], ["dog"])
    (layout,) = prepared.layouts
    tokens = np.flatnonzero(prepared.inputs["input_ids"][0].numpy() == reader.image_token_id)
    covering = [grid for grid in layout.grids if cast(int, grid.frame) <= frame][-1]
    still = embeddings(plain)
    for cell in (0, len(covering.positions) // 2, len(covering.positions) - 1):
        x0, y0, x1, y1 = boxes(covering)[cell]
        changed = plain[frame].copy()
        left, top, right, bottom = (round(a + s * (b - a)) for s in (0.4, 0.6) for a, b in ((x0, x1), (y0, y1)))
        changed.paste(BRIGHT, (left, top, right, bottom))
        moved = (embeddings([*plain[:frame], changed, *plain[frame + 1 :]]) - still).norm(dim=-1)
        assert tokens[(moved > 0.05 * moved.max()).numpy()].tolist() == [covering.positions[cell]]


@pytest.mark.parametrize("name", READERS)
def test_rows_equal_eager_attention_in_a_left_padded_batch(name: str) -> None:
    reader = reader_of(name)
    clips = [noise(4), noise(4, (75, 121))]
    prepared = reader.prepare(clips, EXPRESSIONS)
    assert max(layout.padding for layout in prepared.layouts) > 0
    kernel = reader.model.config._attn_implementation
    reader.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            attentions = reader.model(**prepared.inputs, output_attentions=True, use_cache=False).attentions
    finally:
        reader.model.set_attn_implementation(kernel)
    for index, maps in enumerate(record_maps(reader, prepared, RecordSpec())):
        np.testing.assert_array_equal(maps.keys, prepared.layouts[index].image)
        full = torch.stack([layer[index] for layer in attentions])  # [L, H, N, N]
        for row, word in enumerate(maps.words):
            expected = full[:, :, list(word.positions)][..., maps.keys.tolist()].mean(dim=2)
            np.testing.assert_allclose(maps.values[0, :, :, row], expected, rtol=0, atol=TOLERANCE[torch.float32])
        (alone,) = reader.maps([clips[index]], [EXPRESSIONS[index]], RecordSpec())
        np.testing.assert_allclose(maps.values, alone.values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", READERS)
def test_a_word_has_a_map_for_each_step_of_time_and_a_clip_an_answer(name: str) -> None:
    reader, clip = reader_of(name), noise(FRAMES)
    (maps,) = reader.maps([clip], [EXPRESSIONS[1]], RecordSpec(features=True, logits=True))
    by_frame = frame_maps(maps)
    assert list(by_frame) == [grid.frame for grid in maps.grids]
    for grid, own in zip(maps.grids, by_frame.values(), strict=True):
        np.testing.assert_array_equal(own.keys, grid.positions)
        columns = np.searchsorted(maps.keys, grid.positions)
        np.testing.assert_array_equal(own.values, maps.values[..., columns])
        assert own.features is not None
        assert own.logits is not None
        assert len(own.features) == own.logits.shape[1] == len(columns)
        heatmap = run_stages(load_method("plain-mean"), own)
        assert heatmap.image_size == SIZE
        assert np.isfinite(heatmap.values).all()
    (answer,) = generate(reader, cast(Any, [clip]), ["where is it"], decoding=Decoding(max_new_tokens=3))
    assert len(answer.token_ids) > 0


@pytest.mark.parametrize("name", READERS)
def test_questions_about_one_clip_are_asked_whole_where_a_shared_beginning_is_wanted(name: str) -> None:
    reader, clips, questions = reader_of(name), cast(Any, [noise(2)] * 2), ("where is it", "what is it")
    assert "it reads clips" in str(why_not_shared(reader, clips[0], questions))
    decoding = Decoding(max_new_tokens=3)
    whole = generate(reader, clips, questions, decoding=decoding)
    shared = generate(reader, clips, questions, decoding=decoding, share_prefix=True)
    assert [one.token_ids for one in shared] == [one.token_ids for one in whole]


@pytest.mark.parametrize("name", READERS)
def test_steering_that_reads_the_pixels_of_pictures_works_or_refuses_clips_in_a_sentence(name: str) -> None:
    reader, clips, questions = reader_of(name), cast(Any, [noise(2)]), ["where is it"]
    decoding = Decoding(max_new_tokens=2)
    context = GenerationContext(reader, clips, questions, reader.prepare_questions(clips, questions), decoding)
    uses: tuple[Callable[[GenerationContext], Sized], ...] = (
        lambda _: generate(reader, clips, questions, Steering("test", "", "", (VisualContrast(),)), decoding),
        TokenChoice("local", local=1.0).select,
        TokenChoice("summary").select,
    )
    for use in uses:
        if name == "internvl":  # its frames are pictures to the model
            assert len(use(context)) == 1
            continue
        reason = "cannot be noised yet|cannot be told apart" if name == "smolvlm" else "takes no pixels of pictures but"
        with pytest.raises(MethodError, match=reason):
            use(context)


def test_times_stand_before_each_step_and_count_in_seconds() -> None:
    reader = reader_of("qwen3_vl")
    for fps, times in ((2.0, ["0.2", "1.2", "2.0"]), (10.0, ["0.1", "0.2", "0.4"])):
        prepared = reader.prepare([noise(FRAMES, fps=fps)], ["dog"])
        text = reader.tokenizer.decode(prepared.inputs["input_ids"][0])
        assert [part.partition(" seconds")[0] for part in text.split("<")[1:] if " seconds" in part] == times
        assert len(prepared.layouts[0].image) > len(prepared.layouts[0].cells)  # times are separators


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "I;16"])
def test_frames_of_every_mode_are_read_as_the_rgb_pictures_they_show(name: str, mode: str) -> None:
    reader = reader_of(name)
    deep = [Image.fromarray(np.asarray(frame.convert("L")).astype(np.uint16) * 257) for frame in noise(2).frames]
    frames = deep if mode == "I;16" else [frame.convert(mode) for frame in noise(2).frames]
    assert {frame.mode for frame in frames} == {mode}
    found = reader.prepare([frames], ["dog"]).inputs
    expected = reader.prepare([[as_rgb(frame) for frame in frames]], ["dog"]).inputs
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("name", READERS)
def test_a_clip_of_one_frame_is_one_step_of_time_or_refused_in_a_sentence(name: str) -> None:
    reader = reader_of(name)
    if name.startswith(("glm4", "qwen3")):
        with pytest.raises(
            ImageError, match=r"reads clips of at least 2 frames, got 1: give more frames, or the only one as"
        ):
            reader.prepare([noise(1)], ["dog"])
    else:
        (layout,) = reader.prepare([noise(1)], ["dog"]).layouts
        (grid,) = layout.grids
        assert grid.frame == 0
        (answer,) = generate(reader, cast(Any, [noise(1)]), ["where is it"], decoding=Decoding(max_new_tokens=2))
        assert len(answer.token_ids) > 0


def test_a_reader_of_clips_stays_what_it_is() -> None:
    reader = reader_of("qwen2_vl")
    assert clip_reader(reader) is reader


def test_what_is_no_clip_is_refused() -> None:
    picture = Image.new("RGB", SIZE)
    reader = reader_of("qwen2_vl")
    with pytest.raises(ImageError, match="a picture was given, expected a clip or a list of frames"):
        reader.prepare([picture], ["dog"])
    with pytest.raises(ImageError, match="needs frames of one size, got no frame"):
        reader.prepare([[]], ["dog"])
    with pytest.raises(ImageError, match=r"one size, got \[\(40, 40\), \(141, 83\)\]"):
        reader.prepare([[picture, picture.resize((40, 40))]], ["dog"])
    for no_pictures in ([np.zeros((8, 8, 3), np.uint8)], np.zeros((2, 8, 8, 3), np.uint8)):
        with pytest.raises(ImageError, match=r"frames that are Pillow pictures, got ndarray: .*fromarray"):
            reader.prepare([cast(Any, no_pictures)], ["dog"])
    with pytest.raises(ImageError, match="frames that are Pillow pictures, got NoneType"):
        reader.prepare([cast(Any, None)], ["dog"])
    with pytest.raises(ImageError, match="positive number of frames a second, got 0"):
        Clip((picture,), 0)
    with pytest.raises(ImageError, match="too long for"):
        reader.prepare([[Image.new("RGB", (2000, 5))] * 2], ["dog"])
    with pytest.raises(ImageError, match=r"clips of one length in a batch, got \[2, 3\] frames"):
        reader_of("llava_onevision").prepare([[picture] * 2, [picture] * 3], EXPRESSIONS)
    with pytest.raises(ImageError, match=r"loaded for pictures: read it with grounding\.models\.clips\.clip_reader"):
        FAMILIES["qwen2_vl"].vlm("qwen2_vl").prepare([Clip((picture,))], ["dog"])
    with pytest.raises(ModelError, match=r"\(Llava\) reads single pictures here: .* of type .*qwen3_vl"):
        clip_reader(FAMILIES["llava"].vlm("llava"))
    with pytest.raises(ValueError, match="those of a still picture"):
        frame_maps(FAMILIES["llava"].vlm("llava").maps([picture], ["dog"], RecordSpec())[0])
