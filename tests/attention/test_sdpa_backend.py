from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from grounding.attention import RowRequest, record
from grounding.attention.backends.sdpa import SdpaTap
from grounding.attention.backends.transformers import uses_interface
from grounding.attention.rows import TOLERANCE, AttentionCall, attention_rows
from grounding.record_spec import RecordSpec

IDS = torch.tensor([[7, 9, 11, 13, 15, 17, 19, 21], [0, 0, 8, 10, 12, 14, 16, 18]])
MASK = torch.tensor([[1] * 8, [0, 0] + [1] * 6])
QUERIES = ((7, 3), (7, 4))


def falcon(implementation: str) -> Any:
    """A real class that calls torch's attention itself and never looks into transformers' registry."""
    from transformers import FalconConfig, FalconForCausalLM

    config = FalconConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.15,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FalconForCausalLM._from_config(config, attn_implementation=implementation).eval()


def test_tap_shows_calls_and_leaves_results_alone() -> None:
    query, key, value = (torch.randn(1, 2, 5, 4) for _ in range(3))
    seen: list[tuple[AttentionCall, torch.Tensor]] = []
    with SdpaTap(lambda call, output: seen.append((call, output))):
        result = scaled_dot_product_attention(query, key, value, is_causal=True)
        torch.nn.functional.softmax(query, dim=-1)
    assert torch.equal(result, scaled_dot_product_attention(query, key, value, is_causal=True))
    assert len(seen) == 1
    call, output = seen[0]
    weights = attention_rows(call, 0, torch.arange(5))
    torch.testing.assert_close(weights @ value[0], result[0], atol=1e-6, rtol=0)
    assert output.shape == (1, 5, 2, 4)


def test_a_decoder_outside_the_registry_is_recorded_through_the_tap() -> None:
    model, eager = falcon("sdpa"), falcon("eager")
    assert not uses_interface(model.transformer.h[0])
    with torch.no_grad():
        plain = model(IDS, attention_mask=MASK).logits
        with record(model, RowRequest(QUERIES, spec=RecordSpec(residual_sinks=True))) as recording:
            recorded = model(IDS, attention_mask=MASK).logits
        attentions = eager(IDS, attention_mask=MASK, output_attentions=True).attentions
    assert torch.equal(plain, recorded)
    for element, rows in enumerate(QUERIES):
        expected = torch.stack([a[element] for a in attentions])[:, :, list(rows)]
        torch.testing.assert_close(recording.prefill[element], expected, atol=TOLERANCE[torch.float32], rtol=0)
    assert torch.overrides._get_current_function_mode() is None


def test_decode_through_the_tap() -> None:
    model = falcon("sdpa")
    options = {"attention_mask": MASK, "max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with record(model, RowRequest(QUERIES, decode=True)) as recording:
        generated = model.generate(IDS, **options)
    assert torch.equal(generated, model.generate(IDS, **options))
    assert recording.decode[1].shape == (3, 2, 4, 1, 11)
    torch.testing.assert_close(recording.decode[1].sum(-1), torch.ones(3, 2, 4, 1), atol=1e-5, rtol=0)
    assert not recording.decode[1][..., :2].any(), "padding has no weight"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_the_tap_is_gone_after_an_exception(error: type[BaseException]) -> None:
    model = falcon("sdpa")

    def fail(*_: Any) -> None:
        raise error

    handle = model.transformer.h[1].mlp.register_forward_pre_hook(fail)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    with pytest.raises(error), record(model, RowRequest(QUERIES)):
        model(IDS, attention_mask=MASK)
    assert torch.overrides._get_current_function_mode() is None
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    handle.remove()


def test_uses_interface_reads_inherited_classes() -> None:
    from transformers.models.llama.modeling_llama import LlamaAttention

    class Renamed(LlamaAttention):
        pass

    from transformers import LlamaConfig

    config = LlamaConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=4, intermediate_size=32)
    assert uses_interface(torch.nn.Sequential(Renamed(copy.deepcopy(config), 0)))
    assert not uses_interface(torch.nn.Linear(2, 2))
