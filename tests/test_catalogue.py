"""What `grounding models` calls verified is run by tests, for every family that it names."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from types import ModuleType
from typing import Any

import pytest
from command_mentions import ROOT

from grounding.catalogue import (
    CLIP_TESTS,
    DIFFUSION_TESTS,
    MODEL_TESTS,
    attention_kinds,
    catalogue,
    matrix,
    refusal_table,
    refusals,
)
from grounding.cli import main
from grounding.diffusion.registry import PIPELINES
from grounding.models.registry import FAMILIES, UNSUPPORTED

README = (ROOT / "README.md").read_text(encoding="utf-8")


def module_of(test: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    file = ROOT / test.partition("::")[0]
    monkeypatch.syspath_prepend(str(file.parent))
    spec = importlib.util.spec_from_file_location(f"catalogue_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def subjects_of(function: Any, families: list[str]) -> list[str]:
    """The lines of the table of families over which a test of the contract runs."""
    assert "subject" in inspect.signature(function).parameters  # the fixture whose parameters are the families
    marks = getattr(function, "pytestmark", [])
    assert {mark.name for mark in marks} <= {"slow", "parametrize"}, "a mark may skip a family"
    named = [mark.args for mark in marks if mark.name == "parametrize"]
    assert all(names == "subject" for names, _ in named)
    return named[0][1] if named else families


def test_every_model_type_runs_the_tests_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    families = list(module_of("tests/contract/families.py", monkeypatch).FAMILIES)
    for wanted, test in ((wanted, test) for wanted, tests in MODEL_TESTS.items() for test in tests):
        function = getattr(module_of(test, monkeypatch), test.partition("::")[2])
        types = {name.partition("/")[0] for name in subjects_of(function, families)}
        assert types == {row.name for row in catalogue() if row.kind == "vision-language" and wanted in row.verified}


def test_the_types_that_read_clips_run_the_tests_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    able = [row.name for row in catalogue() if "clips" in row.verified]
    assert {"qwen3_vl", "llava_onevision"} <= set(able)
    for test in CLIP_TESTS:
        module = module_of(test, monkeypatch)
        assert "name" in inspect.signature(getattr(module, test.partition("::")[2])).parameters
        assert able == module.READERS


def test_ways_to_read_a_picture_are_kinds_of_attention() -> None:
    rows = {row.name: row for row in catalogue()}
    assert rows["mllama"].attention == ("full", "cross")
    assert rows["instructblip"].attention == ("full", "Q-Former")


def test_every_pipeline_runs_the_tests_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for test in (one for tests in DIFFUSION_TESTS.values() for one in tests):
        module = module_of(test, monkeypatch)
        function = getattr(module, test.partition("::")[2])
        assert "source" in inspect.signature(function).parameters
        assert not hasattr(function, "pytestmark")
        assert set(module.CASES) >= {name for name in PIPELINES if PIPELINES.is_own(name)}


def test_the_command_lists_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["families"]}
    assert list(rows) == [*FAMILIES, *PIPELINES]
    assert rows["llava"]["verified"]["recording"] == list(MODEL_TESTS["recording"])
    assert rows["llava"]["verified"]["compiled"] == list(MODEL_TESTS["compiled"])
    assert rows["llava"]["attention"] == ["full"]
    assert rows["llava"]["prompt"] == "Where is {expression}?"
    assert rows["molmo2"]["prompt"] == "Point to {expression}."
    assert rows["WanPipeline"]["prompt"] is None
    assert "compiled" not in rows["WanPipeline"]["verified"]
    assert rows["WanPipeline"]["attention"] == ["cross"]


def test_the_command_lists_every_refused_type_with_its_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["refused"]}
    assert {name: row["reason"] for name, row in rows.items()} == dict(sorted(UNSUPPORTED.items()))
    assert rows["florence2"]["model_class"] == "Florence2ForConditionalGeneration"
    assert rows["kimi_vl"]["model_class"] is None
    assert main(["models"]) == 0
    families, _, refused = capsys.readouterr().out.partition("\n\n")
    assert families == matrix(catalogue())
    assert refused.rstrip("\n") == refusal_table(refusals())
    monkeypatch.setattr(FAMILIES, "_outside", {"florence2": []}, raising=False)  # another package has a family
    assert "florence2" not in {row.name for row in refusals()}


def test_a_family_of_another_package_is_not_called_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FAMILIES, "_builtin", {name: to for name, to in FAMILIES._builtin.items() if name != "llava"})
    monkeypatch.setattr(FAMILIES, "_outside", {"llava": []}, raising=False)
    row = next(row for row in catalogue() if row.name == "llava")
    assert "recording" not in row.verified


def test_the_readme_holds_the_table() -> None:
    rows = catalogue()
    if any(row.kind == "vision-language" and row.model_class is None for row in rows):
        pytest.skip("the installed transformers lacks some of the classes")
    shown = README.partition("<!-- grounding models -->\n")[2].partition("\n<!-- end of grounding models -->")[0]
    assert shown == matrix(rows)
    shown = README.partition("<!-- refused models -->\n")[2].partition("\n<!-- end of refused models -->")[0]
    assert shown == refusal_table(refusals())


def test_kinds_of_attention_are_read_from_the_config() -> None:
    from transformers import Gemma2Config, LlamaConfig, Qwen2Config

    assert attention_kinds(LlamaConfig()) == ("full",)
    assert attention_kinds(Qwen2Config(use_sliding_window=True, max_window_layers=1, num_hidden_layers=2)) == (
        "full",
        "sliding window",
    )
    assert attention_kinds(Gemma2Config()) == ("full", "sliding window", "soft-capped")
