from __future__ import annotations

import torch

from grounding.attention.call import AttentionCall, AttentionEdit, RowEdit
from grounding.attention.events import Pass
from grounding.steering.apply import GenerationPass, SteeringHooks


class Fixed:
    """An editor of one layer that returns the same edit at every step."""

    layers = residual_layers = gate_layers = (0,)

    def __init__(self, edit: RowEdit) -> None:
        self.returned = edit

    def residual(self, layer: int, hidden: torch.Tensor, running: GenerationPass) -> None:
        raise AssertionError

    def edit(self, layer: int, call: AttentionCall, running: GenerationPass) -> RowEdit | None:
        return self.returned

    def gates(self, layer: int, running: GenerationPass) -> torch.Tensor | None:
        return None

    def gated_from(self, running: GenerationPass) -> torch.Tensor:
        raise AssertionError


def bias(value: float, keys: int) -> RowEdit:
    return RowEdit(0, AttentionEdit(logit_bias=torch.full((1, 2, 1, keys), value)))


def hooks_with(edit: RowEdit) -> SteeringHooks:
    hooks = SteeringHooks(Fixed(edit), prompt=4, elements=1)
    hooks.begin_pass(Pass(0, 4))
    return hooks


def step(keys: int) -> AttentionCall:
    key = torch.ones(1, 1, keys, 2)
    return AttentionCall(torch.ones(1, 2, 1, 2), key, key, None, 1.0, False)


def edited(outer: SteeringHooks, inner: SteeringHooks, keys: int) -> tuple[RowEdit, ...]:
    for hooks in (outer, inner):
        hooks.begin_pass(Pass(keys - 1, 1))
    return inner.edit(0, outer.edit(0, step(keys))).edits


def test_two_biases_known_before_the_call_are_added_once() -> None:
    outer, inner = hooks_with(bias(1.0, 16)), hooks_with(bias(0.5, 8))
    first, second = edited(outer, inner, 5), edited(outer, inner, 6)
    assert len(first) == 1
    assert first[0] is second[0]
    assert torch.equal(first[0].fixed_bias, torch.full((1, 2, 1, 8), 1.5))
    inner.editor.returned = bias(0.25, 8)  # as when the strength changes
    assert torch.equal(edited(outer, inner, 7)[0].fixed_bias, torch.full((1, 2, 1, 8), 1.25))


def test_edits_that_depend_on_the_call_stay_apart() -> None:
    computed = RowEdit(0, lambda call, rows: AttentionEdit())
    scaled = RowEdit(0, AttentionEdit(weight_scale=(torch.tensor([0]), torch.ones(1, 1, 1, 8))))
    for other in (computed, scaled):
        known = bias(1.0, 8)
        assert edited(hooks_with(known), hooks_with(other), 5) == (known, other)
        assert edited(hooks_with(other), hooks_with(known), 5) == (other, known)
