"""Models and layers whose rows have no positions or do not exist: one sentence before the pass, and what does work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from explicit_flow import VLSAM, explicit_flow

from grounding.attention import RowRequest, record
from grounding.attention.introspect import decoder_stack
from grounding.attention.rows import TOLERANCE
from grounding.errors import RecordingError
from grounding.record_spec import RecordSpec

IDS = torch.arange(5, 29)[None]
N = IDS.shape[1]
SMALL: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
TEXT: dict[str, Any] = SMALL | {"intermediate_size": 32, "num_attention_heads": 4, "pad_token_id": 0}
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def build(name: str, config: str, **options: Any) -> Any:
    import transformers

    if not hasattr(transformers, config):
        pytest.skip(f"this version of transformers has no {config}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(transformers, config)(**options)
        return getattr(transformers, name)(made).eval()


def qwen3_next() -> Any:
    linear = {
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    }
    experts = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    }
    options = TEXT | linear | experts | {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 8}
    return build("Qwen3NextForCausalLM", "Qwen3NextConfig", **options)


def mllama() -> Any:
    """Cross-attention to an image in layers 1 and 3."""
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_global_layers": 1, "attention_heads": 2, "image_size": 28}
    vision |= {"patch_size": 14, "intermediate_size": 16, "vision_output_dim": 32, "intermediate_layers_indices": [0]}
    text = TEXT | {"num_hidden_layers": 4, "num_key_value_heads": 2, "cross_attention_layers": [1, 3], "head_dim": 8}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    return build("MllamaForConditionalGeneration", "MllamaConfig", vision_config=vision, text_config=text)


WITHOUT: dict[str, Callable[[], Any]] = {
    "Mamba": lambda: build("MambaForCausalLM", "MambaConfig", **SMALL),
    "RWKV": lambda: build("RwkvForCausalLM", "RwkvConfig", **SMALL, attention_hidden_size=32),
    "MPT": lambda: build("MptForCausalLM", "MptConfig", vocab_size=64, d_model=32, n_heads=4, n_layers=2),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_a_model_without_attention_that_is_emitted_is_refused_before_it_runs(name: str) -> None:
    with pytest.raises(RecordingError, match="cannot be recorded: its layers have no attention, or compute it without"):
        record(WITHOUT[name](), RowRequest(((3,),))).__enter__()


def test_a_hybrid_says_before_the_pass_which_layers_have_rows() -> None:
    model = qwen3_next()
    with pytest.raises(RecordingError, match=r"layers \[0, 1, 2\] of Qwen3NextModel .* RecordSpec.* of \[3\]"):
        record(model, RowRequest(((3,),))).__enter__()
    with record(model, RowRequest(((N - 1,),), spec=RecordSpec(layers=(3,)))) as recording:
        model(IDS)
    torch.testing.assert_close(recording.prefill[0].sum(-1), torch.ones(1, 4, 1), atol=1e-5, rtol=0)


def test_a_flow_passes_over_layers_without_softmax_attention() -> None:
    model = qwen3_next()
    spec = RecordSpec(flow=VLSAM)
    with record(model, RowRequest(((N - 1, 3),), spec=spec)) as recording:
        model(IDS)
    assert recording.layers == (3,)
    model.set_attn_implementation("eager")
    attentions = [a[0] for a in model(IDS, output_attentions=True).attentions if a is not None]
    expected = explicit_flow(attentions, VLSAM)[[N - 1, 3]]
    torch.testing.assert_close(recording.prefill[0][0, 0].double(), expected, atol=2e-6, rtol=2e-5)
    with pytest.raises(RecordingError, match=r"layers \[0, 1\] of Qwen3NextModel .* of \[3\]"):
        record(model, RowRequest(((3,),), spec=RecordSpec(layers=(0, 1), flow=VLSAM))).__enter__()


def test_keys_of_an_image_are_not_taken_for_positions_of_the_text() -> None:
    model = mllama()
    decoder = model.get_decoder()
    states = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    seen = {"input_ids": IDS, "cross_attention_states": states}
    with pytest.raises(RecordingError, match=r"layers \[1, 3\] of MllamaTextModel attend to keys that are not the seq"):
        record(decoder, RowRequest(((N - 1,),), spec=RecordSpec(reduce="layers"))).__enter__()
    with record(decoder, RowRequest(((N - 1,),), spec=RecordSpec(layers=(0, 2)))) as recording:
        decoder(**seen)
    decoder.set_attn_implementation("eager")
    attentions = decoder(**seen, output_attentions=True).attentions
    own = [a for a in attentions if a.shape[-1] == N]
    torch.testing.assert_close(
        recording.prefill[0][:, :, 0], torch.stack([a[0, :, -1] for a in own]), atol=1e-6, rtol=0
    )


def test_adapters_of_another_package_do_not_hide_what_a_layer_is() -> None:
    class Adapter(torch.nn.Module):
        """A module of unknown source beside the attention, as adapters put them."""

    model = mllama()
    for layer in model.get_decoder().layers:
        layer.adapter = Adapter()
    with pytest.raises(RecordingError, match=r"layers \[1, 3\] of MllamaTextModel attend to keys"):
        record(model.get_decoder(), RowRequest(((N - 1,),))).__enter__()


@pytest.mark.parametrize("keys", [5, 24, 40])
def test_other_keys_are_found_by_their_number_where_the_class_does_not_say_it(keys: int) -> None:
    """Fewer, as many and more image keys than text; as many are found at the first generated token."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**TEXT)).eval()
    attention = model.model.layers[1].self_attn
    own = type(attention).forward
    states = torch.randn(1, keys, 32, generator=torch.Generator().manual_seed(0))

    class Elsewhere(type(attention)):
        """Attends to `states`, through the interface of kernels."""

        def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

            def heads(layer: Any, x: torch.Tensor) -> torch.Tensor:
                return layer(x).view(1, x.shape[1], 4, 8).transpose(1, 2)

            run = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, None)
            query, key, value = (
                heads(self.q_proj, hidden_states),
                heads(self.k_proj, states),
                heads(self.v_proj, states),
            )
            output = run(self, query, key, value, None, scaling=self.scaling, is_causal=False)[0]
            return self.o_proj(output.flatten(2)), None

    assert own is not Elsewhere.forward
    attention.__class__ = Elsewhere
    request = RowRequest(((N - 1,),), decode=True)
    sentence = f"layer 1 attends to {keys} keys where the sequence has 2[45] positions"
    with pytest.raises(RecordingError, match=sentence), record(model, request):
        model.generate(IDS, **GREEDY)


