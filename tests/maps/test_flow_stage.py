"""The stage `flow`, from a method file to a recorded map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from explicit_flow import VLSAM, explicit_flow
from made_maps import made_maps
from PIL import Image

from evals.recordings import shared_recordings
from grounding.attention.recorder import record
from grounding.attention.request import RowRequest
from grounding.attention_flow import AttentionFlow
from grounding.errors import MethodError, RecordingError
from grounding.io import load_maps, save_maps
from grounding.maps.flow import Flow
from grounding.methods import load_method, parse_method, run_stages, without
from grounding.models.llava import Llava
from grounding.models.tiny import tiny_llava
from grounding.record_spec import RecordSpec
from grounding.source import Backgrounds

TEXT = "description: d\nsource: s\nstages:\n"


@pytest.fixture(scope="module")
def vlm() -> Llava:
    return Llava(*tiny_llava(), name="tiny")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)) for _ in range(2)]


def test_a_methods_spec_is_its_flow() -> None:
    assert load_method("vl-sam").record_spec(32) == RecordSpec(layers=tuple(range(32)), flow=VLSAM)
    spec = load_method("decaf").record_spec(28)
    rule = AttentionFlow("max_image", relative=True, rollout="product", residual=0.5, regulariser="none")
    assert spec == RecordSpec(layers=tuple(range(14, 28)), flow=rule, background_prompt=spec.background_prompt)
    assert without(load_method("vl-sam"), "flow").record_spec(32).flow is None


def test_the_map_is_a_row_of_the_matrices(vlm: Llava, images: list[Image.Image]) -> None:
    method = load_method("vl-sam")
    words = ["the red dog on the left", "a cat"]
    found = vlm.maps(images, words, method.record_spec(vlm.layer_count))
    prepared = vlm.prepare(images, words)
    real = prepared.inputs["attention_mask"].bool()
    request = RowRequest(tuple(own.nonzero()[:, 0].tolist() for own in real))
    with torch.no_grad(), record(vlm.model, request) as recording:
        vlm.model(**prepared.inputs)
    for element, maps in enumerate(found):
        whole = torch.zeros(*recording.prefill[element].shape[:2], prepared.length, prepared.length)
        whole[:, :, list(request.queries[element])] = recording.prefill[element]
        expected = explicit_flow(whole, VLSAM, real[element])
        assert maps.values.shape[:3] == (1, 1, 1)
        assert (maps.flow, maps.layers) == (VLSAM, ())
        for word, row in zip(maps.words, maps.values[0, 0, 0], strict=True):
            own = expected[list(word.positions)].mean(0)[maps.keys]
            np.testing.assert_allclose(row, own.numpy(), atol=2e-6)
        heatmap = run_stages(method, maps)
        assert heatmap.values.max() == 1
        assert [report.stage for report in heatmap.stages] == ["flow", "rows"]


def test_a_background_has_the_same_flow(vlm: Llava, images: list[Image.Image]) -> None:
    method = load_method("decaf")
    spec = method.record_spec(vlm.layer_count)
    maps = vlm.maps(images[:1], ["the dog"], spec)[0]
    behind = Backgrounds(vlm).of(images[:1], spec)[0]
    assert maps.flow == behind.flow != VLSAM
    assert run_stages(method, replace(maps, background=behind)).values.shape[0] > 1


def test_other_maps_are_refused() -> None:
    maps = made_maps(layers=(0,), heads=1)
    with pytest.raises(MethodError, match="the maps hold weights of layers and heads: record them again"):
        Flow()(maps)
    with pytest.raises(MethodError, match="the maps hold another attention flow"):
        Flow()(replace(maps, flow=replace(VLSAM, relative=True)))
    with pytest.raises(MethodError, match="no meaning for image-to-word"):
        Flow()(replace(maps, direction="image-to-word"))
    assert Flow(skip=2)(replace(maps, flow=VLSAM))[0].flow == VLSAM


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ("- {stage: stop-words}\n- {stage: flow}", "'flow' must come before 'stop-words'"),
        ("- {stage: flow}\n- {stage: heads-mean}", "two ways to join heads, flow and heads-mean"),
        ("- {stage: flow}\n- {stage: layers-select, start: 0.5}", "'flow', which comes first, and 'layers-select'"),
        ("- {stage: flow, head_weights: max}", "head_weights"),
        ("- {stage: flow, residual: 2.0}", r"residual=2 was given, expected a weight in \[0, 1\]"),
        ("- {stage: flow, start: 0.5, stop: 0.2}", "layers need start < stop"),
    ],
)
def test_wrong_files_are_refused(stages: str, said: str) -> None:
    with pytest.raises(MethodError, match=said):
        parse_method(TEXT + stages, "mine", "mine.yaml")


def test_a_method_file_is_read_back() -> None:
    method = load_method("decaf")
    again = parse_method(method.to_yaml(), "decaf", "text")
    assert again == method


def test_a_spec_has_one_flow_and_nothing_of_single_heads() -> None:
    flow = RecordSpec(flow=VLSAM)
    assert (flow | RecordSpec()) == (RecordSpec() | flow) == flow
    with pytest.raises(ValueError, match="one recording has one attention flow"):
        flow | RecordSpec(flow=replace(VLSAM, relative=True))
    for extra in ({"heads": (1,)}, {"head_statistics": ("max_all",)}, {"residual_sinks": True}, {"text_to_text": True}):
        with pytest.raises(RecordingError, match="record them in a pass of their own"):
            RecordSpec(flow=VLSAM, **extra)


def test_methods_of_other_flows_are_recorded_apart() -> None:
    names = ("plain-mean", "vl-sam", "starter", "decaf")
    found = shared_recordings({name: load_method(name) for name in names}, 6)
    assert [sorted(one.methods) for one in found] == [["plain-mean", "starter"], ["vl-sam"], ["decaf"]]
    late = Flow(start=0.5)
    method = load_method("vl-sam")
    found = shared_recordings({"all": method, "late": replace(method, stages=(late, *method.stages[1:]))}, 6)
    assert [one.spec.layers for one in found] == [(0, 1, 2, 3, 4, 5), (3, 4, 5)]


def test_saved_maps_keep_their_flow(tmp_path) -> None:
    maps = replace(made_maps(layers=(0,), heads=1), layers=(), flow=replace(VLSAM, residual=0.5))
    save_maps(tmp_path / "maps.safetensors", maps)
    assert load_maps(tmp_path / "maps.safetensors").flow == maps.flow
