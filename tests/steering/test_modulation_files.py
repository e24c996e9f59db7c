from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.attention import RowRequest, record
from grounding.attention.call import AttentionCall, AttentionEdit
from grounding.errors import MethodError
from grounding.layers import LayerRange
from grounding.models.llava import Llava
from grounding.models.tiny import tiny_llava_gqa
from grounding.steering.apply import apply
from grounding.steering.base import GenerationContext
from grounding.steering.decoding import Decoding
from grounding.steering.editor import ModulationEditor, applied
from grounding.steering.generate import generate
from grounding.steering.heads import HeadChoice
from grounding.steering.method import STEPS, load_steering, parse_steering
from grounding.steering.modulation import ImageModulation, KeyMasks, Renormalise
from grounding.steering.schedule import StrengthSchedule
from grounding.steering.sensitivity import Sensitivity, load_sensitivity

QUESTIONS = ("where is the red dog on the left?", "where is it")


@pytest.fixture(scope="module")
def vlm() -> Llava:
    return Llava(*tiny_llava_gqa(layers=4), name="tiny")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (80, 100, 3), dtype=np.uint8)) for _ in range(2)]


def context_of(vlm: Llava, images: list[Image.Image]) -> GenerationContext:
    return GenerationContext(vlm, images, QUESTIONS, vlm.prepare_questions(images, QUESTIONS), Decoding())


@pytest.mark.parametrize("name", ["headwise", "uniform", "paint"])
def test_shipped_files_read_back_and_steer(name: str, vlm: Llava, images: list[Image.Image]) -> None:
    method = load_steering(name)
    again = parse_steering(method.to_yaml(), name, "again.yaml")
    assert again == method
    for decoding in (Decoding(max_new_tokens=4), Decoding(max_new_tokens=4, num_beams=2)):
        assert len(generate(vlm, images, QUESTIONS, method, decoding)) == 2
    context = context_of(vlm, images)
    with torch.no_grad():
        plain = vlm.model(**context.prepared.inputs).logits[:, -1]
        with applied(method.steps[0], context):
            assert not torch.equal(vlm.model(**context.prepared.inputs).logits[:, -1], plain)


def test_a_misspelt_key_inside_a_part_is_refused() -> None:
    text = "description: d\nsource: s\nsteps:\n- step: renormalise\n  gain: 2.0\n  heads: {sensitivty: prefill}\n"
    with pytest.raises(MethodError, match=r"heads: unknown key 'sensitivty' \(did you mean 'sensitivity'\?\)"):
        parse_steering(text, "mine", "mine.yaml")


@pytest.mark.parametrize(
    ("old", "new"),
    [("text_guidance", "text-guidance"), ("visual_contrast", "visual-contrast"), ("over_trust", "over-trust")],
)
def test_a_step_is_spelt_in_kebab_case(old: str, new: str) -> None:
    assert new in STEPS
    with pytest.raises(MethodError, match=f"step '{old}' is unknown \\(did you mean '{new}'\\?\\)"):
        parse_steering(f"description: d\nsource: s\nsteps:\n- step: {old}\n", "mine", "mine.yaml")


def test_every_step_has_a_kebab_case_name_and_states_it() -> None:
    for name in STEPS:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
        assert STEPS.get(name).name == name


def test_the_measure_of_heads_is_named_as_the_sensitivity_kind() -> None:
    assert HeadChoice().measure == "mass"
    text = "description: d\nsource: s\nsteps:\n- step: renormalise\n  heads: {sensitivity: prefill, measure: image}\n"
    with pytest.raises(MethodError, match="measure"):
        parse_steering(text, "mine", "mine.yaml")


@dataclass(frozen=True)
class Halve(ImageModulation):
    """A modulation as another distribution adds it; see `Intervention`."""

    name: ClassVar[str] = "halve"

    @property
    def is_idle(self) -> bool:
        return False

    def edit(self, masks: KeyMasks, call: AttentionCall, rows: torch.Tensor) -> AttentionEdit:
        return AttentionEdit(logit_bias=torch.where(masks.keys, torch.log(1 - 0.5 * masks.strength), 0.0))


def test_an_outside_modulation_needs_its_edit_alone(vlm: Llava, images: list[Image.Image]) -> None:
    context = context_of(vlm, images)
    with torch.no_grad():
        with applied(Halve(), context):
            found = vlm.model(**context.prepared.inputs).logits
        with applied(Renormalise(gain=0.5), context):
            expected = vlm.model(**context.prepared.inputs).logits
        assert not torch.equal(found, vlm.model(**context.prepared.inputs).logits)
    assert torch.equal(found, expected)


