"""The packaged diffusion transformer: what its card says holds on a few scenes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import FluxPipeline

import grounding.starter.dit
from grounding.starter.dit.measure import held_out, text_use
from grounding.starter.dit.stages import TextDenoiser

FOLDER = Path(grounding.starter.dit.__file__).parent / "weights"


@pytest.fixture(scope="module")
def pipe() -> FluxPipeline:
    return FluxPipeline.from_pretrained(FOLDER)


def test_the_folder_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 20_000_000


def test_all_parts_load_in_one_dtype(pipe: FluxPipeline):
    models = (pipe.vae, pipe.transformer, pipe.text_encoder, pipe.text_encoder_2)
    assert {parameter.dtype for model in models for parameter in model.parameters()} == {torch.float32}


def test_it_uses_its_text_and_looks_at_what_is_named(pipe: FluxPipeline):
    """Long captions against those of other scenes; pointing at random would hit one expression in thirty."""
    (use,) = text_use(TextDenoiser(pipe).eval(), held_out(pipe.vae, 2), [0.6])
    assert use.long_right < 0.98 * use.long_shuffled
    assert use.head > 0.7
