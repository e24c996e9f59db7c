"""PAI's text-only guidance: contrast the prediction with that of the prompt without its image.

PAI (ECCV 2024, arXiv 2407.21771) has a second part, the step `pai`, which adds `a |S|` to the attention logits of image
keys; a file with both steps is the whole method. With guidance, the authors' code applies that part neither to the
prompt's pass nor to the text-only branch.
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
    """Score tokens by `gamma (s - u) + u`, log-probabilities with (s) and without (u) the image (PAI, section 3, code).

    As in the authors' code, the scores are not renormalised, and gamma = 1 disables the step, its cut included; the
    second branch is then not run.

    Attributes:
        gamma: guidance strength, >= 0; 1 disables the step.
        cut: exclude tokens whose probability with the image is below this share of the most probable one's, in [0, 1].

    Raises:
        MethodError: a value is out of range.
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
        """Add one logits processor; see `Intervention`."""
        if self.gamma == 1:
            yield GenerateOverrides()
        else:
            branch = Branch(context.vlm.model, text_only(context.prepared))
            yield GenerateOverrides((Contrast(self.combine, branch),))

    def combine(self, own: Tensor, other: Tensor | None) -> Tensor:
        """Compute new scores [R, V] from log-probabilities [R, V] with and without the image."""
        assert other is not None
        return plausible(self.gamma * (own - other) + other, own, self.cut)


def text_only(prepared: Prepared) -> dict[str, Tensor]:
    """Remove the image tokens from the prompts and pad them on the left again.

    Tokens that mark the start and end of an image are kept.

    Returns:
        `input_ids` and `attention_mask`, both [B, M].
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
