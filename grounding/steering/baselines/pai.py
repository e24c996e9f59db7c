"""PAI's text-only guidance: less of what the model would say without having seen the picture.

PAI (ECCV 2024, arXiv 2407.21771) has a second part, which adds `a |S|` to the attention logits of image keys. It is a
step of its own; a file that names both is the whole method. While the guidance is on, the authors' code leaves the
prompt's own pass, and every pass of the text-only branch, without that part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from grounding.errors import MethodError
from grounding.models.base import Prepared
from grounding.steering.base import GenerateOverrides, GenerationContext
from grounding.steering.baselines.contrast import Branch, Contrast, plausible


@dataclass(frozen=True)
class TextGuidance:
    """`gamma (s - u) + u` of log-probabilities with the picture (s) and without (u); PAI, section 3, and its code.

    The scores are not normalised again, as in the authors' code. Their code cuts nothing at gamma 1; neither does this
    step, which then runs no second pass and changes nothing.

    Attributes:
        gamma: strength; 1 is none.
        cut: tokens less likely than this share of the likeliest, with the picture, are out, in [0, 1].
    """

    gamma: float = 1.1
    cut: float = 0.1

    name: ClassVar[str] = "text-guidance"

    def __post_init__(self) -> None:
        if self.gamma < 0 or not 0 <= self.cut <= 1:
            raise MethodError(
                f"text-guidance: gamma {self.gamma} and cut {self.cut} were given, expected gamma >= 0 and cut "
                "in [0, 1]"
            )

    @contextmanager
    def applied(self, context: GenerationContext) -> Iterator[GenerateOverrides]:
        """See `Intervention`; adds one processor."""
        if self.gamma == 1:
            yield GenerateOverrides()
        else:
            branch = Branch(context.vlm.model, text_only(context.prepared))
            yield GenerateOverrides((Contrast(self.combine, branch),))

    def combine(self, own: Tensor, other: Tensor | None) -> Tensor:
        """New scores [R, V] from log-probabilities [R, V] with and without the picture."""
        assert other is not None
        return plausible(self.gamma * (own - other) + other, own, self.cut)


def text_only(prepared: Prepared) -> dict[str, Tensor]:
    """The prompts without their image tokens, [B, M], padded on the left anew.

    What a family writes around its image tokens stays.
    """
    ids = prepared.inputs["input_ids"]
    rows, masks = [], []
    for row, layout in zip(ids, prepared.layouts, strict=True):
        kept = torch.ones(len(row), dtype=torch.bool, device=row.device)
        kept[: layout.padding] = False
        kept[torch.as_tensor(layout.image, device=row.device)] = False
        rows.append(row[kept])
        masks.append(torch.ones_like(rows[-1]))
    padded = [pad_sequence(part, batch_first=True, padding_side="left") for part in (rows, masks)]
    return {"input_ids": padded[0], "attention_mask": padded[1]}
