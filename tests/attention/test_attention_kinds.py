"""Rows of every kind of softmax attention equal eager attention's, in float32 and in half precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from sparse_model import sparse_model
from test_coverage import GREEDY, IDS, TEXT, N, build

from grounding.attention import RowRequest, record
from grounding.attention.call import AttentionCall, AttentionEdit, RowEdit
from grounding.attention.events import Scope, Subscriber
from grounding.attention.intercept import intercept
from grounding.attention.rows import TOLERANCE, attention_rows
from grounding.attention_flow import AttentionFlow
from grounding.errors import ModelError, RecordingError
from grounding.record_spec import RecordSpec

QUERIES = (2, N // 2, N - 1)
GROUPED: dict[str, Any] = TEXT | {"num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.15}
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def gemma2() -> Any:
    options = {"attn_logit_softcapping": 0.5, "sliding_window": 8, "query_pre_attn_scalar": 8}
    return build("Gemma2ForCausalLM", "Gemma2Config", **GROUPED | options)


def gemma3() -> Any:
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8, "query_pre_attn_scalar": 8}
    return build("Gemma3ForCausalLM", "Gemma3TextConfig", **GROUPED | layers)


def gemma4() -> Any:
    """Sliding and full layers of two head sizes; the last two use the keys of earlier ones."""
    options = GROUPED | {"num_hidden_layers": 6, "global_head_dim": 16, "num_kv_shared_layers": 2, "sliding_window": 8}
    options |= {"layer_types": ["sliding_attention", "full_attention"] * 3}
    options |= {"vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8}
    return build("Gemma4ForCausalLM", "Gemma4TextConfig", **options)


def gemma3n() -> Any:
    options = GROUPED | {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "sliding_window": 8, "laurel_rank": 4}
    options |= {"layer_types": ["sliding_attention", "full_attention"] * 2, "activation_sparsity_pattern": [0.0] * 4}
    options |= {"vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8, "altup_num_inputs": 2}
    return build("Gemma3nForCausalLM", "Gemma3nTextConfig", **options | {"intermediate_size": [32] * 4})


def llama4() -> Any:
    """A chunked layer, whose queries see the keys of their own chunk of 8 alone, and a full one."""
    options = GROUPED | EXPERTS | {"attention_chunk_size": 8, "layer_types": ["chunked_attention", "full_attention"]}
    options |= {"num_experts_per_tok": 1, "intermediate_size_mlp": 32, "no_rope_layers": [1, 0]}
    return build("Llama4ForCausalLM", "Llama4TextConfig", **options)


def deepseek_v3() -> Any:
    """Latent attention: keys of 16 channels, values of 12."""
    latent = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12}
    experts = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    options = TEXT | latent | experts | {"first_k_dense_replace": 2, "moe_intermediate_size": 16}
    return build("DeepseekV3ForCausalLM", "DeepseekV3Config", **options, num_key_value_heads=4, initializer_range=0.15)


def gpt_oss() -> Any:
    options = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
    return build("GptOssForCausalLM", "GptOssConfig", **GROUPED | EXPERTS | options)


@dataclass(frozen=True)
class Kind:
    """A tiny model, its kernel, and the first key that each layer's last query sees."""

    make: Callable[[], Any]
    kernel: str = "sdpa"
    first: tuple[int, ...] = ()


KINDS = {
    "soft-capped logits": Kind(gemma2, "eager", (N - 8, 0)),
    "sliding window": Kind(gemma3, first=(N - 8, 0)),
    "two head sizes and shared keys": Kind(gemma4, first=(N - 8, 0) * 3),
    "shared keys": Kind(gemma3n, first=(N - 8, 0) * 2),
    "chunked window": Kind(llama4, first=(16, 0)),
    "latent attention": Kind(deepseek_v3, first=(0, 0)),
    "indexed sparse attention": Kind(sparse_model),
    "learned sinks": Kind(gpt_oss, "eager", (N - 8, 0)),
}


