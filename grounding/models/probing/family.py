"""A model without a family of its own: its pictures are laid out by probing, its words found by its tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from grounding.attention.introspect import decoder_stack
from grounding.errors import ModelError
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.chat import Rendered, placed, render
from grounding.models.picture import Picture, written_texts
from grounding.models.probing.additions import Additions
from grounding.models.probing.cache import layout_key, read_layout, weights_hash, write_layout
from grounding.models.probing.grids import find_grids
from grounding.models.probing.movement import BANDS, GREY, Movement, measure
from grounding.text.parse import NounFinder
from grounding.types import IntArray

THINKING = ("enable_thinking", "thinking")
"""Variables by which chat templates are told not to think."""
ADDED_SIZE = (224, 224)  # px of the picture beside which a processor shows what it adds to a prompt
Size = tuple[int, int]
"""(width, height) in pixels."""


class Probed(VLM):
    """A model of any class whose processor writes one token for each cell of a picture.

    The first picture of each size is probed (see `grounding.models.probing.movement`), and the layout is kept in memory
    and in the user's cache folder. Of several pictures in one prompt each is probed in a prompt of two. What the model
    does not show is refused: queries that read the whole picture, or image features beside the decoder's input.

    Attributes:
        bands: most bands of a picture that are changed one by one along each axis.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    nests_pictures = True
    bands: int = BANDS

    def __init__(self, model: Any, processor: Any, name: str = "", finder: NounFinder | None = None) -> None:
        super().__init__(model, processor, name, finder)
        if not self._has_chat:
            bare = f"{self.name} has no chat template: its pictures stand before the bare words of a prompt."
            self.notice = f"{self.notice} {bare}" if self.notice else bare

    @property
    def _has_chat(self) -> bool:
        return bool(getattr(self.processor, "chat_template", None))

    @cached_property
    def image_token(self) -> str:
        """That of the processor's special tokens which its chat template writes once for a picture.

        Without a chat template it is the processor's image token.
        """
        content = [{"type": "image"}, {"type": "text", "text": ""}]
        chat = [{"role": "user", "content": content}]
        written = None
        if self._has_chat:
            written = str(self.processor.apply_chat_template(chat, tokenize=False, **self._options))
        for owner in (self.processor, self.tokenizer):
            for name in ("image_token", "boi_token", "start_image_token"):
                token = getattr(owner, name, None)
                if isinstance(token, str) and token and (written is None or written.count(token) == 1):
                    return token
        source = "has no chat template and its processor" if written is None else "has a chat template that"
        raise ModelError(
            f"{self.name} {source} names none of its image tokens once for a picture, so probing cannot place words "
            "beside it: this model needs a family of its own"
        )

    @cached_property
    def image_token_id(self) -> int:
        """The id that the model's config names, or that of `image_token`."""
        named = config_image_token_id(self.model.config)
        return super().image_token_id if named is None else named

    def render(self, template: str, expression: str, pictures: int) -> Rendered:
        """As `VLM.render`, with what the processor adds; a template that knows of thinking is told not to."""
        return self._additions.put(self._rendered(template, expression, pictures), self.image_token)

    def given_text(self, rendered: Rendered) -> str:
        """The prompt without what the processor adds."""
        return self._additions.taken(rendered.text, self.image_token)

    def _rendered(self, template: str, expression: str, pictures: int) -> Rendered:
        if self._has_chat:
            return render(self.processor, template, expression, self.image_token, pictures, self._options)
        return placed(lambda text: self.image_token * pictures + text, template, expression, pictures)

    @cached_property
    def _additions(self) -> Additions:
        given = self._rendered("{expression}", "it", 1).text
        grey = [[Image.new("RGB", ADDED_SIZE, GREY)]]
        with self._explained(1):
            options: dict[str, Any] = {"return_tensors": "pt", "add_special_tokens": False, **self._reports}
            batch = self.processor(images=grey, text=[given], **options)
        ids = batch["input_ids"][0].tolist()
        (replacement,) = written_texts(batch, 0, self.image_token, 1, ids.count(self.image_token_id))
        return Additions.found(ids, given, self.image_token, replacement, self.tokenizer)

    def _adds_special_tokens(self, text: str) -> bool:
        return not self._additions and super()._adds_special_tokens(text)

    @property
    def decoder(self) -> Any:
        """The language model's module whose `.layers` are the decoder blocks, however deep it lies."""
        return decoder_stack(self.model).module

    @property
    def _options(self) -> dict[str, Any]:
        known = set(re.findall(r"\w+", str(self.processor.chat_template)))
        return {name: False for name in THINKING if name in known}

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """The grids that probing finds; see `VLM.grids`."""
        found = self._layout(picture.size, picture.alone)
        last = max(int(grid.positions.max()) for grid in found)
        if last >= len(positions):
            raise ModelError(
                f"{self.name} has {len(positions)} image tokens for a picture of {picture.size[0]}x{picture.size[1]} "
                f"px, but had more than {last} when it was probed: give one picture for each prompt"
            )
        return tuple(replace(one, positions=positions[one.positions]) for one in found)

    def _layout(self, size: Size, alone: bool) -> tuple[ImageGrid, ...]:
        if (size, alone) not in self._layouts:
            key = layout_key(self._hash, ProbePrompt(self, size, alone).encode([_ramps(size)]), size, self.bands)
            grids = read_layout(key)
            if grids is None:
                grids, _ = probe(self, size, alone, self.bands)
                write_layout(key, grids)
            self._layouts[size, alone] = grids
        return self._layouts[size, alone]

    @cached_property
    def _layouts(self) -> dict[tuple[Size, bool], tuple[ImageGrid, ...]]:
        return {}

    @cached_property
    def _hash(self) -> str:
        return weights_hash(self.model)

    def _processed(self, pictures: Sequence[Sequence[Image.Image]], rendered: Sequence[Rendered]) -> Mapping[str, Any]:
        with self._explained(len(pictures[0])):
            batch = dict(super()._processed(pictures, rendered))
        batch.pop("labels", None)  # for training
        return batch

    @contextmanager
    def _explained(self, pictures: int) -> Iterator[None]:
        """Say in one sentence what a processor fails with."""
        try:
            yield
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ModelError(
                f"the processor of {self.name} does not take {pictures} pictures in a prompt of its own chat template "
                f"({one_line(error)}): give other pictures, or a model with a family of its own"
            ) from error


