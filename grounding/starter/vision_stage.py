"""Train the vision tower, the first stage, by linear read-outs on every cell.

The targets of a cell are the shape, colour, size and pattern of its object, the object's outline inside the cell, the
cell of the object's centre, and the cell's own position; the target of the class token is which coloured shapes are
present. The read-outs are discarded after training; the language model reads the features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grounding.scenes.drawing import COLOURS, PATTERNS, SHAPES, SIZES
from grounding.scenes.language import CELLS
from grounding.starter.dataset import NOTHING, SUBCELLS, SceneArrays

_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's normalisation, as in the processor
_STD = (0.26862954, 0.26130258, 0.27577711)
_CLASSES = {"shape": len(SHAPES), "colour": len(COLOURS), "size": len(SIZES), "pattern": len(PATTERNS)}
_BACKGROUND_WEIGHT, _OUTLINE_WEIGHT = 0.3, 4.0  # outlines supervise edges independently of colour
_CENTRE_WEIGHT, _PLACE_WEIGHT, _PRESENCE_WEIGHT = 0.5, 0.1, 0.5


@dataclass(frozen=True)
class CellLabels:
    """Targets of the cells of B pictures.

    Attributes:
        attributes: int64 [B, CELLS * CELLS, 4], shape, colour, size and pattern counted from 1; 0 for background.
        outline: float32 [B, CELLS * CELLS, SUBCELLS * SUBCELLS] in [0, 1], the covered share of each part of the cell.
        centre: int64 [B, CELLS * CELLS, 2], column and row of the shown object's centre, -100 for background.
        presence: float32 [B, shapes * colours], 1 where that coloured shape is in the picture.
    """

    attributes: Tensor
    outline: Tensor
    centre: Tensor
    presence: Tensor


def normalise(pixels: np.ndarray) -> Tensor:
    """Convert uint8 [B, S, S, 3] to the normalised float [B, 3, S, S] that the tower reads."""
    scaled = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(_MEAN).view(1, 3, 1, 1)) / torch.tensor(_STD).view(1, 3, 1, 1)


def labels_of(scenes: SceneArrays, rows: np.ndarray) -> CellLabels:
    """Return the targets of the scenes in `rows`."""
    owner = torch.from_numpy(scenes.owner[rows]).long()  # [B, CELLS * CELLS]
    kinds = torch.from_numpy(scenes.kinds[rows]).long()  # [B, 6, 4]
    centres = torch.from_numpy((scenes.centres[rows] * CELLS).astype(np.int64))  # [B, 6, 2]
    shown = (owner != NOTHING).unsqueeze(-1)
    index = owner.masked_fill(owner == NOTHING, 0).unsqueeze(-1)
    attributes = torch.where(shown, kinds.gather(1, index.expand(-1, -1, 4)) + 1, 0)
    centre = torch.where(shown, centres.gather(1, index.expand(-1, -1, 2)), -100)
    outline = torch.from_numpy(scenes.outline[rows]).float() / 255
    presence = torch.zeros(len(rows), len(SHAPES) * len(COLOURS))
    pairs = kinds[:, :, 0] * len(COLOURS) + kinds[:, :, 1]
    for row, (present, shape) in enumerate(zip(pairs, kinds[:, :, 0], strict=True)):
        presence[row, present[shape != NOTHING]] = 1
    return CellLabels(attributes, outline, centre, presence)


class CellReader(nn.Module):
    """Linear read-outs over the tower's features, used in training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attributes = nn.ModuleDict({name: nn.Linear(width, count + 1) for name, count in _CLASSES.items()})
        self.outline = nn.Linear(width, SUBCELLS**2)
        self.centre = nn.Linear(width, 2 * CELLS)
        self.place = nn.Linear(width, 2 * CELLS)
        self.presence = nn.Linear(width, len(SHAPES) * len(COLOURS))

    def forward(self, hidden: Tensor, labels: CellLabels) -> tuple[Tensor, dict[str, float]]:
        """Return the loss, and per attribute the accuracy on object cells.

        Args:
            hidden: [B, 1 + CELLS * CELLS, width], the class token first.
            labels: the targets.
        """
        cells = hidden[:, 1:]
        loss = hidden.new_zeros(())
        accuracy = {}
        on_object = labels.attributes[..., 0] > 0
        for i, (name, head) in enumerate(self.attributes.items()):
            logits, truth = head(cells), labels.attributes[..., i]
            weights = logits.new_ones(logits.shape[-1])
            weights[0] = _BACKGROUND_WEIGHT
            loss = loss + F.cross_entropy(logits.flatten(0, 1), truth.flatten(), weights)
            accuracy[name] = (logits.argmax(-1) == truth)[on_object].float().mean().item()
        loss = loss + _OUTLINE_WEIGHT * F.binary_cross_entropy_with_logits(self.outline(cells), labels.outline)
        centre = self.centre(cells).unflatten(-1, (2, CELLS))
        loss = loss + _CENTRE_WEIGHT * F.cross_entropy(centre.flatten(0, 2), labels.centre.flatten(), ignore_index=-100)
        accuracy["centre"] = (centre.argmax(-1) == labels.centre).all(-1)[on_object].float().mean().item()
        place = self.place(cells).unflatten(-1, (2, CELLS))
        index = torch.arange(CELLS * CELLS, device=hidden.device)
        truth = torch.stack([index % CELLS, index // CELLS], dim=-1).expand(len(hidden), -1, -1)
        loss = loss + _PLACE_WEIGHT * F.cross_entropy(place.flatten(0, 2), truth.flatten())
        loss = loss + _PRESENCE_WEIGHT * F.binary_cross_entropy_with_logits(
            self.presence(hidden[:, 0]), labels.presence
        )
        return loss, accuracy
