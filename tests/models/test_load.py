from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from grounding import model_files
from grounding.errors import ModelError, SegmenterError
from grounding.model_files import source_of, starter_folder
from grounding.models.load import load, load_config
from grounding.models.maps import record_maps
from grounding.models.registry import family_class
from grounding.models.tiny import TINY, tiny_llava
from grounding.models.tiny.gemma import tiny_paligemma
from grounding.record_spec import RecordSpec
from grounding.segmenters.load import weights_of

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8))


def save(folder: Path, model: Any, processor: Any) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, processor = tiny_llava()
    model.config.grounding_prompt = "find {expression} !"
    model.config.grounding_notice = "It knows noise only."
    return save(tmp_path_factory.mktemp("models") / "llava", model, processor)


@pytest.fixture
def broken(saved_llava: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved_llava, tmp_path / "broken"))


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return


@pytest.mark.parametrize("model_type", sorted(TINY))
def test_a_saved_folder_loads_as_its_family_and_sees_the_same(model_type: str, tmp_path: Path) -> None:
    model, processor = TINY[model_type]()
    vlm = load(str(save(tmp_path, model, processor)), device="cpu")
    assert type(vlm) is family_class(model_type)
    assert not vlm.model.training
    assert vlm.model.dtype == torch.float32
    assert vlm.model.config._attn_implementation == "sdpa"
    original = family_class(model_type)(model, processor)
    one, other = (record_maps(f, f.prepare([PICTURE], ["the red elephant"]), RecordSpec())[0] for f in (vlm, original))
    np.testing.assert_array_equal(one.values, other.values)
    assert one.words == other.words
    np.testing.assert_array_equal(one.grids[0].positions, other.grids[0].positions)


def test_prompt_and_notice_live_in_the_saved_config(saved_llava: Path) -> None:
    vlm = load(str(saved_llava), device="cpu")
    assert (vlm.default_prompt, vlm.notice) == ("find {expression} !", "It knows noise only.")
    assert vlm.name == str(saved_llava)


def test_a_model_of_capped_logits_is_loaded_with_the_eager_kernel(tmp_path: Path) -> None:
    vlm = load(str(save(tmp_path, *tiny_paligemma(second=True))), device="cpu")
    assert vlm.model.config._attn_implementation == "eager"
    assert record_maps(vlm, vlm.prepare([PICTURE], ["the dog"]), RecordSpec())[0].values.max() > 0


