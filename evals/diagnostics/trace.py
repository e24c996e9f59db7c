"""Generation with its attention looked at: what each token was predicted from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evals.diagnostics.shares import ShareTally, Spans
from grounding.attention.recorder import record
from grounding.attention.request import RowRequest
from grounding.models.base import VLM
from grounding.models.maps import spell
from grounding.steering.decoding import Decoding
from grounding.steering.generate import generate
from grounding.text.align import Span
from grounding.types import FloatArray, IntArray, RecordSpec

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from grounding.steering.method import Steering

TAU = 20.0  # Kang et al., ICLR 2025: an image key is a sink where phi is at least this
SKIP_LAYERS = 2  # their code leaves the first two layers alone


@dataclass(frozen=True)
class Sinks:
    """Which image keys count as visual sinks.

    Attributes:
        tau: threshold on phi, the largest RMS-normalised entry of a layer's input in its sink dimensions (Kang et al.,
            ICLR 2025, section 3; the dimensions are found from the first token, which is our choice).
        skip_layers: first layers without sinks.
    """

    tau: float = TAU
    skip_layers: int = SKIP_LAYERS


@dataclass(frozen=True)
class Trace:
    """One generated text and the attention that each of its T tokens was predicted from.

    Attributes:
        text: the text.
        tokens: T pieces of it.
        spans: T character spans in `text`.
        finished: whether it ended by itself.
        segments: [T, L, H, 4] shares of system, image, instruction and generated keys; they sum to 1.
        first_key: [T, L, H] share of the first real token, the usual sink; it is part of the system's share.
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
    sinks: Sinks | None = None,
    budget_bytes: int = 2 << 30,
) -> Trace:
    """Generate one text and sum up the attention of every step while it runs; the kernel and the text stay the same.

    A token's row is the one of the pass that predicted it: its query is the prompt's last token for the first one and
    the token before for the others. All heads and layers are looked at, but only sums are kept.

    Args:
        vlm: the model.
        image: an RGB picture.
        question: what to ask.
        steering: how to steer; None is the model as it is.
        decoding: how to generate; one beam.
        sinks: what counts as a visual sink.
        budget_bytes: the most that one step's rows may hold.

    Raises:
        BudgetError: one step's rows need more than the budget.
        RecordingError: the way of generating cannot be recorded, as with beams or a second pass per token.
    """
    decoding, sinks = decoding or Decoding(), sinks or Sinks()
    prepared = vlm.prepare_questions([image], [question])
    span = Spans(prepared.image_positions[0], prepared.padding[0], prepared.length)
    tally = ShareTally(span)
    request = RowRequest(
        queries=((prepared.length - 1,),),
        decode=True,
        decode_steps=1,
        spec=RecordSpec(residual_sinks=True, budget_bytes=budget_bytes),
    )

    def take(rows: list[Tensor]) -> None:
        tally.add(rows[0][:, :, 0].numpy())

    with record(vlm.model, request, on_step=take) as recording:
        written = generate(vlm, [image], [question], steering, decoding)[0]
    assert recording.residual_sinks is not None
    tally.add(recording.prefill[0][:, :, 0].numpy(), before=True)
    phi = recording.residual_sinks[0][:, span.image].numpy()  # [L, n]
    marked = (phi >= sinks.tau) & (np.arange(len(phi))[:, None] >= sinks.skip_layers)
    text, spans = spell(vlm.tokenizer, written.token_ids)
    return Trace(
        text=text,
        tokens=tuple(text[start:end] for start, end in spans),
        spans=spans,
        finished=written.finished,
        segments=tally.segments(),
        first_key=tally.first_key(),
        sink_share=(tally.image_keys() * marked[:, None]).sum(axis=-1),
        sink_counts=marked.sum(axis=-1).astype(np.int64),
        image_keys=len(span.image),
    )
