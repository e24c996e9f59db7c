"""Steering of generations that read the prompt in pieces, without a cache, several tokens a pass, or other prompts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.errors import MethodError
from grounding.models.base import VLM
from grounding.models.llava import Llava
from grounding.models.tiny import tiny_llava_gqa
from grounding.steering.base import GenerationContext
from grounding.steering.decoding import Decoding
from grounding.steering.editor import applied
from grounding.steering.heads import HeadChoice
from grounding.steering.modulation import Modulation, Pai, Renormalise
from grounding.steering.redistribution import Redistribute
from grounding.steering.schedule import StrengthSchedule
from grounding.steering.text_route import Gate, TextRoute

QUESTIONS = ("where is the red dog on the left?", "where is it")
GREEDY: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
SCORES: dict[str, Any] = {"output_scores": True, "return_dict_in_generate": True}
MEASURED = HeadChoice(sensitivity="prefill", sink_tau=1.5, sink_skip_layers=0)
TAU: dict[str, Any] = {"tau": 1.5, "skip_layers": 0, "visual_mass": 0.0, "rho": 0.1}
MODULATIONS: dict[str, Modulation] = {
    "renormalise": Renormalise(gain=6.0),
    "renormalise, all rows": Renormalise(gain=6.0, prefill="all"),
    "pai, text rows": Pai(strength=2.0, prefill="text"),
    "pai, no row of the prompt": Pai(strength=2.0, prefill="none"),
    "measured heads": Renormalise(gain=6.0, heads=MEASURED),
    "var": Redistribute(**TAU),
    "var, all rows": Redistribute(**TAU, prefill="all"),
    "text route": TextRoute(gain=0.1, mass=0.05),
    "gate": Gate(gain=0.2),
}
SCHEDULES = {
    "linear": StrengthSchedule("linear", tokens=3),
    "decay": StrengthSchedule("decay", tokens=2),
    "window": StrengthSchedule("window", stop=3),
}


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return Llava(*tiny_llava_gqa(), name="tiny")


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def context_of(vlm: VLM, questions: tuple[str, ...] = QUESTIONS) -> GenerationContext:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)) for _ in questions]
    return GenerationContext(vlm, images, questions, vlm.prepare_questions(images, questions), Decoding())


def scores_of(vlm: VLM, modulation: Modulation | None, context: GenerationContext, **options: Any) -> torch.Tensor:
    """[steps, B, V] scores of a greedy generation."""
    inputs = dict(context.prepared.inputs) | options.pop("inputs", {})
    with applied(modulation, context) if modulation is not None else without():
        # Without a cache a generated image token would be read as a picture.
        found = vlm.model.generate(**inputs, **GREEDY, **SCORES, suppress_tokens=[vlm.image_token_id], **options)
    scores = torch.stack(found.scores)
    return scores.masked_fill(scores.isinf(), 0.0)


@contextmanager
def without() -> Iterator[None]:
    yield


@pytest.mark.parametrize("name", MODULATIONS)
def test_without_a_cache_every_token_is_steered_as_with_one(vlm: VLM, name: str) -> None:
    context = context_of(vlm)
    cached = scores_of(vlm, MODULATIONS[name], context)
    assert not torch.allclose(cached, scores_of(vlm, None, context), atol=1e-3), "the modulation does something"
    uncached = scores_of(vlm, MODULATIONS[name], context, use_cache=False)
    torch.testing.assert_close(uncached, cached, atol=1e-4, rtol=1e-4)


def embedded(vlm: VLM, context: GenerationContext) -> dict[str, Any]:
    """The prompt with its image in it, which can be read in chunks; `generate` takes it in place of ids and pixels."""
    inputs = context.prepared.inputs
    ids = inputs["input_ids"]
    embeds = vlm.model.get_input_embeddings()(ids)
    features = vlm.model.get_image_features(pixel_values=inputs["pixel_values"])
    features = torch.cat(list(getattr(features, "pooler_output", features)))
    embeds = embeds.masked_scatter((ids == vlm.image_token_id)[..., None], features)
    return {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}


def in_chunks(vlm: VLM, modulation: Modulation, context: GenerationContext, size: int) -> torch.Tensor:
    """[B, V] logits after a prompt that the language model reads in chunks."""
    decoder, inputs = vlm.decoder, embedded(vlm, context)
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    out, cache = None, None
    with applied(modulation, context):
        for start in range(0, context.prepared.length, size):
            part = slice(start, start + size)
            out = decoder(
                inputs_embeds=inputs["inputs_embeds"][:, part],
                attention_mask=inputs["attention_mask"][:, : part.stop],
                position_ids=positions[:, part],
                past_key_values=cache,
                use_cache=True,
            )
            cache = out.past_key_values
    assert out is not None
    return vlm.model.get_output_embeddings()(out.last_hidden_state[:, -1])


@pytest.mark.parametrize("name", MODULATIONS)
@pytest.mark.parametrize("size", [4, 15])
def test_a_prompt_in_chunks_is_steered_as_a_whole_one(vlm: VLM, name: str, size: int) -> None:
    context = context_of(vlm)
    whole = in_chunks(vlm, MODULATIONS[name], context, context.prepared.length)
    torch.testing.assert_close(in_chunks(vlm, MODULATIONS[name], context, size), whole, atol=1e-4, rtol=1e-4)


def test_heads_measured_at_the_prompts_end_cannot_edit_earlier_chunks(vlm: VLM) -> None:
    context = context_of(vlm)
    modulation = Renormalise(gain=6.0, heads=MEASURED, prefill="all")
    with pytest.raises(MethodError, match="measures its heads at the prompt's last row, but edits earlier rows"):
        in_chunks(vlm, modulation, context, 15)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("base", [Renormalise(gain=6.0), Gate(gain=0.2)], ids=["bias", "gate"])
def test_a_schedule_needs_a_pass_per_token(vlm: VLM, kind: str, base: Modulation) -> None:
    context = context_of(vlm, QUESTIONS[:1])
    modulation = replace(base, schedule=SCHEDULES[kind])
    scores_of(vlm, modulation, context)  # with a cache it runs
    for options in ({"use_cache": False}, {"prompt_lookup_num_tokens": 3}):
        with pytest.raises(
            MethodError, match=f"the schedule '{kind}' .* one pass reads the tokens of steps 0 to [1-9]"
        ):
            scores_of(vlm, modulation, context, inputs=repeated(context), **options)


def repeated(context: GenerationContext) -> dict[str, Any]:
    """The prompt with its end written twice, so that prompt lookup finds candidates for it."""
    ids = context.prepared.inputs["input_ids"].clone()
    ids[:, -4:-2] = ids[:, -2:]
    return {"input_ids": ids}


@pytest.mark.parametrize("name", ["renormalise", "pai, text rows", "var", "gate"])
def test_prompt_lookup_is_steered_as_plain_generation(vlm: VLM, name: str) -> None:
    context = context_of(vlm, QUESTIONS[:1])
    plain, looked_up = (
        scores_of(vlm, MODULATIONS[name], context, inputs=repeated(context), **options)
        for options in ({}, {"prompt_lookup_num_tokens": 3})
    )
    torch.testing.assert_close(looked_up[: len(plain)], plain[: len(looked_up)], atol=1e-4, rtol=1e-4)


def twice(inputs: Any) -> dict[str, Any]:
    """The batch [A, B] as [A, B, A, B]."""
    return {name: torch.cat([value, value]) for name, value in inputs.items()}


def test_copies_of_one_prompt_must_stand_next_to_each_other(vlm: VLM) -> None:
    context = context_of(vlm)
    mixed = twice(context.prepared.inputs)
    with (
        pytest.raises(MethodError, match=r"started for 2 prompts of .* but 4 of"),
        applied(Renormalise(gain=6.0), context),
    ):
        vlm.model.generate(**mixed, **GREEDY)
    with (
        pytest.raises(MethodError, match="copies of one prompt do not stand next to each other"),
        applied(Renormalise(gain=6.0), context),
    ):
        vlm.model(**mixed)
    beside = {name: value.repeat_interleave(2, dim=0) for name, value in context.prepared.inputs.items()}
    with applied(Renormalise(gain=6.0), context):
        logits = vlm.model(**beside).logits
        plain = vlm.model(**context.prepared.inputs).logits
    torch.testing.assert_close(logits, plain.repeat_interleave(2, dim=0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}])
def test_beams_and_samples_of_the_right_batch_run(vlm: VLM, options: dict[str, Any]) -> None:
    context = context_of(vlm)
    with applied(Renormalise(gain=6.0), context):
        vlm.model.generate(**context.prepared.inputs, **{**GREEDY, **options})


def test_another_prompt_is_refused(vlm: VLM) -> None:
    short, long = context_of(vlm, QUESTIONS[1:]), context_of(vlm, QUESTIONS[:1])
    assert short.prepared.length < long.prepared.length
    for own, other in ((short, long), (long, short)):
        with pytest.raises(
            MethodError, match=r"started for 1 prompts of \d+ positions, but 1 of \d+ are generated from"
        ):
            scores_of(vlm, Renormalise(gain=6.0), own, inputs=dict(other.prepared.inputs))
    with applied(Renormalise(gain=6.0), long):
        cache = vlm.model(**short.prepared.inputs, use_cache=True).past_key_values
        with pytest.raises(MethodError, match="one token is read at position"):
            vlm.model(input_ids=torch.tensor([[9]]), past_key_values=cache)


def test_layers_with_keys_of_another_sequence_are_not_steered(vlm: VLM) -> None:
    from grounding.attention.call import AttentionCall
    from grounding.attention.events import Pass
    from grounding.errors import RecordingError
    from grounding.steering.apply import SteeringHooks
    from grounding.steering.editor import ModulationEditor

    context = context_of(vlm, QUESTIONS[:1])
    length = context.prepared.length
    hooks = SteeringHooks(ModulationEditor(Renormalise(gain=6.0), context), length, 1)
    hooks.begin_pass(Pass(0, length))
    query = torch.randn(1, 8, length, 4)
    for keys in (5, length + 7):
        other = torch.randn(1, 2, keys, 4)
        with pytest.raises(RecordingError, match=f"attends to {keys} keys where the sequence has {length}"):
            hooks.edit(0, AttentionCall(query, other, other, None, 0.5, causal=False))
    own = torch.randn(1, 2, length, 4)
    with pytest.raises(MethodError, match=f"attends from 1 of the {length} positions that are read"):
        hooks.edit(0, AttentionCall(query[:, :, -1:], own, own, None, 0.5, causal=False))