@pytest.mark.slow
def test_only_a_starter_imports_the_starter(saved_llava: Path, tmp_path: Path) -> None:
    """A starter's vision tower is a class of this project, registered with transformers when a config names it."""
    from grounding.starter.model import build_model, build_processor

    save(tmp_path, build_model(0), build_processor())
    code = (
        f"import sys; from grounding.models.load import load; load({str(saved_llava)!r}, device='cpu'); "
        "print([name for name in sys.modules if name.startswith('grounding.starter')]); "
        f"print(load({str(tmp_path)!r}, device='cpu').notice)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    imported, notice = run.stdout.splitlines()
    assert imported == "[]"
    assert "drawn scenes only" in notice


def test_dtype_and_device_map(saved_llava: Path) -> None:
    vlm = load(str(saved_llava), dtype="bfloat16", device_map="cpu")
    assert vlm.model.dtype == torch.bfloat16
    prepared = vlm.prepare([PICTURE], ["dog"])
    assert prepared.inputs["pixel_values"].dtype == torch.bfloat16
    assert np.isfinite(record_maps(vlm, prepared, RecordSpec())[0].values).all()


def test_the_starter_is_a_folder_in_the_package(saved_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert starter_folder().parent.name == "starter"
    monkeypatch.setattr(model_files, "starter_folder", lambda name: saved_llava)
    assert load("starter", device="cpu").name == "starter"
    monkeypatch.setattr(model_files, "starter_folder", lambda name: saved_llava / "none")
    with pytest.raises(ModelError, match="the weights of starter are missing"):
        load("starter")


@pytest.mark.parametrize("name", ["./none", "/no/such/folder", "~/none", "a/b/c", " ", ""])
def test_no_such_folder(name: str) -> None:
    with pytest.raises(ModelError, match="there is no model folder"):
        load(name)


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load(str(tmp_path))


def test_a_file_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(ModelError, match="there is no model folder"):
        source_of("weights.pth")


def test_an_unknown_model_type(broken: Path) -> None:
    from transformers import BertConfig

    BertConfig().save_pretrained(broken)
    with pytest.raises(ModelError, match=r"is of model type 'bert'.*the known ones are .*llava, .*qwen2_5_vl"):
        load(str(broken))


def test_a_broken_config(broken: Path) -> None:
    (broken / "config.json").write_text("{ not json")
    with pytest.raises(ModelError, match="its config cannot be read"):
        load_config(str(broken))


def test_missing_weights(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="its weights cannot be read"):
        load(str(broken), device="cpu")


def test_truncated_weights(broken: Path) -> None:
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="its weights cannot be read"):
        load(str(broken), device="cpu")


def test_weights_that_lack_a_tensor_are_refused_and_not_made_up(broken: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(broken / "model.safetensors")
    removed = sorted(tensors)[3]
    tensors.pop(removed)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lack 1 tensors"):
        load(str(broken), device="cpu")


def test_a_missing_tokenizer(broken: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (broken / name).unlink()
    with pytest.raises(ModelError, match="its processor cannot be read"):
        load(str(broken), device="cpu")


def test_missing_processor_settings_do_not_guess_a_grid(broken: Path) -> None:
    path = broken / "processor_config.json"
    settings = json.loads(path.read_text())
    settings["patch_size"] = 7
    path.write_text(json.dumps(settings))
    vlm = load(str(broken), device="cpu")
    with pytest.raises(ModelError, match="64 image tokens for 4x4 patches"):
        vlm.prepare([PICTURE], ["dog"])


@pytest.mark.usefixtures("no_hub")
def test_no_hub_says_how_to_go_on_without() -> None:
    with pytest.raises(ModelError, match=r"hub .* cannot be reached.*folder.*starter-photo \(for photographs\)"):
        load("some-owner/some-model-nobody-cached")


def test_an_impossible_hub_id() -> None:
    with pytest.raises(ModelError, match="no such model"):
        load("two words")


@pytest.mark.parametrize(
    ("kind", "message"), [("RepositoryNotFoundError", "no such model"), ("GatedRepoError", "accept terms")]
)
def test_what_the_hub_answers(kind: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers
    from huggingface_hub import errors

    def answer(*_: Any, **__: Any) -> None:
        cause = getattr(errors, kind)
        raise OSError("wrapped") from cause.__new__(cause, "said no")  # its constructor wants a web response

    monkeypatch.setattr(transformers.PretrainedConfig, "get_config_dict", answer)
    monkeypatch.setattr("grounding.hub.is_reachable", lambda: True)
    with pytest.raises(ModelError, match=message):
        load("owner/model")


def test_unknown_device_and_dtype(saved_llava: Path) -> None:
    with pytest.raises(ModelError, match="device 'tpu' is not known"):
        load(str(saved_llava), device="tpu")
    with pytest.raises(ModelError, match="dtype 'int3' is not known"):
        load(str(saved_llava), dtype="int3")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_out_of_memory_is_one_sentence(error: Exception, saved_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", fails)
    with pytest.raises(ModelError, match=r"out of memory while loading .*choose a smaller model"):
        load(str(saved_llava), device="cpu")


def test_a_misspelt_folder_beside_a_model_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny" / "llava").mkdir(parents=True)
    (tmp_path / "tiny" / "llava" / "config.json").write_text("{}")
    (tmp_path / "owner").mkdir()
    with pytest.raises(ModelError, match=r"no model folder 'tiny/lava' \(did you mean 'tiny/llava'\?\)"):
        source_of("tiny/lava")
    with pytest.raises(SegmenterError, match=r"'tiny/lava' is not known \(did you mean 'tiny/llava'\?\)"):
        weights_of("tiny/lava")
    assert source_of("owner/model") == "owner/model"
    assert source_of("tiny/whisper-large") == "tiny/whisper-large"
