"""Generate texts through the model's own `generate`, with or without steering."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from grounding.compat import last_logits_option
from grounding.errors import MethodError
from grounding.memory import explain_out_of_memory
from grounding.models.base import VLM
from grounding.models.shared_prefix import shared_prompt
from grounding.models.spelling import end_of_text, end_tokens, spell, until_end
from grounding.numerics import finite_logits
from grounding.steering.base import GenerationContext
from grounding.steering.decoding import Decoding, Generated
from grounding.steering.editor import applied
from grounding.steering.modulation import Modulation
from grounding.text.repeats import repeat_start

if TYPE_CHECKING:
    from PIL import Image

    from grounding.steering.method import Steering

_REMEDY = "use fewer pictures per batch, smaller pictures, --dtype bfloat16, or a smaller model"


def generate(
    vlm: VLM,
    images: Sequence[Image.Image],
    questions: Sequence[str],
    steering: Steering | None = None,
    decoding: Decoding | None = None,
    streamer: Any = None,
    *,
    share_prefix: bool = False,
) -> list[Generated]:
    """Answer one batch of questions about images.

    The random state of the process is restored afterwards.

    Args:
        vlm: the model.
        images: RGB images, one per question.
        questions: one per image.
        steering: the steering method; None runs the model unsteered.
        decoding: settings of `generate`; the defaults where None.
        streamer: a transformers streamer that receives every new token; for a batch of one.
        share_prefix: run what the questions of one picture have in common once; only for models that
            `grounding.models.shared_prefix.why_not_shared` has no objection to, and without steering, which edits that
            run too.

    Returns:
        One text per question, in order.

    Raises:
        ExpressionError: a question is empty or cannot be tokenised.
        MethodError: the steering method does not fit the model or the decoding.
        ModelError: the model cannot run, for example out of memory, or its output is not finite.
    """
    decoding = decoding or Decoding()
    prepared = vlm.prepare_questions(images, questions)
    context = GenerationContext(vlm, images, questions, prepared, decoding)
    with (
        torch.random.fork_rng(devices=range(torch.cuda.device_count())),
        explain_out_of_memory(f"generating with {vlm.name}", _REMEDY),
        torch.inference_mode(),
        finite_logits(vlm.model, vlm.name, sampling=decoding.do_sample),
        ExitStack() as stack,
    ):
        torch.manual_seed(decoding.seed)
        overrides = [stack.enter_context(applied(step, context)) for step in (steering.steps if steering else ())]
        processors = [processor for override in overrides for processor in override.processors]
        options: dict[str, Any] = {
            "max_new_tokens": decoding.max_new_tokens,
            "num_beams": decoding.num_beams,
            "do_sample": decoding.do_sample,
            "pad_token_id": vlm.tokenizer.pad_token_id,
        }
        if decoding.do_sample:
            options |= {"temperature": decoding.temperature, "top_k": decoding.top_k, "top_p": decoding.top_p}
        if processors:
            options["logits_processor"] = _listed(processors)
        if streamer is not None:
            options["streamer"] = streamer
        if overrides:
            options |= last_logits_option(vlm.model)
        for override in overrides:
            options |= override.options
        _refuse_unfit(options, len(images), len(overrides))
        shared = shared_prompt(vlm, images, questions, prepared) if share_prefix and steering is None else None
        inputs, length = (prepared.inputs, prepared.length) if shared is None else (shared.inputs, shared.length)
        if decoding.stop_at_repeats:
            options.setdefault("stopping_criteria", _repeats(vlm, length))
        output = vlm.model.generate(**inputs, **options)
    texts = [_generated(vlm, row, decoding.stop_at_repeats) for row in output[:, length:].tolist()]
    for override in overrides:
        if override.finish is not None:
            texts = [override.finish(text) for text in texts]
    return texts


def check_steering(steering: Steering, vlm: VLM, decoding: Decoding) -> None:
    """Check that a steering method fits a model and a decoding, before anything runs.

    Args:
        steering: the method; a step that has a method `check` of model and decoding checks itself.
        vlm: the model.
        decoding: settings of `generate`.

    Raises:
        MethodError: layers, heads, gains or the way of decoding do not fit.
    """
    for step in steering.steps:
        if isinstance(step, Modulation):
            step.check(vlm)
            layers = vlm.with_rows(step.layers.chosen(vlm.layer_count), step.attention(vlm))
            step.heads.strengths(layers, vlm.layer_count, vlm.head_count)
        elif hasattr(step, "check"):
            step.check(vlm, decoding)


def searches(steering: Steering | None) -> bool:
    """Whether a step follows several texts at once, so that there is no newest token to stream."""
    return steering is not None and any(getattr(step, "searches", False) for step in steering.steps)


def _refuse_unfit(options: dict[str, Any], elements: int, steps: int) -> None:
    if "streamer" in options and (options["num_beams"] > 1 or "custom_generate" in options):
        raise MethodError(
            "a search over several texts has no newest token to stream: decode with one beam, or all at once"
        )
    if "custom_generate" in options and elements > 1 and steps > 1:
        raise MethodError(
            "a step with a loop of its own runs one picture after the other, where the method's other steps expect the "
            f"whole batch: give one picture at a time instead of {elements}"
        )


def _listed(processors: Sequence[Any]) -> Any:
    from transformers import LogitsProcessorList

    return LogitsProcessorList(processors)


def _repeats(vlm: VLM, prompt: int) -> Any:
    """A stopping criterion (transformers' kind) for rows that repeat themselves behind the prompt."""
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Repeats(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            texts = vlm.tokenizer.batch_decode(input_ids[:, prompt:].tolist(), skip_special_tokens=True)
            return torch.tensor([repeat_start(text) is not None for text in texts], device=input_ids.device)

    return StoppingCriteriaList([Repeats()])


def _generated(vlm: VLM, ids: list[int], stop_at_repeats: bool) -> Generated:
    if stop_at_repeats:
        text, spans = spell(vlm.tokenizer, until_end(vlm.model, ids))
        start = repeat_start(text)
        if start is not None:
            return Generated(text[:start].strip(), tuple(ids[: _tokens_before(spans, start)]), False, True)
    stop = end_of_text(ids, end_tokens(vlm.model))
    kept = ids if stop is None else ids[: stop + 1]
    text = vlm.tokenizer.decode(kept, skip_special_tokens=True).strip()
    return Generated(text, tuple(kept), stop is not None)


def _tokens_before(spans: Sequence[tuple[int, int]], end: int) -> int:
    """How many of the first tokens write nothing from character `end` on, except for blanks before it."""
    return next((index for index, (_, stop) in enumerate(spans) if stop > end), len(spans))
