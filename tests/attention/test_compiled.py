"""Recording and steering of compiled code. The compiler's own backend is `eager`, which keeps its graphs uncompiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch._dynamo.utils import counters
from transformers import CompileConfig, LlamaConfig, LlamaForCausalLM

from grounding.attention import Recording, RowRequest, record
from grounding.attention.backends.compiled import compiled_parts
from grounding.attention.events import Scope, Subscriber
from grounding.attention.intercept import intercept
from grounding.compat import cache_argument
from grounding.errors import RecordingError
from grounding.models.base import VLM
from grounding.models.llava import Llava
from grounding.models.prepared import Prepared
from grounding.models.tiny import tiny_llava
from grounding.record_spec import RecordSpec
from grounding.steering.decoding import Decoding
from grounding.steering.generate import generate
from grounding.steering.method import Steering
from grounding.steering.modulation import Renormalise

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
OPTIONS = {"backend": "eager", "fullgraph": True}
GREEDY = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


@pytest.fixture
def vlm() -> VLM:
    return Llava(*tiny_llava())


@pytest.fixture
def prepared(vlm: VLM) -> Prepared:
    return vlm.prepare([PICTURE], ["the red dog"])


def request(prepared: Prepared, **options: Any) -> RowRequest:
    return RowRequest(((prepared.length - 1, prepared.length - 3),), **options)


def compile_forward(model: Any) -> None:
    decoder = model.get_decoder()
    decoder.forward = torch.compile(decoder.forward, **OPTIONS)


def compile_in_place(model: Any) -> None:
    model.get_decoder().compile(**OPTIONS)


def compile_layers(model: Any) -> None:
    for layer in model.get_decoder().layers:
        layer.compile(**OPTIONS)


def wrap_decoder(model: Any) -> None:
    model.model.language_model = torch.compile(model.model.language_model, **OPTIONS)


WAYS = [compile_forward, compile_in_place, compile_layers, wrap_decoder]


def run(model: Any, prepared: Prepared, asked: RowRequest) -> tuple[torch.Tensor, Recording]:
    with record(model, asked) as recording:
        logits = model(**prepared.inputs).logits
    return logits, recording


def graphs() -> int:
    """How many graphs were compiled since the last call."""
    found = int(counters["stats"]["unique_graphs"])
    counters.clear()
    return found


@pytest.mark.parametrize("way", WAYS)
def test_rows_and_logits_equal_those_of_the_uncompiled_model_and_nothing_is_left_behind(
    way: Callable[[Any], None], vlm: VLM, prepared: Prepared
) -> None:
    asked = request(prepared, spec=RecordSpec(residual_sinks=True))
    plain = vlm.model(**prepared.inputs).logits
    _, expected = run(vlm.model, prepared, asked)
    way(vlm.model)
    graphs()
    assert torch.equal(vlm.model(**prepared.inputs).logits, plain)
    assert graphs() > 0, "nothing was compiled"
    before = {name: dict(vars(module)) for name, module in vlm.model.named_modules()}
    for block in range(2):
        logits, recording = run(vlm.model, prepared, asked)
        assert (graphs() > 0) is (block == 0), "a block compiles code of its own, once"
        assert torch.equal(logits, plain)
        assert torch.equal(recording.prefill[0], expected.prefill[0])
        assert recording.residual_sinks is not None
        assert expected.residual_sinks is not None
        assert torch.equal(recording.residual_sinks[0], expected.residual_sinks[0])
    assert torch.equal(vlm.model(**prepared.inputs).logits, plain)
    assert graphs() == 0, "the code from before the block is used again"
    for name, module in vlm.model.named_modules():
        assert dict(vars(module)).keys() == before[name].keys()
        assert module._compiled_call_impl is before[name].get("_compiled_call_impl")
    assert torch.overrides._get_current_function_mode() is None


def text_model() -> Any:
    """A tiny model without a vision tower, whose whole is compiled in less time."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=50,
    )
    return LlamaForCausalLM(config).eval()


IDS = torch.arange(3, 12)[None]


def test_a_wrapper_of_the_whole_model_is_recorded() -> None:
    model = text_model()
    with record(model, RowRequest(((8, 2),))) as expected:
        plain = model(IDS).logits
    wrapper = torch.compile(model, backend="eager")
    with record(wrapper, RowRequest(((8, 2),))) as found:
        logits = wrapper(IDS).logits
    assert torch.equal(logits, plain)
    assert torch.equal(found.prefill[0], expected.prefill[0])


