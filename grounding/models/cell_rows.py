"""Keep what cells carry through a recorded pass: the vision tower's features and the last hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from grounding.attention.budget import readable
from grounding.errors import BudgetError, RecordingError
from grounding.layout import TokenLayout
from grounding.record_spec import RecordSpec
from grounding.types import Word

_BYTES = 4  # float32


class Seeing(Protocol):
    """What is needed of a `VLM`."""

    model: Any
    name: str

    @property
    def decoder(self) -> Any:
        """The language model."""
        ...

    @property
    def projector(self) -> nn.Module | None:
        """See `VLM.projector`."""
        ...

    @property
    def image_token_id(self) -> int:
        """The id of an image token."""
        ...


@dataclass
class CellRows:
    """What was kept of one pass; empty where it was not asked for.

    Attributes:
        features: per element [K, E] features of the image keys, in their order; float32 on the CPU.
        hidden: per element [K, D] last hidden states at the image keys, on the model's device.
        ids: [B, N] tokens of the pass.
        head: the language model's output embeddings.
    """

    features: list[Tensor] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)
    ids: Tensor | None = None
    head: Any = None

    def logits(self, element: int, words: Sequence[Word]) -> Tensor | None:
        """The words' logits [T, K] at the image keys, float32 on the CPU; None if they were not recorded.

        The logit lens: what the language model's head gives a word's tokens where the picture stands, averaged over
        the tokens.
        """
        if not self.hidden:
            return None
        assert self.ids is not None
        states, found = self.hidden[element], []
        with torch.inference_mode():
            for word in words:
                tokens = self.ids[element, list(word.positions)].to(self.head.weight.device)
                rows = self.head.weight[tokens].to(states)
                bias = 0.0 if self.head.bias is None else self.head.bias[tokens].to(states)[:, None]
                found.append((rows @ states.T + bias).mean(dim=0))
            return torch.stack(found).float().cpu()


@contextmanager
def cell_rows(
    vlm: Seeing, inputs: Mapping[str, Tensor], layouts: Sequence[TokenLayout], spec: RecordSpec
) -> Iterator[CellRows]:
    """Keep features and hidden states of the pass that runs inside the block, where the spec asks for them.

    Features are the rows that enter the model's projector, averaged where several make one image token, or, of a family
    that names no projector, the image tokens as they enter the language model. Separators between the tokens of a
    picture then have 0. Of a model that reads pictures by cross-attention they are the rows that enter its projector,
    one for each key. They cost one copy.

    Raises:
        BudgetError: the features exceed the spec's budget; raised before the language model runs.
        RecordingError: the projector's rows do not make up the image tokens.
    """
    kept = CellRows()
    keys = [torch.from_numpy(layout.keys) for layout in layouts]

    def keep(rows: Tensor, into: list[Tensor]) -> None:
        """Keep rows [n, E] at the image keys that `into` marks, per element bool [K]; the others get 0."""
        size = sum(len(own) for own in keys) * rows.shape[-1] * _BYTES
        if size > spec.budget_bytes:
            raise BudgetError(
                f"the features of {sum(len(own) for own in keys)} image tokens take {readable(size)}, over the budget "
                f"of {readable(spec.budget_bytes)}: use smaller pictures or fewer per batch, or leave out the stage "
                "that reads them"
            )
        counts = [int(own.sum()) for own in into]
        flat = rows.detach().reshape(-1, rows.shape[-1])
        if not sum(counts) or len(flat) % sum(counts):
            raise RecordingError(
                f"the vision tower of {vlm.name} gives {len(flat)} rows for {sum(counts)} image tokens, so its "
                "features cannot be told apart by cell: leave out the stage that reads them"
            )
        flat = flat.float().reshape(sum(counts), -1, flat.shape[-1]).mean(dim=1).cpu()
        for own, mine in zip(into, flat.split(counts), strict=True):
            kept.features.append(torch.zeros(len(own), flat.shape[-1]).masked_scatter(own[:, None], mine))

    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if layouts[0].cross:
            rows = args[0].reshape(len(keys), -1, args[0].shape[-1])
            own = torch.cat([row[at.to(row.device)] for row, at in zip(rows, keys, strict=True)])
            return keep(own, [torch.ones(len(at), dtype=torch.bool) for at in keys])
        ids = inputs["input_ids"].cpu()
        tokens = [row[at] == vlm.image_token_id for row, at in zip(ids, keys, strict=True)]  # without separators
        keep(args[0] if args else next(iter(kwargs.values())), tokens)

    def embedded(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        embeds = kwargs.get("inputs_embeds") if module is vlm.decoder else args[0]
        if embeds is None or kept.features:
            return  # a decoder that places image features itself shows them to its first layer
        rows = [own[at.to(own.device)] for own, at in zip(embeds, keys, strict=True)]
        keep(torch.cat(rows), [torch.ones(len(at), dtype=torch.bool) for at in keys])

    def leaving(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states = output.last_hidden_state
        kept.hidden = [own[at.to(own.device)].detach() for own, at in zip(states, keys, strict=True)]

    with ExitStack() as undo:
        if spec.features:
            first = vlm.projector
            hooked = (vlm.decoder, vlm.decoder.layers[0]) if first is None else (first,)
            for module in hooked:
                hook = embedded if first is None else entering
                undo.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        if spec.logits:
            kept.ids, kept.head = inputs["input_ids"], vlm.model.get_output_embeddings()
            undo.callback(vlm.decoder.register_forward_hook(leaving).remove)
        yield kept