@pytest.fixture(params=KINDS, ids=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def eager_rows(model: Any) -> torch.Tensor:
    """[L, H, R, N] by the model's own eager attention."""
    model.set_attn_implementation("eager")
    attentions = model(IDS, use_cache=False, output_attentions=True).attentions
    return torch.stack([a[0].float() for a in attentions])[:, :, list(QUERIES)]


def test_rows_equal_eager_and_logits_do_not_change(kind: Kind) -> None:
    model = kind.make()
    assert model.config._attn_implementation == kind.kernel
    plain = model(IDS, use_cache=False).logits
    with record(model, RowRequest((QUERIES,))) as recording:
        assert torch.equal(model(IDS, use_cache=False).logits, plain)
    rows = recording.prefill[0]
    torch.testing.assert_close(rows, eager_rows(model), atol=5 * TOLERANCE[torch.float32], rtol=0)
    for layer, first in enumerate(kind.first):
        assert not rows[layer, :, -1, :first].any()
        assert rows[layer, :, -1, first:].all()


def test_decode_steps_equal_those_of_eager_generation(kind: Kind) -> None:
    model = kind.make()
    # Layers with shared keys skip positions while `generate` reads a prompt, so the first two are recorded.
    with record(model, RowRequest(((N - 1,),), spec=RecordSpec(layers=(0, 1)), decode=True)) as recording:
        text = model.generate(IDS, **GREEDY)
    model.set_attn_implementation("eager")
    slow = model.generate(IDS, **GREEDY, output_attentions=True, return_dict_in_generate=True)
    assert torch.equal(slow.sequences, text)
    steps = recording.decode[0][:, :, :, 0]  # [steps, L, H, K]
    assert len(steps) == 3
    for number, attentions in enumerate(slow.attentions[1:]):
        for layer in (0, 1):
            expected, stop = attentions[layer][0, :, 0], N + 1 + number
            kept = expected.shape[-1]  # a sliding cache has dropped the others
            row = steps[number, layer]
            torch.testing.assert_close(row[:, stop - kept : stop], expected, atol=2e-6, rtol=1e-4)
            assert not row[:, : stop - kept].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_within_the_table(kind: Kind, dtype: torch.dtype) -> None:
    """Against eager attention under the same kernel, so that layers have equal inputs."""
    model = kind.make().to(dtype)
    model.set_attn_implementation("eager")
    with record(model, RowRequest((QUERIES,))) as recording:
        model(IDS, use_cache=False)
    torch.testing.assert_close(recording.prefill[0], eager_rows(model), atol=TOLERANCE[dtype], rtol=0)


def test_a_row_that_overflows_in_half_precision_is_an_error_that_says_so() -> None:
    model = gemma3().to(torch.float16)
    model.model.layers[1].input_layernorm.weight.fill_(torch.inf)
    with (
        pytest.raises(ModelError, match=r"attention of layer 1 .*float16"),
        record(model, RowRequest((QUERIES,))),
    ):
        model(IDS, use_cache=False)


def test_the_share_of_learned_sinks_is_what_rows_lack() -> None:
    model = gpt_oss()
    for layer in model.model.layers:
        layer.self_attn.sinks.copy_(torch.tensor([-30.0, 0.0, 1.0, 30.0]))
    spec = RecordSpec(layers=(1,), heads=(0, 2, 3))
    with record(model, RowRequest((QUERIES,), spec=spec)) as recording:
        model(IDS)
    assert recording.learned_sinks is not None
    (shares,) = recording.learned_sinks
    torch.testing.assert_close(shares, 1 - recording.prefill[0].sum(-1), atol=1e-6, rtol=0)
    assert shares[0, 0].max() < 1e-6 < 0.01 < shares[0, 1].min() < shares[0, 2].min()
    assert shares[0, 2].min() > 0.99
    with record(other := gemma3(), RowRequest((QUERIES,))) as without:
        other(IDS)
    assert without.learned_sinks is None


def test_a_flow_through_learned_sinks_is_refused() -> None:
    model = gpt_oss()
    with (
        pytest.raises(RecordingError, match="layer 0 has learned attention sinks, which an attention flow does not"),
        record(model, RowRequest((QUERIES,), spec=RecordSpec(flow=AttentionFlow()))),
    ):
        model(IDS)


@pytest.mark.parametrize("way", ["bias", "scale"])
def test_an_edit_beside_learned_sinks_is_that_of_the_formula(way: str) -> None:
    """Both the edited output and the rows recorded of it: exp(logit + bias) over keys and sink, times the scale."""
    model = gpt_oss()
    bias = torch.zeros(1, 4, 1, N)
    bias[:, 2, :, 3:9] = 1.5
    heads = torch.tensor([2])
    edit = AttentionEdit(logit_bias=bias) if way == "bias" else AttentionEdit(weight_scale=(heads, bias[:, 2:3].exp()))
    seen: list[AttentionCall] = []

    class Editing(Subscriber):
        def edit(self, layer: int, call: AttentionCall) -> AttentionCall:
            return call.changed(edits=(*call.edits, RowEdit(0, edit)))

        def observe(self, layer: int, call: AttentionCall, output: torch.Tensor) -> None:
            seen.append(call)
            rows = attention_rows(call, 0, torch.arange(N))
            value = call.value[0].repeat_interleave(2, 0)
            torch.testing.assert_close((rows @ value).transpose(0, 1), output[0], atol=1e-5, rtol=1e-4)

    with intercept(model, Editing(), Scope((1,), edits=True)):
        model(IDS)
    (call,) = seen
    logits = call.scale * call.query[0] @ call.key[0].repeat_interleave(2, 0).transpose(1, 2)
    logits = logits.masked_fill(torch.ones(N, N, dtype=torch.bool).triu(1), -torch.inf)
    logits = logits + bias[0] if way == "bias" else logits
    sink = model.model.layers[1].self_attn.sinks[:, None, None].expand(4, N, 1)
    expected = torch.cat([logits, sink], -1).softmax(-1)[..., :-1] * (1 if way == "bias" else bias[0].exp())
    torch.testing.assert_close(attention_rows(call, 0, torch.arange(N)), expected, atol=1e-6, rtol=1e-5)
