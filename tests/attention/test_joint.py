"""Recording of joint and cross attention of diffusers' real transformer classes at tiny size."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers", reason="the extra diffusion is not installed")

from diffusers import FluxTransformer2DModel
from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

from grounding.attention.call import AttentionCall, AttentionEdit, RowEdit
from grounding.attention.events import Scope, Subscriber
from grounding.attention.intercept import intercept
from grounding.attention.introspect import LayerStack
from grounding.attention.joint import JointRequest, record_joint
from grounding.errors import BudgetError, RecordingError
from grounding.record_spec import RecordSpec

TEXT, HEIGHT, WIDTH, BATCH = 7, 4, 5, 2
CELLS = HEIGHT * WIDTH
REQUEST = JointRequest(
    cells=tuple(range(TEXT, TEXT + CELLS)),
    text=tuple(range(TEXT)),
    tables=("image-to-text", "text-to-image", "text-to-text"),
    element=1,
    batch=BATCH,
)


@pytest.fixture(scope="module")
def flux() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FluxTransformer2DModel(
            in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=3,
            joint_attention_dim=16, pooled_projection_dim=8, axes_dims_rope=(4, 6, 6),
        ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return {
        "hidden_states": torch.randn(BATCH, CELLS, 16, generator=random),
        "encoder_hidden_states": torch.randn(BATCH, TEXT, 16, generator=random),
        "pooled_projections": torch.randn(BATCH, 8, generator=random),
        "timestep": torch.full((BATCH,), 0.5),
        "img_ids": torch.stack([torch.zeros(CELLS), rows.flatten(), columns.flatten()], 1),
        "txt_ids": torch.zeros(TEXT, 3),
    }


def layers_of(flux: Any) -> list[nn.Module]:
    return [block.attn for block in (*flux.transformer_blocks, *flux.single_transformer_blocks)]


@torch.no_grad()
def run(
    flux: Any, inputs: dict[str, Tensor], request: JointRequest | None = None, times: int = 1
) -> tuple[Tensor, Any]:
    if request is None:
        return flux(**inputs).sample, None
    with record_joint(flux, layers_of(flux), request) as recording:
        outputs = [flux(**inputs).sample for _ in range(times)]
    return outputs[-1], recording


@pytest.mark.parametrize("order", ["text", "joint", "text-of-mean", "text-of-mean-logit"])
def test_the_output_is_bit_identical_with_and_without(flux: Any, inputs: dict[str, Tensor], order: Any) -> None:
    plain, _ = run(flux, inputs)
    recorded, _ = run(flux, inputs, replace(REQUEST, order=order))
    assert torch.equal(plain, recorded)


def test_tables_have_their_shapes_and_sums(flux: Any, inputs: dict[str, Tensor]) -> None:
    _, recording = run(flux, inputs, REQUEST)
    image_to_text, between = recording.table("image-to-text"), recording.table("text-to-text")
    assert image_to_text.shape == (1, 4, 3, CELLS, TEXT)
    assert recording.table("text-to-image").shape == (1, 4, 3, TEXT, CELLS)
    assert between.shape == (1, 4, 3, TEXT, TEXT)
    for rows in (image_to_text, between):
        torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:-1]), atol=1e-6, rtol=0)
    _, joint = run(flux, inputs, replace(REQUEST, order="joint"))
    whole = joint.table("text-to-image").sum(-1) + joint.table("text-to-text").sum(-1)
    torch.testing.assert_close(whole, torch.ones_like(whole), atol=1e-5, rtol=0)


def test_heads_layers_and_passes_are_reduced_as_it_runs(flux: Any, inputs: dict[str, Tensor]) -> None:
    whole = run(flux, inputs, REQUEST)[1].table("image-to-text")
    for reduce, axes in (("heads", (2,)), ("layers", (1,)), ("both", (1, 2))):
        reduced = run(flux, inputs, replace(REQUEST, spec=RecordSpec(reduce=reduce)))[1].table("image-to-text")
        torch.testing.assert_close(reduced, whole.mean(axes, keepdim=True), atol=1e-6, rtol=0)
    chosen = run(flux, inputs, replace(REQUEST, spec=RecordSpec(layers=(1, 3), heads=(2,))))[1]
    torch.testing.assert_close(chosen.table("image-to-text"), whole[:, [1, 3]][:, :, [2]], atol=0, rtol=0)
    other = {**inputs, "hidden_states": inputs["hidden_states"].flip(1)}
    second = run(flux, other, REQUEST)[1].table("image-to-text")
    with torch.no_grad(), record_joint(flux, layers_of(flux), REQUEST) as both:
        flux(**inputs)
        flux(**other)
    torch.testing.assert_close(both.table("image-to-text"), (whole + second) / 2, atol=1e-6, rtol=0)
    with torch.no_grad(), record_joint(flux, layers_of(flux), replace(REQUEST, mean=False)) as steps:
        flux(**inputs)
        flux(**other)
    torch.testing.assert_close(steps.table("image-to-text"), torch.cat([whole, second]), atol=0, rtol=0)


def test_a_kernel_outside_torch_is_seen_with_its_own_log_sum_exp(flux: Any, inputs: dict[str, Tensor]) -> None:
    """A backend of the dispatcher that torch's function does not serve, as flash-attention's packages are."""
    name = next(key for key in Registry._backends if key.value == "flash")
    calls: list[bool] = []

    def kernel(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None, return_lse: bool = False) -> Any:
        calls.append(return_lse)
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        logits = q @ k.transpose(-1, -2) * (scale or q.shape[-1] ** -0.5)
        output = (logits.softmax(-1) @ v).transpose(1, 2)
        return (output, logits.logsumexp(-1)) if return_lse else output

    kept = Registry._backends[name], Registry._supported_arg_names[name]
    Registry._backends[name], Registry._supported_arg_names[name] = (
        kernel,
        {"query", "key", "value", "scale", "return_lse"},
    )
    for layer in layers_of(flux):
        layer.processor._attention_backend = name
    try:
        plain, _ = run(flux, inputs)
        output, recording = run(flux, inputs, replace(REQUEST, order="joint"))
        assert Registry._backends[name] is kernel
    finally:
        for layer in layers_of(flux):
            layer.processor._attention_backend = None
        Registry._backends[name], Registry._supported_arg_names[name] = kept
    assert torch.equal(plain, output)
    assert calls == [False] * 4 + [True] * 4
    expected = run(flux, inputs, replace(REQUEST, order="joint"))[1].table("image-to-text")
    torch.testing.assert_close(recording.table("image-to-text"), expected, atol=1e-5, rtol=0)


def test_the_dispatcher_is_restored_after_an_exception(flux: Any, inputs: dict[str, Tensor]) -> None:
    before = dict(Registry._backends)
    with record_joint(flux, layers_of(flux), REQUEST):
        assert Registry._backends != before
        flux(**inputs)
    assert Registry._backends == before
    broken = {**inputs, "encoder_hidden_states": torch.zeros(BATCH, TEXT, 3)}
    with pytest.raises(RuntimeError):
        run(flux, broken, REQUEST)
    assert Registry._backends == before
    plain, _ = run(flux, inputs)
    assert torch.equal(plain, run(flux, inputs, REQUEST)[0])


def test_nested_recordings_see_the_same_and_threads_do_not_mix(flux: Any, inputs: dict[str, Tensor]) -> None:
    alone = run(flux, inputs, replace(REQUEST, order="joint"))[1].table("image-to-text")
    text = run(flux, inputs, REQUEST)[1].table("image-to-text")
    with torch.no_grad(), record_joint(flux, layers_of(flux), replace(REQUEST, order="joint")) as outer:
        with record_joint(flux, layers_of(flux), REQUEST) as inner:
            flux(**inputs)
        other = threading.Thread(target=lambda: run(flux, inputs))
        other.start()
        other.join()
    torch.testing.assert_close(outer.table("image-to-text"), alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(inner.table("image-to-text"), text, atol=0, rtol=0)
    assert outer.passes == inner.passes == 1


def test_what_cannot_be_recorded_is_refused(flux: Any, inputs: dict[str, Tensor]) -> None:
    with pytest.raises(RecordingError, match="outside layer 0's sequence of 27 positions"):
        run(flux, inputs, replace(REQUEST, cells=(40,)))
    with pytest.raises(RecordingError, match="2 elements in one pass where the batch has 1"):
        run(flux, inputs, replace(REQUEST, element=0, batch=1))
    with (
        pytest.raises(RecordingError, match="the transformer did not run"),
        record_joint(flux, layers_of(flux), REQUEST),
    ):
        pass
    with pytest.raises(RecordingError, match="residual sinks"):
        replace(REQUEST, spec=RecordSpec(residual_sinks=True))
    with pytest.raises(RecordingError, match="head 3 does not exist"):
        run(flux, inputs, replace(REQUEST, spec=RecordSpec(heads=(3,))))
    with pytest.raises(BudgetError, match="reduce='heads'"):
        run(flux, inputs, replace(REQUEST, spec=RecordSpec(budget_bytes=1 << 20)))


@pytest.mark.parametrize("place", ["everywhere", 0, len(REQUEST.cells) // 2, -1])
def test_attention_that_is_more_than_a_softmax_is_refused(flux: Any, inputs: dict[str, Tensor], place: Any) -> None:
    name = next(key for key in Registry._backends if key.value == "native")
    kernel = Registry._backends[name]
    cells = slice(None) if place == "everywhere" else REQUEST.cells[place]

    def sharper(**given: Any) -> Tensor:
        output = kernel(**given).clone()
        output[:, cells] = kernel(**{**given, "query": given["query"] * 1.5})[:, cells]
        return output

    Registry._backends[name] = sharper
    try:
        with pytest.raises(RecordingError, match="do not explain its attention's output"):
            run(flux, inputs, REQUEST)
    finally:
        Registry._backends[name] = kernel


class Bias(Subscriber):
    """Add a bias to the logits of some keys in every layer."""

    def __init__(self, keys: list[int], bias: float, scale: float | None = None) -> None:
        self.keys, self.bias, self.scale = keys, bias, scale

    def edit(self, layer: int, call: AttentionCall) -> AttentionCall:
        table = torch.zeros(1, 1, 1, call.key_count)
        table[..., self.keys] = self.bias
        edit = AttentionEdit(table)
        if self.scale is not None:
            factors = torch.ones(1, 1, 1, call.key_count)
            factors[..., self.keys] = self.scale
            edit = AttentionEdit(None, (torch.tensor([1]), factors))
        return replace(call, edits=(RowEdit(0, edit),))


def test_an_edit_of_logits_changes_the_network_and_its_record(flux: Any, inputs: dict[str, Tensor]) -> None:
    """Keys with a bias of minus infinity are keys that the transformer's own mask hides."""
    layers, hidden = layers_of(flux), [0, 3]
    scope = Scope(range(4), edits=True)
    stack = LayerStack(flux, nn.ModuleList(layers))
    visible = torch.ones(1, 1, 1, TEXT + CELLS, dtype=torch.bool)
    visible[..., hidden] = False
    with torch.no_grad():
        masked = flux(**inputs, joint_attention_kwargs={"attention_mask": visible}).sample
        with intercept(flux, Bias(hidden, -1e9), scope, stack=stack):
            edited, recording = run(flux, inputs, REQUEST)
            _, joint = run(flux, inputs, replace(REQUEST, order="joint"))
        torch.testing.assert_close(edited, masked, atol=1e-5, rtol=0)
        assert (edited - flux(**inputs).sample).abs().max() > 1e-4
        with record_joint(flux, layers, REQUEST) as expected:
            flux(**inputs, joint_attention_kwargs={"attention_mask": visible})
    for found in (recording.table("image-to-text"), joint.table("image-to-text")):
        assert not found[..., hidden].any()
    torch.testing.assert_close(recording.table("image-to-text"), expected.table("image-to-text"), atol=1e-6, rtol=0)


def test_scaled_weights_are_recorded_jointly_alone(flux: Any, inputs: dict[str, Tensor]) -> None:
    stack = LayerStack(flux, nn.ModuleList(layers_of(flux)))
    with intercept(flux, Bias([1], 0.0, scale=0.0), Scope(range(4), edits=True), stack=stack):
        _, joint = run(flux, inputs, replace(REQUEST, order="joint", tables=("image-to-text",)))
        assert not joint.table("image-to-text")[:, :, 1, :, 1].any()
        assert joint.table("image-to-text")[:, :, 0, :, 1].all()
        with pytest.raises(RecordingError, match="scaled after the softmax"):
            run(flux, inputs, REQUEST)
