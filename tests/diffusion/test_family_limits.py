"""What single families do beside the common contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers", reason="the extra diffusion is not installed")

from tiny_sources import tiny_source

from grounding.diffusion.cogvideox import CogVideoX
from grounding.diffusion.flux import Flux
from grounding.diffusion.reading import MapReading, ModelSettings
from grounding.diffusion.sd3 import StableDiffusion3
from grounding.diffusion.tiny import tiny_flux, tiny_pipeline
from grounding.diffusion.tiny_video import tiny_cogvideox
from grounding.diffusion.wan import Wan
from grounding.errors import ImageError, ModelError, RecordingError
from grounding.record_spec import RecordSpec
from grounding.types import WordKind

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))


def test_sd3_reads_a_word_in_both_encoders() -> None:
    source = tiny_source("StableDiffusion3Pipeline")
    maps = source.maps([PICTURE], ["red dog"], RecordSpec())[0]
    owned = {word.text: len(word.positions) for word in maps.words if word.kind is not WordKind.SPECIAL}
    assert owned == {"red": 3 + 1, "dog": 3 + 1}  # a letter each for CLIP, a piece each for T5


def test_sd3_without_t5_reads_clip_alone() -> None:
    pipe = tiny_pipeline("StableDiffusion3Pipeline")
    whole = StableDiffusion3(pipe)
    both = whole.maps([PICTURE], ["red dog"], RecordSpec())[0]
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    alone = StableDiffusion3(pipe)
    maps = alone.maps([PICTURE], ["red dog"], RecordSpec())[0]
    assert [word.text for word in maps.words] == ["<|startoftext|>", "red", "dog", "<|endoftext|>"]
    assert maps.values.shape[3] == both.values.shape[3] - 1
    kept = alone.with_reading(pads="keep").maps([PICTURE], ["red dog"], RecordSpec())[0]
    assert sum(len(word.positions) for word in kept.words) == 24 + StableDiffusion3.text_length


def test_wan_with_two_transformers_is_refused() -> None:
    pipe = tiny_pipeline("WanPipeline")
    pipe.register_modules(transformer_2=pipe.transformer)
    with pytest.raises(ModelError, match="has two transformers"):
        Wan(pipe, "Wan 2.2")


def test_wan_with_a_time_per_cell() -> None:
    """The 5B model of Wan 2.2 is told one time per cell; equal times are one time."""
    source = tiny_source("WanPipeline")
    one = source.clip_maps([[PICTURE] * 5], ["red dog"], RecordSpec())[0].values
    source.pipe.register_to_config(expand_timesteps=True)
    many = source.clip_maps([[PICTURE] * 5], ["red dog"], RecordSpec())[0].values
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_a_distilled_model_is_told_the_guidance() -> None:
    source = Flux(tiny_flux(guidance=True))
    one, other = (source.with_reading(guidance=g).maps([PICTURE], ["red dog"], RecordSpec())[0] for g in (1.0, 8.0))
    assert np.abs(one.values - other.values).max() > 0


def test_a_size_of_no_whole_cells_is_refused() -> None:
    source = tiny_source("FluxPipeline").with_reading(size=(32, 36))
    with pytest.raises(ModelError, match="cells of 8 px"):
        source.maps([PICTURE], ["red dog"], RecordSpec())
    wide = tiny_source("FluxPipeline").with_reading(size=(32, 64)).maps([PICTURE], ["red dog"], RecordSpec())[0]
    assert wide.grids[0].shape == (4, 8)


def test_frames_of_several_sizes_are_refused() -> None:
    with pytest.raises(ImageError, match="frames of one size"):
        tiny_source("LTXPipeline").clip_maps([[PICTURE, PICTURE.resize((40, 40))] * 3], ["red dog"], RecordSpec())


def test_what_a_decoder_has_and_a_transformer_does_not_is_refused() -> None:
    with pytest.raises(RecordingError, match="a diffusion transformer has none"):
        tiny_source("FluxPipeline").maps([PICTURE], ["red dog"], RecordSpec(residual_sinks=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"levels": ()},
        {"levels": (1.0,)},
        {"draws": 0},
        {"size": (0, 8)},
        {"text_length": 0},
        {"order": "none"},
        {"direction": "sideways"},
        {"pads": "some"},
    ],
    ids=str,
)
def test_a_reading_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        tiny_source("FluxPipeline").with_reading(**changes)


def test_chroma_with_one_token_of_padding_equals_all_others_masked() -> None:
    source = tiny_source("ChromaPipeline")
    with torch.inference_mode():
        short, long = (one.encode("red dog") for one in (source, source.with_reading(pads="ignore")))
        noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        given = source.inputs(noisy, 0.5, short)
        assert given["attention_mask"] is None
        visible = torch.arange(len(long.tokens)) < len(short.tokens)
        masked = {
            **given,
            "encoder_hidden_states": long.inputs["encoder_hidden_states"],
            "txt_ids": long.inputs["txt_ids"],
            "attention_mask": torch.nn.functional.pad(visible, (0, 16), value=True)[None],
        }
        one, other = (source.transformer(**each, return_dict=False)[0] for each in (given, masked))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert [token.role for token in short.tokens].count("pad") == 1


def test_cogvideox_mixes_noise_by_its_scheduler() -> None:
    source = tiny_source("CogVideoXPipeline")
    zero, one = torch.zeros(1), torch.ones(1)
    for level in (0.2, 0.5, 0.8):
        signal, noise = float(source.noisy(one, zero, level)), float(source.noisy(zero, one, level))
        assert signal**2 + noise**2 == pytest.approx(1)
        assert noise / (signal + noise) == pytest.approx(level, abs=0.005)


def test_cogvideox_with_rotary_positions() -> None:
    settings = ModelSettings(reading=MapReading(size=(32, 32)))
    source = CogVideoX(tiny_cogvideox(rotary=True), "rotary", None, settings)
    [maps] = source.clip_maps([[PICTURE] * 5], ["red dog"], RecordSpec())
    np.testing.assert_allclose(maps.values.sum(axis=3), 1, atol=1e-5)
    assert [grid.shape for grid in maps.grids] == [(4, 4), (4, 4)]
    [short] = source.with_reading(text_length=12).clip_maps([[PICTURE] * 5], ["red dog"], RecordSpec())
    assert short.values.shape == maps.values.shape


def test_cogvideox_with_cells_of_several_frames_is_refused() -> None:
    pipe = tiny_cogvideox()
    pipe.transformer.register_to_config(patch_size_t=2)
    with pytest.raises(ModelError, match="joins 2 latent frames in a cell"):
        CogVideoX(pipe, "CogVideoX 1.5")
