"""Sources of maps around the tiny pipelines, which read pictures at four by four cells."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers", reason="the extra diffusion is not installed")

import diffusers

from grounding.diffusion.base import DiffusionSource
from grounding.diffusion.reading import MapReading, ModelSettings
from grounding.diffusion.registry import pipeline_class
from grounding.diffusion.tiny import tiny_pipeline


def tiny_source(name: str) -> DiffusionSource:
    if not hasattr(diffusers, name):
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}")
    side = 64 if name in ("MochiPipeline", "Lumina2Pipeline") else 32
    settings = ModelSettings(reading=MapReading(size=(side, side)))
    return pipeline_class(name, name)(tiny_pipeline(name), f"tiny {name}", None, settings)