def test_a_wrapper_that_record_was_not_given_is_not_taken_for_an_empty_recording() -> None:
    model = text_model()
    wrapper = torch.compile(model, backend="eager")
    with pytest.raises(RecordingError, match=r"torch\.compile returned"), record(model, RowRequest(((8,),))):
        wrapper(IDS)


def compile_whole(model: Any) -> None:
    model.compile(backend="eager")


def compile_attention(model: Any) -> None:
    model.get_decoder().layers[1].self_attn.compile(**OPTIONS)


@pytest.mark.parametrize("way", [compile_whole, compile_in_place, compile_layers, compile_attention])
def test_compiling_in_place_inside_a_block_is_refused(way: Callable[[Any], None]) -> None:
    model = text_model()
    refused = pytest.raises(
        RecordingError, match=r"\.compile\(\) was called inside a block that .* it: compile it before"
    )
    with record(model, RowRequest(((8, 2),), decode=True)):
        cache = model(IDS, use_cache=True).past_key_values
        with refused:
            way(model)
        model(IDS[:, :1], **{cache_argument(model): cache})
    assert not compiled_parts(model)
    way(model)
    assert compiled_parts(model)


def test_other_modules_may_be_compiled_inside_a_block() -> None:
    model, other = text_model(), torch.nn.Linear(2, 2)
    with record(model, RowRequest(((8,),), spec=RecordSpec(layers=(0,)))):
        model(IDS)
        other.compile(backend="eager")
        model.get_decoder().layers[1].compile(backend="eager")
        assert torch.equal(other(torch.ones(2)), torch.nn.functional.linear(torch.ones(2), other.weight, other.bias))


def wrap_inner(model: Any) -> None:
    model.model = torch.compile(model.model, **OPTIONS)


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        (wrap_inner, "LlamaModel was compiled inside the block"),
        (compile_forward, "made no attention call that can be recorded"),
    ],
)
def test_a_recording_in_which_a_part_was_replaced_by_its_compiled_form_is_refused(
    way: Callable[[Any], None], kind: str
) -> None:
    model = text_model()
    refused = pytest.raises(RecordingError, match=kind)
    with refused, record(model, RowRequest(((8, 2),), decode=True)):
        cache = model(IDS, use_cache=True).past_key_values
        way(model)
        model(IDS[:, :1], **{cache_argument(model): cache})


def test_decode_with_a_static_cache_that_generate_compiles(vlm: VLM, prepared: Prepared) -> None:
    asked = request(prepared, decode=True)
    with record(vlm.model, asked) as expected:
        tokens = vlm.model.generate(**prepared.inputs, **GREEDY)
    config = CompileConfig(backend="eager", mode=None, fullgraph=True)
    config._compile_all_devices = True
    for block in range(2):
        graphs()
        with record(vlm.model, asked) as found:
            compiled = vlm.model.generate(
                **prepared.inputs, **GREEDY, cache_implementation="static", compile_config=config
            )
        assert (graphs() > 0) is (block == 0)
        assert torch.equal(compiled, tokens)
        torch.testing.assert_close(found.prefill[0], expected.prefill[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(found.decode[0], expected.decode[0], atol=1e-6, rtol=0)


def test_steered_texts_equal_those_of_the_uncompiled_model(vlm: VLM) -> None:
    steering = Steering("renormalise", "", "", (Renormalise(gain=16.0),))

    def told(method: Steering | None) -> tuple[int, ...]:
        return generate(vlm, [PICTURE], ["the red dog"], method, Decoding(max_new_tokens=2))[0].token_ids

    expected = told(steering), told(None)
    assert expected[0] != expected[1], "the steering must change the text for this test to mean anything"
    compile_in_place(vlm.model)
    assert (told(steering), told(None)) == expected


def test_what_compiled_code_cannot_emit_is_refused(vlm: VLM) -> None:
    compile_in_place(vlm.model)
    refused = pytest.raises(RecordingError, match="outputs of heads cannot be changed in compiled code")
    with refused, intercept(vlm.model, Subscriber(), Scope(gates=(0,))):
        pass
    vlm.model.set_attn_implementation("eager")
    refused = pytest.raises(RecordingError, match=r"edits in compiled code need 'sdpa'")
    with refused, intercept(vlm.model, Subscriber(), Scope((0,), edits=True)):
        pass
