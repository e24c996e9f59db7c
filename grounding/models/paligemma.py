"""PaliGemma: one square view of the whole picture before a short task in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from PIL import Image

from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.chat import Rendered, placed
from grounding.models.geometry import square_grids, whole
from grounding.models.own_words import OwnWords
from grounding.models.picture import Picture
from grounding.types import IntArray


class PaliGemma(VLM):
    """PaliGemma and PaliGemma 2.

    There is no chat: the processor writes the pictures, `<bos>`, the task and a line end. All tokens of this prompt see
    each other, so that image tokens have rows over later words too; a generated text is causal. The picture is squeezed
    into a square. PaliGemma 2 caps its attention logits, which torch's kernel cannot: it is loaded with the eager one.

    Notes:
        The checkpoints are trained on tasks with a prefix, of which `segment` is the one whose words name a thing; of
        the captions, the mix checkpoints know `caption` (ai.google.dev/gemma/docs/paligemma, prompt and system
        instructions).
    """

    model_types = ("paligemma",)
    family_words = OwnWords(prompt="segment {expression}", describe="caption en", brief="")
    text_types: ClassVar[Mapping[str, int]] = {"token_type_ids": 1}

    def render(self, template: str, expression: str, pictures: int) -> Rendered:
        """The prompt as the processor completes it."""
        start = self.image_token * pictures + str(self.tokenizer.bos_token)
        return placed(lambda text: f"{start}{text}\n", template, expression)

    def given_text(self, rendered: Rendered) -> str:
        """The prompt without what the processor adds."""
        return rendered.text.replace(str(self.tokenizer.bos_token), "", 1).removesuffix("\n")

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """One square grid; see `VLM.grids`."""
        return square_grids(positions, [whole(picture.size)], self.name)

    def _processed(self, pictures: Sequence[Sequence[Image.Image]], rendered: Sequence[Rendered]) -> Mapping[str, Any]:
        batch = dict(super()._processed(pictures, rendered))
        batch.pop("labels", None)  # for training, which is not asked for here
        return batch

    def _adds_special_tokens(self, text: str) -> bool:
        return False
