"""Settings for the whole suite: one torch thread a process, and models that several files use."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

# Before torch is imported, and inherited by child processes: the models are too small to gain from more threads, and
# the workers of pytest-xdist fill the cores.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

torch.set_num_threads(1)

# Every full collection walks through all that torch and transformers hold; at Python's own thresholds there are many.
# What has no cycles is freed at once all the same.
gc.set_threshold(50_000, 20, 20)

# No deadline: a first example may build a tokenizer, and machines that run the suite may be busy.
settings.register_profile("grounding", deadline=None)
settings.load_profile("grounding")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A folder with a tiny random LLaVA and its processor."""
    from grounding.models.tiny import tiny_llava

    folder = tmp_path_factory.mktemp("tiny-llava")
    for part in tiny_llava():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_segmenter(tmp_path_factory) -> Path:
    """A folder with a tiny random SAM."""
    from tiny_sam import save_tiny_sam

    return save_tiny_sam(tmp_path_factory.mktemp("tiny-sam"))


@pytest.fixture
def hub_cache(monkeypatch, tmp_path) -> Callable[..., None]:
    """No hub, and an empty cache: a function puts a commit of a model into it, as the newest."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(name: str, commit: str) -> None:
        folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        snapshot = folder / "snapshots" / commit
        for place in (folder / "refs", snapshot):
            place.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
        (snapshot / "config.json").write_text("{}")

    return put


@pytest.fixture(scope="session")
def made_nltk_folder(tmp_path_factory) -> Path:
    """A folder with NLTK's data for a few words."""
    from made_nltk import write_nltk_data

    return write_nltk_data(tmp_path_factory.mktemp("nltk"))


@pytest.fixture
def nltk_data(made_nltk_folder, monkeypatch) -> Iterator[Path]:
    """NLTK with the made data, whatever is installed; unloaded again afterwards."""
    import nltk
    from made_nltk import forget_nltk

    monkeypatch.setattr(nltk.data, "path", [str(made_nltk_folder)])
    forget_nltk()
    yield made_nltk_folder
    forget_nltk()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder with `a.png`, `b.png` and `c.png`, noise of different sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for name, (height, width) in {"a": (90, 130), "b": (100, 60), "c": (64, 64)}.items():
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="session")
def _loaders():
    """The loaders of models and segmenters, each with a memory."""
    from grounding.models.load import load
    from grounding.segmenters.load import load_segmenter

    return cache(load), cache(lambda *args, **options: _remembering(load_segmenter(*args, **options)))


def _remembering(segmenter):
    """The segmenter; an image encoder of segment-anything runs once for each picture, which takes a second."""
    encoder = getattr(getattr(segmenter, "_model", None), "image_encoder", None)
    if encoder is not None:
        encode, known = encoder.forward, {}

        def forward(pixels: torch.Tensor) -> torch.Tensor:
            picture = sha256(pixels.contiguous().numpy()).digest()  # always of one shape
            if picture not in known:
                known[picture] = encode(pixels)
            return known[picture]

        encoder.forward = forward
    return segmenter


@pytest.fixture
def loaded_once(_loaders, monkeypatch) -> None:
    """Commands share loaded models and segmenters, of one name and device; what they do with them is their own.

    A picture that a command encodes again is encoded once.
    """
    load, load_segmenter = _loaders
    monkeypatch.setattr("grounding.models.load.load", load)
    monkeypatch.setattr("grounding.segmenters.load.load_segmenter", load_segmenter)
