"""The adapter between a vision-language model and its words and image cells.

A `VLM` wraps a loaded model and its processor. `prepare` builds the inputs of one batch through the processor's own
chat template and finds words and cells in the token sequence that the processor made, image tokens expanded and left
padding included. It refuses a prompt whose tokens do not agree with its text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from grounding.errors import ModelError
from grounding.layout import ImageGrid, TokenLayout
from grounding.models.chat import Rendered, render
from grounding.models.maps import record_maps
from grounding.models.own_words import OwnWords
from grounding.models.placement import Tokens
from grounding.models.prepared import Prepared, last_word
from grounding.source import SLOT
from grounding.text.parse import NounFinder, parse
from grounding.text.vocabulary import refuse_broken_text, refuse_control_tokens, refuse_unknown
from grounding.text.words import split_words
from grounding.types import AttentionMaps, IntArray, RecordSpec, Word

DEFAULT_PROMPT = "Where is {expression}?"
DEFAULT_QUESTION = "Please describe this image in detail."


class VLM(ABC):
    """A loaded vision-language model; a `grounding.source.MapSource`.

    Args:
        model: a transformers model for image-text generation, in eval mode.
        processor: its processor.
        name: hub id, folder or `starter`, as the user wrote it.
        finder: finds head nouns; `RuleNounFinder` where None.

    Attributes:
        own_words: the words that the checkpoint or its family declares for questions.
        default_prompt: prompt template used where a caller gives none; the model's own, if any.
        default_question: request for a description; the model's own, if any.
        support_threshold: visual support below which a noun of a text is in doubt (`grounding.maps.support`), measured
            on this model: the config's `grounding_support`; None where it has not been measured.
        notice: one sentence that every run with this model must show; the config's `grounding_notice`, or None.

    Raises:
        ModelError: the tokenizer gives no character offsets.
    """

    model_types: ClassVar[tuple[str, ...]]
    family_words: ClassVar[OwnWords] = OwnWords()
    """Words of every checkpoint of the family that declares none of its own."""

    def __init__(self, model: Any, processor: Any, name: str = "", finder: NounFinder | None = None) -> None:
        self.model = model
        self.processor = processor
        self.name = name or str(model.config.name_or_path or model.config.model_type)
        self.finder = finder
        self.own_words = OwnWords.of(model.config, self.family_words)
        self.default_prompt: str = self.own_words.prompt or DEFAULT_PROMPT
        self.default_question: str = self.own_words.describe or DEFAULT_QUESTION
        self.support_threshold: float | None = getattr(model.config, "grounding_support", None)
        self.notice: str | None = getattr(model.config, "grounding_notice", None)
        tokenizer = self.tokenizer
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"the tokenizer of {self.name} ({type(tokenizer).__name__}) gives no character offsets, so words "
                "cannot be found among its tokens: load the model with its fast tokenizer (a tokenizer.json file)"
            )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def device(self) -> torch.device:
        """The device of the input embeddings, where inputs go; also for a model spread over several devices."""
        return self.model.get_input_embeddings().weight.device

    @property
    def decoder(self) -> Any:
        """The language model's module whose `.layers` are the decoder blocks."""
        return self.model.get_decoder()

    @property
    def layer_count(self) -> int:
        """L, decoder layers."""
        return len(self.decoder.layers)

    @property
    def head_count(self) -> int:
        """H, query heads per decoder layer."""
        return int(self.model.config.get_text_config().num_attention_heads)

    @property
    def projector(self) -> nn.Module | None:
        """The module whose input rows are the vision tower's features, for `RecordSpec.features`.

        The rows of all pictures follow each other in the order of their image tokens; an equal number of neighbouring
        rows may make one token. None, the default, where a family's rows do not: its features are then the image tokens
        as they enter the language model, which is the tower's output behind the projector.
        """
        return None

    @property
    def image_token(self) -> str:
        """The text of an image token in a rendered prompt."""
        return str(self.processor.image_token)

    @property
    def image_token_id(self) -> int:
        """The id of `image_token`."""
        return int(self.tokenizer.convert_tokens_to_ids(self.image_token))

    @abstractmethod
    def grids(
        self, index: int, image_size: tuple[int, int], positions: IntArray, inputs: Mapping[str, Any]
    ) -> tuple[ImageGrid, ...]:
        """The grids of one picture.

        Args:
            index: element of the batch.
            image_size: (width, height) of the original picture in pixels.
            positions: (n,) positions of tokens with the id `image_token_id` in the padded sequence.
            inputs: the processor's output for the batch.

        Returns:
            The grids; their positions are among `positions`.

        Raises:
            ModelError: the image tokens do not make up the grid that the picture's size asks for.
        """

    def picture_tokens(
        self, index: int, image_size: tuple[int, int], count: int, inputs: Mapping[str, Any]
    ) -> Sequence[int]:
        """The token ids that the processor puts in place of a prompt's image token.

        A family whose processor writes row, column or tile separators between image tokens overrides this method; the
        default is the image token `count` times. `prepare` compares the ids with those that the processor made.

        Args:
            index: element of the batch.
            image_size: (width, height) of the original picture in pixels.
            count: how many tokens of the processor's output have the id `image_token_id`.
            inputs: the processor's output for the batch.
        """
        return [self.image_token_id] * count

    def check_picture(self, image: Image.Image) -> None:  # noqa: B027 - most families accept every picture
        """Refuse a picture that the image processor cannot take.

        Raises:
            ImageError: the picture's size is outside the processor's limits.
        """

    def maps(
        self,
        images: Sequence[Image.Image],
        expressions: Sequence[str],
        spec: RecordSpec,
        prompt: str | None = None,
    ) -> list[AttentionMaps]:
        """Record the attention maps of one batch; see `grounding.source.MapSource`.

        Raises:
            ExpressionError: see `prepare`.
            ModelError: see `prepare`, or out of memory.
            BudgetError: the rows need more bytes than the spec allows.
            RecordingError: this model's attention cannot be recorded.
        """
        return record_maps(self, self.prepare(images, expressions, prompt), spec)

    def prepare(self, images: Sequence[Image.Image], expressions: Sequence[str], prompt: str | None = None) -> Prepared:
        """Build one batch of pictures with a referring expression each.

        Args:
            images: RGB pictures, one per expression.
            expressions: one per picture.
            prompt: template with one `{expression}`, or a generic prompt without it; `default_prompt` where None.

        Returns:
            The batch, on the model's device.

        Raises:
            ExpressionError: an expression is empty, has stop words only or words outside a closed vocabulary, or
                contains one of the model's control tokens.
            ImageError: see `check_picture`.
            ModelError: tokens, text and image cells do not agree for this model.
        """
        self._check_batch(images, expressions, "expression")
        template = self.default_prompt if prompt is None else prompt
        has_expression = SLOT in template
        # Words first, so that a bad expression is refused before the pictures are resized.
        words = [parse(e, self.finder) if has_expression else split_words(template) for e in expressions]
        rendered = [render(self.processor, template, expression, self.image_token) for expression in expressions]
        return self._encode(images, rendered, words, has_expression)

    def prepare_questions(self, images: Sequence[Image.Image], questions: Sequence[str]) -> Prepared:
        """Build one batch of pictures with a question or an instruction each, to be answered.

        Unlike an expression a question may have stop words only; its words are all words of the text.

        Args:
            images: RGB pictures, one per question.
            questions: one per picture.

        Returns:
            The batch, on the model's device.

        Raises:
            ExpressionError: a question has words outside a closed vocabulary, or contains one of the model's control
                tokens.
            ImageError: see `check_picture`.
            ModelError: tokens, text and image cells do not agree for this model.
        """
        self._check_batch(images, questions, "question")
        rendered = [render(self.processor, SLOT, question, self.image_token) for question in questions]
        return self._encode(images, rendered, [split_words(question) for question in questions], False)

    def _check_batch(self, images: Sequence[Image.Image], texts: Sequence[str], what: str) -> None:
        if len(images) != len(texts) or not images:
            raise ValueError(f"{len(images)} pictures for {len(texts)} {what}s: one picture per {what} is needed")
        for text in texts:
            refuse_broken_text(text)
            refuse_control_tokens(text, self.image_token, self.tokenizer, self.name)
        for image in images:
            self.check_picture(image)

    def _encode(
        self,
        images: Sequence[Image.Image],
        rendered: Sequence[Rendered],
        words: Sequence[Sequence[Word]],
        has_expression: bool,
    ) -> Prepared:
        batch = self.processor(
            images=list(images),
            text=[one.text for one in rendered],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=self._adds_special_tokens(rendered[0].text),
        )
        placed, layouts = [], []
        for index, image in enumerate(images):
            own, layout = self._place(
                index, rendered[index], words[index], (int(image.width), int(image.height)), batch, has_expression
            )
            placed.append(own)
            layouts.append(layout)
        return Prepared(self._to_device(batch), tuple(placed), tuple(layouts))

    def _place(
        self,
        index: int,
        rendered: Rendered,
        words: Sequence[Word],
        image_size: tuple[int, int],
        batch: Mapping[str, Any],
        has_expression: bool,
    ) -> tuple[tuple[Word, ...], TokenLayout]:
        """The words and the layout of one element."""
        ids: IntArray = batch["input_ids"][index].numpy()
        real = batch["attention_mask"][index].numpy().astype(bool)
        if not real[-1]:
            raise ModelError(
                f"the processor of {self.name} padded on the right, expected the left: update transformers"
            )
        padding = int(real.argmax())
        image = np.flatnonzero(ids == self.image_token_id).astype(np.int64)
        grids = self.grids(index, image_size, image, batch)
        tokens = Tokens.of(self.tokenizer, rendered, self.image_token_id, self._adds_special_tokens(rendered.text))
        picture = self.picture_tokens(index, image_size, len(image), batch)
        expected = tokens.expanded(picture)
        if expected != ids[padding:].tolist():
            raise ModelError(
                f"the processor of {self.name} made {len(ids) - padding} tokens that differ from the {len(expected)} "
                f"tokens of its own rendered prompt, so words cannot be placed: expected {len(picture)} tokens in "
                "place of the prompt's image token"
            )
        own = tokens.place(words, tokens.positions(padding, len(picture)))
        for word in own:
            refuse_unknown(word.text, [int(ids[p]) for p in word.positions], self.tokenizer, self.name)
        layout = tokens.layout(padding, len(picture), grids, image_size, has_expression)
        return (*own, last_word(len(ids) - 1)), layout

    def _adds_special_tokens(self, text: str) -> bool:
        bos = self.tokenizer.bos_token
        return not (bos and text.startswith(bos))  # some chat templates write it themselves

    def _to_device(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        floats = self.model.dtype
        return {
            name: value.to(self.device, floats) if value.is_floating_point() else value.to(self.device)
            for name, value in batch.items()
            if isinstance(value, torch.Tensor)
        }
