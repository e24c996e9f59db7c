"""Test for every model family that each modulation equals its formula in reference attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from contract_cases import BUILDERS, build_vlm
from PIL import Image
from steering_reference import TAU, Reference, configs_of, reference_attention
from torch import Tensor

from grounding.attention import RowRequest, record
from grounding.models.base import VLM
from grounding.steering.base import GenerationContext, Intervention
from grounding.steering.decoding import Decoding
from grounding.steering.editor import applied
from grounding.steering.generate import generate
from grounding.steering.heads import HeadChoice
from grounding.steering.method import Steering
from grounding.steering.modulation import Modulation, Pai, Renormalise, Values
from grounding.steering.redistribution import Redistribute
from grounding.steering.text_route import Gate, TextRoute

QUESTIONS = ("where is the red dog on the left?", "where is it")
HEADS = HeadChoice(listed=((0, 1), (0, 2), (1, 0), (1, 3)))
MODULATIONS: dict[str, Modulation] = {
    "renormalise": Renormalise(gain=4.0),
    "renormalise some heads": Renormalise(gain=0.2, heads=HEADS, prefill="text"),
    "hide the image": Renormalise(gain=0.0, prefill="all"),
    "values": Values(gain=2.5, heads=HEADS),
    "values, all rows": Values(gain=0.5, prefill="all"),
    "pai": Pai(strength=0.8),
    "pai, text rows": Pai(strength=0.5, heads=HEADS, prefill="text"),
    "redistribute": Redistribute(tau=TAU, skip_layers=0, visual_mass=0.1, rho=0.2, prefill="text"),
    "redistribute, removing": Redistribute(
        tau=TAU, skip_layers=0, p=0.8, reading="remove", visual_mass=0.0, rho=0.9, head_rule="sink"
    ),
    "text route": TextRoute(gain=0.1, heads=HEADS),
    "text route, renormalised": TextRoute(gain=0.1, heads=HEADS, renormalise=True, prefill="text"),
    "text route, from a mass on": TextRoute(gain=0.0, mass=0.1),
    "gate": Gate(gain=0.3, heads=HEADS, prefill="text"),
}


@dataclass
class Models:
    steered: VLM
    plain: VLM  # same weights; runs the reference kernel
    images: list[Image.Image]

    def context(self, decoding: Decoding | None = None) -> GenerationContext:
        prepared = self.steered.prepare_questions(self.images, QUESTIONS)
        return GenerationContext(self.steered, self.images, QUESTIONS, prepared, decoding or Decoding())


@pytest.fixture(scope="module", params=list(BUILDERS))
def models(request: pytest.FixtureRequest) -> Models:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (80, 100, 3), dtype=np.uint8)) for _ in range(2)]
    return Models(build_vlm(request.param), build_vlm(request.param), images)


def method(*steps: Intervention) -> Steering:
    return Steering("test", "", "", steps)


def run(models: Models, modulation: Modulation | None, decoding: Decoding) -> list[tuple[int, ...]]:
    steering = method(modulation) if modulation else None
    return [one.token_ids for one in generate(models.steered, models.images, QUESTIONS, steering, decoding)]


def run_reference(models: Models, modulation: Modulation, decoding: Decoding, **options: Any) -> list[tuple[int, ...]]:
    plain = models.plain
    context = models.context()
    with reference_attention(plain, Reference(modulation, context)), torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(decoding.seed)
        length = context.prepared.length
        output = plain.model.generate(
            **context.prepared.inputs, **options, max_new_tokens=decoding.max_new_tokens, num_beams=decoding.num_beams,
            do_sample=decoding.do_sample, top_k=decoding.top_k, pad_token_id=plain.tokenizer.pad_token_id,
        )  # fmt: skip
    end = plain.model.generation_config.eos_token_id
    rows = output[:, length:].tolist()
    return [tuple(row[: row.index(end) + 1] if end in row else row) for row in rows]


@pytest.mark.parametrize("name", list(MODULATIONS))
def test_logits_of_the_prompt_equal_the_formula(models: Models, name: str) -> None:
    modulation, context = MODULATIONS[name], models.context()
    inputs = context.prepared.inputs
    assert context.prepared.layouts[1].padding > 0
    with torch.no_grad():
        plain = models.steered.model(**inputs).logits
        reference = Reference(modulation, context)
        with reference_attention(models.plain, reference):
            expected = models.plain.model(**inputs).logits
        with applied(modulation, context):
            found = models.steered.model(**inputs).logits
    for element, pad in enumerate(layout.padding for layout in context.prepared.layouts):
        torch.testing.assert_close(found[element, pad:], expected[element, pad:], atol=2e-5, rtol=1e-4)
        assert (found[element, -1] - plain[element, -1]).abs().max() > 1e-3
        start = {"last": -1, "text": int(context.prepared.layouts[element].image.max()) + 1, "all": pad}[
            modulation.prefill
        ]
        if modulation.prefill == "last":
            assert torch.equal(found[element, pad:start], plain[element, pad:start])


@pytest.mark.parametrize("name", list(MODULATIONS))
def test_decode_steps_equal_the_formula_without_a_cache(models: Models, name: str) -> None:
    modulation, context = MODULATIONS[name], models.context()
    inputs = dict(context.prepared.inputs)
    new = torch.randint(40, 200, (2, 4), generator=torch.Generator().manual_seed(0))
    forced = torch.nn.functional.pad(new, (0, 1), value=50)
    longer = inputs | {
        "input_ids": torch.cat([inputs["input_ids"], new], 1),
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones_like(new)], 1),
    }
    if "mm_token_type_ids" in inputs:
        longer["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(new)], 1)
    with torch.no_grad():
        with reference_attention(models.plain, Reference(modulation, context)):
            expected = models.plain.model(**longer).logits[:, -5:]
        with applied(modulation, context):
            n = context.prepared.length
            out = models.steered.model.generate(
                **inputs,
                max_new_tokens=5,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                prefix_allowed_tokens_fn=lambda element, ids: [int(forced[element, len(ids) - n])],
            )
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=5e-5, rtol=1e-3)


@pytest.mark.parametrize("name", list(MODULATIONS))
@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(max_new_tokens=6),
        Decoding(max_new_tokens=6, do_sample=True, seed=3),
        Decoding(max_new_tokens=6, num_beams=3),
    ],
    ids=["greedy", "sampling", "beams"],
)
def test_generated_tokens_equal_the_formula(models: Models, name: str, decoding: Decoding) -> None:
    assert run(models, MODULATIONS[name], decoding) == run_reference(models, MODULATIONS[name], decoding)


def test_no_cache_generation_equals_the_cached_one(models: Models) -> None:
    modulation, decoding = MODULATIONS["renormalise"], Decoding(max_new_tokens=6)
    found = run(models, modulation, decoding)
    rope = models.plain.model.config.get_text_config().rope_parameters
    if "mrope_section" not in rope:  # positions in three axes are computed at the prefill and need the cache
        assert found == run_reference(models, modulation, decoding, use_cache=False)
    assert found != run(models, None, decoding)


@pytest.mark.parametrize(
    "modulation",
    [
        Renormalise(gain=1.0), Values(gain=1.0), Pai(strength=0.0), TextRoute(gain=1.0), Gate(gain=1.0),
        Redistribute(p=1.0), Redistribute(p=0.0, reading="remove"),
    ],
    ids=lambda modulation: modulation.name,
)  # fmt: skip
def test_no_op_is_bit_identical(models: Models, modulation: Modulation) -> None:
    inputs = models.context().prepared.inputs
    with torch.no_grad():
        plain = models.steered.model(**inputs).logits
        with applied(modulation, models.context()):
            assert torch.equal(models.steered.model(**inputs).logits, plain)


def test_a_layer_without_chosen_heads_is_bit_identical(models: Models) -> None:
    context = models.context()
    modulation = Renormalise(gain=9.0, heads=HeadChoice(listed=((1, 0),)))
    seen: dict[str, Tensor] = {}
    layer = models.steered.decoder.layers[0]
    with torch.no_grad():
        for name in ("plain", "steered"):
            hook = layer.register_forward_hook(lambda m, a, out, name=name: seen.__setitem__(name, out))
            if name == "plain":
                last = models.steered.model(**context.prepared.inputs).logits
            else:
                with applied(modulation, context):
                    assert not torch.equal(models.steered.model(**context.prepared.inputs).logits, last)
            hook.remove()
    assert torch.equal(seen["plain"], seen["steered"])


@pytest.mark.parametrize("name", ["renormalise", "values", "pai", "redistribute", "text route", "gate"])
def test_a_recorder_sees_the_steered_rows(models: Models, name: str) -> None:
    modulation, context = MODULATIONS[name], models.context()
    length = context.prepared.length
    request = RowRequest(((length - 1, length - 2), (length - 1,)), decode=True)
    reference = Reference(modulation, context)
    kept: list[Tensor] = []
    with torch.no_grad():
        with applied(modulation, context), record(models.steered.model, request) as recording:
            models.steered.model.generate(
                **context.prepared.inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False
            )
        with reference_attention(models.plain, reference):
            attention = models.plain.decoder.layers[1].self_attn
            hook = attention.register_forward_hook(lambda m, a, out: kept.append(out[1]))
            models.plain.model.generate(**context.prepared.inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
            hook.remove()
    torch.testing.assert_close(recording.prefill[0][1, :, 0], kept[0][0, :, -1], atol=2e-6, rtol=0)
    torch.testing.assert_close(recording.prefill[0][1, :, 1], kept[0][0, :, -2], atol=2e-6, rtol=0)
    torch.testing.assert_close(recording.prefill[1][1, :, 0], kept[0][1, :, -1], atol=2e-6, rtol=0)
    for step in range(2):
        row = recording.decode[0][step, 1, :, 0, : length + step + 1]
        torch.testing.assert_close(row, kept[1 + step][0, :, 0], atol=2e-6, rtol=0)


def test_static_cache_equals_the_dynamic_one(models: Models) -> None:
    context = models.context()
    for modulation in (
        MODULATIONS["renormalise"],
        MODULATIONS["values"],
        MODULATIONS["redistribute"],
        MODULATIONS["text route, from a mass on"],
    ):
        with torch.no_grad(), applied(modulation, context) as overrides:
            options = {"max_new_tokens": 5, "do_sample": False, **overrides.options}
            dynamic = models.steered.model.generate(**context.prepared.inputs, **options)
            static = models.steered.model.generate(**context.prepared.inputs, **options, cache_implementation="static")
        assert torch.equal(dynamic, static)


def test_two_steps_act_one_after_the_other(models: Models) -> None:
    context = models.context()
    inputs = context.prepared.inputs
    once, half = Renormalise(gain=4.0), Renormalise(gain=2.0)
    scaled, part = Values(gain=4.0), Values(gain=2.0)
    with torch.no_grad():
        for whole, step in ((once, half), (scaled, part)):
            with applied(whole, context):
                expected = models.steered.model(**inputs).logits
            with applied(step, context), applied(step, context):
                found = models.steered.model(**inputs).logits
            torch.testing.assert_close(found[:, -1], expected[:, -1], atol=2e-5, rtol=1e-4)


def test_everything_is_restored_after_an_exception(models: Models) -> None:
    context, model = models.context(), models.steered.model
    inputs = context.prepared.inputs
    with torch.no_grad():
        plain = model(**inputs).logits
        for modulation in (MODULATIONS["redistribute"], MODULATIONS["gate"]):
            with pytest.raises(ZeroDivisionError):
                fail_inside(modulation, context)
        assert torch.equal(model(**inputs).logits, plain)
    configs = configs_of(models.steered.decoder)
    assert {config._attn_implementation for config in configs} == {"sdpa"}


def fail_inside(modulation: Modulation, context: GenerationContext) -> None:
    with applied(modulation, context):
        context.vlm.model(**context.prepared.inputs)
        raise ZeroDivisionError


def test_eager_model_is_steered_too(models: Models) -> None:
    context = models.context()
    inputs = context.prepared.inputs
    decoder = models.plain.decoder
    configs = configs_of(decoder)
    for config in configs:
        config._attn_implementation_internal = "eager"
    try:
        with torch.no_grad():
            for name in ("renormalise some heads", "values", "pai"):
                with applied(MODULATIONS[name], context):
                    expected = models.steered.model(**inputs).logits
                own = replace(context, vlm=models.plain)
                with applied(MODULATIONS[name], own):
                    found = models.plain.model(**inputs).logits
                torch.testing.assert_close(found[0], expected[0], atol=2e-5, rtol=1e-4)
    finally:
        for config in configs:
            config._attn_implementation_internal = "sdpa"
