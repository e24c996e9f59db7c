"""Loading diffusers folders, and what is refused before or while it happens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers", reason="the extra diffusion is not installed")

from grounding.diffusion.flux import Flux
from grounding.diffusion.load import load_diffusion, refuse_unreadable
from grounding.diffusion.reading import MapReading
from grounding.diffusion.tiny import tiny_pipeline
from grounding.errors import MissingExtraError, ModelError
from grounding.model_files import is_pipeline
from grounding.models.load import load
from grounding.record_spec import RecordSpec
from grounding.sources import load_source

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines") / "flux"
    tiny_pipeline("FluxPipeline").save_pretrained(folder)
    return folder


@pytest.fixture
def broken(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "broken"))


def test_a_saved_folder_loads_as_its_family_and_sees_the_same(saved: Path) -> None:
    source = load_source(str(saved), device="cpu")
    assert isinstance(source, Flux)
    assert is_pipeline(str(saved))
    original = Flux(tiny_pipeline("FluxPipeline"))
    one, other = (each.maps([PICTURE], ["the red dog"], RecordSpec())[0] for each in (source, original))
    np.testing.assert_allclose(one.values, other.values, atol=1e-6)
    assert one.words == other.words


def test_a_folder_says_how_it_is_read(broken: Path) -> None:
    settings = {"notice": "Noise only.", "prompt": "find {expression}", "reading": {"levels": [0.3], "pads": "ignore"}}
    (broken / "grounding.json").write_text(json.dumps(settings))
    source = load_diffusion(str(broken), device="cpu")
    assert (source.notice, source.default_prompt) == ("Noise only.", "find {expression}")
    assert source.reading == MapReading(levels=(0.3,), pads="ignore")
    maps = source.maps([PICTURE], ["red dog"], RecordSpec())[0]
    assert [(w.text, w.span) for w in maps.words if w.is_head] == [("dog", (4, 7))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('{"reading": {"noise": 1}}', "unknown key 'noise'"),
        ('{"reading": {"levels": [1.5]}}', "noise levels must lie between 0"),
        ("[]", "expected keys and values"),
    ],
)
def test_wrong_settings_are_refused(broken: Path, text: str, message: str) -> None:
    (broken / "grounding.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        load_diffusion(str(broken), device="cpu")


def edit_index(folder: Path, **changes: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_missing_text_encoder_is_named(broken: Path) -> None:
    edit_index(broken, text_encoder_2=[None, None])
    with pytest.raises(ModelError, match=r"has no text encoder 'text_encoder_2' \(model_index.json names none\)"):
        load_diffusion(str(broken), device="cpu")


def test_a_missing_folder_is_named(broken: Path) -> None:
    shutil.rmtree(broken / "text_encoder_2")
    with pytest.raises(ModelError, match=r"has no text encoder 'text_encoder_2' \(the folder .* is missing\)"):
        load_diffusion(str(broken), device="cpu")


def test_broken_weights_and_unknown_pipelines_are_one_sentence(broken: Path) -> None:
    weights = next((broken / "transformer").glob("*.safetensors"))
    weights.write_bytes(b"no weights")
    with pytest.raises(ModelError, match="its weights cannot be read"):
        load_diffusion(str(broken), device="cpu")
    edit_index(broken, _class_name="StableDiffusionPipeline")
    with pytest.raises(ModelError, match=r"of class 'StableDiffusionPipeline', which no family here supports: .*Flux"):
        load_diffusion(str(broken), device="cpu")


def test_a_quantised_transformer_is_refused(saved: Path) -> None:
    pipe = tiny_pipeline("FluxPipeline")
    pipe.transformer.register_to_config(quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(ModelError, match="is quantised"):
        refuse_unreadable(pipe, "it")


def test_an_offloaded_transformer_is_refused() -> None:
    from accelerate import cpu_offload

    pipe = tiny_pipeline("FluxPipeline")
    refuse_unreadable(pipe, "it")
    cpu_offload(pipe.transformer, torch.device("cpu"))
    with pytest.raises(ModelError, match="is offloaded"):
        refuse_unreadable(pipe, "it")


def test_a_device_map_is_refused(saved: Path) -> None:
    with pytest.raises(ModelError, match="must stand on one device"):
        load_source(str(saved), device_map="auto")


def test_a_command_that_needs_words_back_refuses_a_pipeline(saved: Path) -> None:
    with pytest.raises(ModelError, match="needs a vision-language model, which answers in words"):
        load(str(saved), device="cpu")


def test_without_diffusers_the_extra_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grounding.diffusion.load.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"vlm-grounding\[diffusion\]"):
        load_diffusion(str(saved), device="cpu")
