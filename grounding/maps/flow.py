"""Follow attention through the layers: rows of the flow in place of the layers' and heads' own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from grounding.attention_flow import AttentionFlow
from grounding.errors import MethodError
from grounding.layers import LayerRange
from grounding.maps.base import WORD_TO_IMAGE, Part, Stage, skipped_note
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, Direction, StageReport


@dataclass(frozen=True)
class Flow(Stage, AttentionFlow, LayerRange):
    """Read the attention flow, which is computed as the model runs, [1, 1, 1, T, K].

    The numbers of the flow are documented in `AttentionFlow`, those of the layers that it runs through in `LayerRange`.
    """

    name: ClassVar[str] = "flow"
    spends: ClassVar[frozenset[Part]] = frozenset({"layers", "heads"})
    requires: ClassVar[frozenset[Part]] = frozenset({"layers", "heads", "background"})
    first: ClassVar[bool] = True
    directions: ClassVar[frozenset[Direction]] = WORD_TO_IMAGE

    def __post_init__(self) -> None:
        AttentionFlow.__post_init__(self)
        LayerRange.__post_init__(self)

    @property
    def rule(self) -> AttentionFlow:
        """How attention is joined."""
        return AttentionFlow(**{field.name: getattr(self, field.name) for field in fields(AttentionFlow)})

    def needs(self, layer_count: int | None) -> RecordSpec:
        """The flow, through the chosen layers where the model's depth is known."""
        return RecordSpec(layers=None if layer_count is None else self.chosen(layer_count), flow=self.rule)

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Check that the maps are of this flow, and leave them as they are.

        Raises:
            MethodError: they are not.
        """
        if maps.flow != self.rule:
            seen = "another attention flow" if maps.flow is not None else "weights of layers and heads"
            raise MethodError(
                f"stage 'flow' reads an attention flow, which is computed as the model runs, but the maps hold {seen}: "
                "record them again (Method.record_spec() names what a method needs)"
            )
        heads = {"mean": "all heads alike", "max_all": "heads by their largest weight on any token"}
        joined = heads.get(self.head_weights, "heads by their largest weight on the image")
        return maps, StageReport(self.name, 0.0, f"attention followed through the layers, {joined}{skipped_note(maps)}")