def test_on_the_fly_strengths_follow_the_last_prompt_rows_mass(vlm: Llava, images: list[Image.Image]) -> None:
    context = context_of(vlm, images)
    modulation = Renormalise(
        gain=3.0, layers=LayerRange(indices=(0,)), heads=HeadChoice(sensitivity="prefill", least=0.25)
    )
    editor, last = ModulationEditor(modulation, context), context.prepared.length - 1
    with torch.no_grad():
        with record(vlm.model, RowRequest(((last,), (last,)))) as recording:
            vlm.model(**context.prepared.inputs)
        with apply(vlm.model, editor, context.prepared.length, 2):
            vlm.model(**context.prepared.inputs)
    for element, layout in enumerate(context.prepared.layouts):
        mass = recording.prefill[element][0, :, 0, layout.image].sum(-1)
        expected = 0.25 + 0.75 * (mass - mass.min()) / (mass.max() - mass.min())
        torch.testing.assert_close(editor._measured[0][element], expected, atol=1e-5, rtol=1e-4)


def test_strengths_by_rule() -> None:
    values = torch.tensor([0.1, 0.4, 0.3, 0.2])
    assert HeadChoice(rule="top", top=0.5).by_rule(values).tolist() == [0, 1, 1, 0]
    assert HeadChoice(rule="top", count=1, lowest=True).by_rule(values).tolist() == [1, 0, 0, 0]
    assert HeadChoice(rule="threshold", threshold=0.25).by_rule(values).tolist() == [0, 1, 1, 0]
    torch.testing.assert_close(HeadChoice(least=0.5).by_rule(values), torch.tensor([0.5, 1.0, 5 / 6, 4 / 6]))


def test_a_sensitivity_file_chooses_across_layers(tmp_path, vlm: Llava) -> None:
    values = np.zeros((4, 8))
    values[2, 5], values[3, 1] = 0.9, 0.7
    path = tmp_path / "heads.yaml"
    one = Sensitivity("tiny", "mass", 3, "0" * 64, tuple(map(tuple, values.tolist())))
    one.save(path)
    assert load_sensitivity(path) == one
    found = HeadChoice(sensitivity=str(path), rule="top", count=2).strengths((2, 3), 4, 8)
    assert found.nonzero().tolist() == [[2, 5], [3, 1]]
    assert HeadChoice(sensitivity=str(path), rule="top", count=1).strengths((3,), 4, 8).nonzero().tolist() == [[3, 1]]
    with pytest.raises(MethodError, match="for 4 layers of 8 heads, but the model has 2 of 8"):
        HeadChoice(sensitivity=str(path)).strengths((0,), 2, 8)
    with pytest.raises(MethodError, match=r"gone.yaml cannot be read"):
        HeadChoice(sensitivity=str(tmp_path / "gone.yaml")).strengths((0,), 2, 8)


def test_layers_and_schedules() -> None:
    assert LayerRange(start=0.25).chosen(8) == (2, 3, 4, 5, 6, 7)
    assert LayerRange(indices=(2, 3)).chosen(32) == (2, 3)
    assert LayerRange(skip=2).chosen(4) == (2, 3)
    with pytest.raises(MethodError, match="none of the model's 2"):
        LayerRange(skip=2).chosen(2)
    with pytest.raises(MethodError, match="share of the depth"):
        LayerRange(start=0.5, stop=1.5)
    assert [StrengthSchedule("linear", tokens=4).strength(t) for t in (0, 2, 4, 9)] == [0, 0.5, 1, 1]
    assert [StrengthSchedule("decay", tokens=2).strength(t) for t in (0, 2, 4)] == [1, 0.5, 0.25]
    assert [StrengthSchedule("window", start=1, stop=3).strength(t) for t in range(4)] == [0, 1, 1, 0]


def test_a_head_that_is_not_there_is_refused(vlm: Llava, images: list[Image.Image]) -> None:
    with pytest.raises(MethodError, match=r"head \[4, 0\] does not exist: the model has 4 layers of 8 heads"):
        generate(vlm, images, QUESTIONS, _method(HeadChoice(listed=((4, 0),))))


def _method(heads: HeadChoice):
    from grounding.steering.method import Steering

    return Steering("mine", "", "", (Renormalise(gain=2.0, heads=heads),))