def test_a_model_whose_layers_differ_in_head_width_is_recorded() -> None:
    options = TEXT | {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 16}
    options |= {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8}
    options |= {"vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8, "initializer_range": 0.1}
    model = build("Gemma4ForCausalLM", "Gemma4TextConfig", **options)
    assert {layer.self_attn.head_dim for layer in model.model.layers} == {8, 16}
    queries = (N - 1, N // 2, 1)
    plain = model(IDS).logits
    with record(model, RowRequest((queries,))) as recording:
        assert torch.equal(model(IDS).logits, plain)
    with record(model, RowRequest((queries,), decode=True)) as steps:
        model.generate(IDS, **GREEDY)
    model.set_attn_implementation("eager")
    attentions = model(IDS, output_attentions=True).attentions
    expected = torch.stack([a[0] for a in attentions])[:, :, list(queries)]
    torch.testing.assert_close(recording.prefill[0], expected, atol=5 * TOLERANCE[torch.float32], rtol=0)
    assert torch.equal(steps.prefill[0], recording.prefill[0])
    assert steps.decode[0].shape == (3, 4, 4, 1, N + 3)


def test_layers_that_attend_from_some_positions_only_are_refused() -> None:
    """Gemma 4's layers with shared keys attend from the last position alone while `generate` reads a prompt."""
    options = TEXT | {"num_hidden_layers": 6, "num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 16}
    options |= {"layer_types": ["sliding_attention", "full_attention"] * 3, "num_kv_shared_layers": 2}
    options |= {"vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8, "sliding_window": 8}
    model = build("Gemma4ForCausalLM", "Gemma4TextConfig", **options)
    request = RowRequest(((N - 1,),))
    with record(model, request) as recording:
        model(IDS)
    torch.testing.assert_close(recording.prefill[0].sum(-1), torch.ones(6, 4, 1), atol=1e-5, rtol=0)
    with (
        pytest.raises(
            RecordingError, match=r"layer 4 attends from 1 positions where the pass has 24, as layers with sh"
        ),
        record(model, request),
    ):
        model.generate(IDS, **GREEDY)


def test_layers_of_other_numbers_of_heads_are_not_called_tensor_parallelism() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**TEXT)).eval()
    narrow = model.model.layers[1].self_attn
    for name, out in (("q_proj", 16), ("k_proj", 16), ("v_proj", 16)):
        setattr(narrow, name, torch.nn.Linear(32, out, bias=False))
    narrow.o_proj = torch.nn.Linear(16, 32, bias=False)
    with (
        pytest.raises(
            RecordingError, match=r"layer 1 runs 2 heads but the model's config says 4: .* choose those of 4"
        ),
        record(model, RowRequest(((N - 1,),))),
    ):
        model(IDS)
    with record(model, RowRequest(((N - 1,),), spec=RecordSpec(layers=(0,)))) as recording:
        model(IDS)
    assert recording.prefill[0].shape == (1, 4, 1, N)


def blip2() -> Any:
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {"model_type": "opt", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return build(
        "Blip2ForConditionalGeneration",
        "Blip2Config",
        vision_config=tower | {"image_size": 28, "patch_size": 14},
        qformer_config=tower | {"vocab_size": 30, "encoder_hidden_size": 16},
        text_config=text | {"ffn_dim": 32, "word_embed_proj_dim": 32},
        num_query_tokens=4,
    )


def modernbert() -> Any:
    ids = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    return build("ModernBertDecoderForCausalLM", "ModernBertDecoderConfig", **TEXT, **ids)


def test_the_decoder_of_a_whole_language_model_within_is_found() -> None:
    model = blip2()
    assert decoder_stack(model).module is model.language_model.model.decoder
    with record(model, RowRequest(((N - 1,),))) as recording:
        model.language_model(input_ids=IDS)
    torch.testing.assert_close(recording.prefill[0].sum(-1), torch.ones(2, 4, 1), atol=1e-5, rtol=0)


def test_the_modules_that_can_be_the_decoder_are_named() -> None:
    model = modernbert()
    with pytest.raises(RecordingError, match=r"decoder=, of .*model\.model"):
        record(model, RowRequest(((3,),))).__enter__()
    with record(model, RowRequest(((N - 1,),)), decoder=model.model) as recording:
        model(input_ids=IDS)
    torch.testing.assert_close(recording.prefill[0].sum(-1), torch.ones(2, 4, 1), atol=1e-5, rtol=0)


def test_dropout_asks_for_eval_mode() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**TEXT, attention_dropout=0.2)).train()
    for kernel in ("sdpa", "eager"):
        model.set_attn_implementation(kernel)
        sentence = r"dropout 0\.2.*call model\.eval\(\) first"
        with pytest.raises(RecordingError, match=sentence), record(model, RowRequest(((N - 1,),))):
            model(IDS)
