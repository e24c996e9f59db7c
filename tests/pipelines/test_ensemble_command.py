"""`grounding segment` with several models: results, what they are known by, explanations and refusals."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from grounding.cli import main

METHOD = "description: d\nsource: s\nstages:\n  - {stage: ensemble, how: ranks, weights: [1.0, 2.0], methods: %s}\n"


@pytest.fixture
def segment(tiny_model, tiny_segmenter, tmp_path, capsys):
    """`grounding segment` with a tiny model beside itself: exit code, stdout, stderr."""

    def run(*words, methods="[plain-mean, relative]", model=None):
        method = tmp_path / "mine.yaml"
        method.write_text(METHOD % methods, encoding="utf-8")
        options = ["--model", model or f"{tiny_model}+{tiny_model}", "--segmenter", str(tiny_segmenter)]
        options += ["--method", str(method), "--device", "cpu", "--out", str(tmp_path / "out")]
        code = main(["segment", *map(str, words), *options])
        return code, *capsys.readouterr()

    return run


def test_what_a_member_changes_is_another_result(segment, pictures, tmp_path):
    manifest = tmp_path / "list.jsonl"
    manifest.write_text(json.dumps({"image": str(pictures / "a.png"), "expression": "dog"}) + "\n")
    assert "1 done" in segment("--manifest", manifest)[2]
    assert "1 were there already" in segment("--manifest", manifest)[2]
    own = tmp_path / "own.yaml"
    for upscale in (1, 2):  # a number of a member's method, under one name
        stages = "stages:\n  - {stage: rows, content: 1.0}\ncompose:\n  upscale: "
        own.write_text(f"description: d\nsource: s\n{stages}{upscale}\n", encoding="utf-8")
        assert "1 done" in segment("--manifest", manifest, methods=f"[plain-mean, {own}]")[2]
    runs = json.loads((tmp_path / "out" / "run.json").read_text())["runs"]
    assert len(runs) == 3
    config = next(iter(runs.values()))["config"]
    assert config["model"].count("+") == config["weights"].count("+") == 1
    assert "how: ranks" in config["method_text"]
    assert "# member, method relative" in config["method_text"]


def test_an_ensemble_is_explained_by_its_models(segment, pictures, tmp_path):
    code, _, _ = segment(pictures / "a.png", "the red dog", "--explain", "--formats", "explain")
    assert code == 0
    out = tmp_path / "out"
    shown = json.loads(next(out.glob("*.explain.json")).read_text())
    assert shown["direction"] == "model-to-image"
    assert [one["kind"] for one in shown["words"]] == ["model", "model"]
    assert [one["weight"] for one in shown["words"]] == pytest.approx([1 / 3, 2 / 3], abs=1e-5)
    assert [one["stage"] for one in shown["stages"]] == ["ensemble"]
    with Image.open(next(out.glob("*.explain.png"))) as sheet:
        assert sheet.height > 500


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("describe",), "are several models, and this needs one"),
        (("segment", "dog", "--method", "default"), "has no stage 'ensemble'"),
        (("segment", "dog", "--model", "starter+"), "lacks a model's name"),
        (("segment", "dog", "--model", "starter+no/such/folder"), "no model folder 'no/such/folder'"),
    ],
)
def test_refusals_leave_nothing_behind(command, said, pictures, tiny_model, tiny_segmenter, tmp_path, capsys):
    name, *rest = command
    models = () if "--model" in rest else ("--model", f"{tiny_model}+{tiny_model}")
    code = main([name, str(pictures / "a.png"), *rest, *models, "--out", str(tmp_path / "out")])
    err = " ".join(capsys.readouterr().err.split())
    assert (code, said in err, "Traceback" in err) == (2, True, False), err
    assert not list((tmp_path / "out").glob("*.json*"))
