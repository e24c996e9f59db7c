"""Maps of a hybrid's layers of linear attention, from the model to a mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from grounding.attention import RowRequest, record
from grounding.cli import main
from grounding.doctor import check_family
from grounding.errors import MethodError
from grounding.maps.layers import LayerChoice, LayerMean
from grounding.methods import load_method, run_stages
from grounding.models.registry import family_class
from grounding.models.tiny import TINY
from grounding.record_spec import RecordSpec

LINEAR = RecordSpec(attention="linear")


def built(model_type: str) -> Any:
    if model_type not in TINY:
        pytest.skip(f"no tiny {model_type}")
    return family_class(model_type)(*TINY[model_type]())


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))


@pytest.mark.parametrize("model_type", ["qwen3_5", "qwen3_5_moe"])
def test_maps_are_the_recorded_rows_of_the_words(model_type: str) -> None:
    vlm = built(model_type)
    assert vlm.linear_layers == (0,)
    prepared = vlm.prepare([picture()], ["the red dog"])
    (maps,) = vlm.maps([picture()], ["the red dog"], LINEAR)
    assert maps.signed
    assert (maps.layers, maps.skipped_layers, maps.layer_count) == ((0,), (1,), 2)
    word = next(one for one in maps.words if one.text == "dog")
    with record(vlm.model, RowRequest((word.positions,), spec=LINEAR)) as recording:
        vlm.model(**prepared.inputs, use_cache=False)
    expected = recording.prefill[0].mean(2)[..., maps.keys]  # [L, H, K]
    np.testing.assert_allclose(maps.values[0, :, :, maps.words.index(word)], expected.numpy(), atol=1e-7)
    assert (maps.values < 0).any()


def test_reports_name_the_kind_of_weights_that_layers_lack() -> None:
    vlm = built("qwen3_5")
    assert "'linear-layers' maps them instead" in vlm.notice
    maps = vlm.maps([picture()], ["dog"], LINEAR)[0]
    assert LayerChoice()(maps)[1].detail == "kept layers 0; 1 have no weights of linear attention"
    _, report = LayerMean()(maps)
    assert report.detail == "mean of 1 layers; 1 of 2 layers have no weights of linear attention"
    assert report.data == {"without weights": [1]}
    plain = vlm.maps([picture()], ["dog"], RecordSpec())[0]
    assert LayerMean()(plain)[1].detail == "mean of 1 layers; 1 of 2 layers have no attention weights"
    heatmap = run_stages(load_method("linear-mean"), maps)
    assert heatmap.values.max() == 1
    with pytest.raises(MethodError, match=r"layers \[1\] of .* have no weights of linear attention: choose of \[0\]"):
        vlm.maps([picture()], ["dog"], RecordSpec(attention="linear", layers=(1,)))
    with pytest.raises(MethodError, match="has no layers of linear attention: leave the stage 'linear-layers' out"):
        built("llava").maps([picture()], ["dog"], LINEAR)


def test_segment_and_describe_read_linear_attention(
    tmp_path: Path, tiny_segmenter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    for part in TINY["qwen3_5"]() if "qwen3_5" in TINY else pytest.skip("no tiny qwen3_5"):
        part.save_pretrained(folder)
    picture().save(tmp_path / "a.png")
    models = ["--model", str(folder), "--method", "linear-mean", "--device", "cpu"]
    image, out = str(tmp_path / "a.png"), str(tmp_path / "out")
    assert (
        main(["segment", image, "a dog", *models, "--segmenter", str(tiny_segmenter), "--out", out, "--explain"]) == 0
    )
    assert "'linear-layers' maps them instead" in " ".join(capsys.readouterr().err.split())
    written = "".join(path.read_text() for path in Path(out).rglob("*.json*"))
    assert "layers of linear attention, " in written
    assert main(["describe", image, *models, "--json", "--max-new-tokens", "3"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_the_doctor_checks_rows_of_linear_attention() -> None:
    if "qwen3_5" not in TINY:
        pytest.skip("no tiny qwen3_5")
    checks = {one.name: one for one in check_family("qwen3_5")}
    assert all(one.passed for one in checks.values())
    linear = checks["qwen3_5: rows of linear attention give the layers' outputs"]
    assert linear.detail.startswith("layers [0], ")
    assert "layers [0] have no softmax attention" in checks["qwen3_5: rows equal eager attention"].detail
