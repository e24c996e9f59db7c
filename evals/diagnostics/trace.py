"""Generation with the attention that each token was predicted from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evals.diagnostics.shares import ShareTally
from grounding.attention.recorder import record
from grounding.attention.request import RowRequest
from grounding.attention.sinks import SinkRule
from grounding.models.base import VLM
from grounding.models.spelling import spell
from grounding.record_spec import RecordSpec
from grounding.steering.decoding import Decoding
from grounding.steering.generate import generate
from grounding.text.align import Span
from grounding.types import FloatArray, IntArray

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from grounding.steering.method import Steering


@dataclass(frozen=True)
class Trace:
    """One generated text and the attention that each of its T tokens was predicted from.

    Attributes:
        text: the text.
        tokens: T pieces of it.
        spans: T character spans in `text`.
        finished: whether an end token was generated.
        segments: [T, L, H, 4] shares of system, image, instruction and generated keys; they sum to 1.
        first_key: [T, L, H] share of the first real token, the usual attention sink; part of the system's share.
        sink_share: [L, H] share on visual sinks, mean over tokens; part of the image's share.
        sink_counts: [L] how many image keys are sinks.
        image_keys: how many image keys there are.
    """

    text: str
    tokens: tuple[str, ...]
    spans: tuple[Span, ...]
    finished: bool
    segments: FloatArray
    first_key: FloatArray
    sink_share: FloatArray
    sink_counts: IntArray
    image_keys: int


def trace(
    vlm: VLM,
    image: Image.Image,
    question: str,
    steering: Steering | None = None,
    decoding: Decoding | None = None,
    sinks: SinkRule | None = None,
    budget_bytes: int = 2 << 30,
) -> Trace:
    """Generate one text and sum up the attention of every step. Kernel and text are those of an unrecorded run.

    A token's row is that of the pass which predicted it: its query is the prompt's last token for the first token and
    the previous token for the others. All heads and layers are recorded, and only sums are kept.

    Args:
        vlm: the model.
        image: an RGB picture.
        question: the question.
        steering: how to steer; None for the unsteered model.
        decoding: how to generate; one beam.
        sinks: which image keys are visual sinks.
        budget_bytes: most bytes of one step's rows.

    Raises:
        BudgetError: one step's rows need more than the budget.
        RecordingError: the decoding cannot be recorded: beam search, or a second pass per token.
    """
    decoding, sinks = decoding or Decoding(), sinks or SinkRule()
    prepared = vlm.prepare_questions([image], [question])
    layout = prepared.layouts[0]
    tally = ShareTally(layout)
    request = RowRequest(
        queries=((layout.length - 1,),),
        decode=True,
        decode_steps=1,
        spec=RecordSpec(residual_sinks=True, budget_bytes=budget_bytes),
    )

    def add(rows: list[Tensor]) -> None:
        tally.add(rows[0][:, :, 0].numpy())

    with record(vlm.model, request, on_step=add) as recording:
        generated = generate(vlm, [image], [question], steering, decoding)[0]
    assert recording.residual_sinks is not None
    tally.add(recording.prefill[0][:, :, 0].numpy(), before=True)
    phi = recording.residual_sinks[0][:, layout.image].numpy()  # [L, n]
    marked = np.stack([sinks.sinks(row, layer) for layer, row in enumerate(phi)])  # [L, n] bool
    text, spans = spell(vlm.tokenizer, generated.token_ids)
    return Trace(
        text=text,
        tokens=tuple(text[start:end] for start, end in spans),
        spans=spans,
        finished=generated.finished,
        segments=tally.segments(),
        first_key=tally.first_key(),
        sink_share=(tally.image_keys() * marked[:, None]).sum(axis=-1),
        sink_counts=marked.sum(axis=-1).astype(np.int64),
        image_keys=len(layout.image),
    )