def probe(vlm: VLM, size: Size, alone: bool = True, bands: int = BANDS) -> tuple[tuple[ImageGrid, ...], Movement]:
    """Find the layout of pictures of one size by changing a picture band by band.

    Args:
        vlm: a model of any family; what the family says of cells is not used.
        size: (width, height) in pixels.
        alone: whether the picture is the only one of its prompt; else it is the first of two.
        bands: most bands along each axis.

    Returns:
        The grids, with indices among the picture's image tokens as positions; and what was measured.

    Raises:
        ModelError: the model does not show where its cells lie.
    """
    prompt = ProbePrompt(vlm, size, alone)
    ids = prompt.encode([Image.new("RGB", size, GREY)])["input_ids"][0].cpu().numpy()
    positions: IntArray = np.flatnonzero(ids == vlm.image_token_id)
    try:
        movement = measure(vlm.model, prompt.encode, vlm.image_token_id, size, bands)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ModelError(
            f"{vlm.name} does not take what its processor ({type(vlm.processor).__name__}) makes of a picture "
            f"({one_line(error)}): load the model with its own processor"
        ) from error
    if not alone:
        positions, movement = positions[: len(positions) // 2], movement.first_half()
    grids = find_grids(movement, positions, vlm.name)
    return tuple(replace(one, positions=np.searchsorted(positions, one.positions)) for one in grids), movement


@dataclass(frozen=True)
class ProbePrompt:
    """The prompt that pictures of one size are probed in.

    Attributes:
        vlm: the model.
        size: (width, height) in pixels.
        alone: whether the picture is the only one; else a grey one of the same size follows it.
    """

    vlm: VLM
    size: Size
    alone: bool

    def encode(self, images: list[Image.Image]) -> dict[str, torch.Tensor]:
        """The model's inputs for some pictures, each in the prompt."""
        beside = [] if self.alone else [Image.new("RGB", self.size, GREY)]
        rendered = self.vlm.render(self.vlm.default_prompt, "it", 1 + len(beside))
        return self.vlm.processed([[image, *beside] for image in images], [rendered] * len(images))


def _ramps(size: Size) -> Image.Image:
    """A picture whose colours say the place."""
    down = Image.linear_gradient("L").resize(size)
    across = Image.linear_gradient("L").transpose(Image.Transpose.ROTATE_90).resize(size)
    return Image.merge("RGB", (across, down, down))


def one_line(error: Exception) -> str:
    """The beginning of an error's text, as one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def config_image_token_id(config: Any) -> int | None:
    """The id of image tokens that a model's config names, or None."""
    for name in ("image_token_id", "image_token_index"):
        if isinstance(found := getattr(config, name, None), int):
            return found
    return None
