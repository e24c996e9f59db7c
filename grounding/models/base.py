"""What every model family says: which key is which image cell, and which query is which word.

A `VLM` wraps a loaded model and its processor. `prepare` builds the inputs of one batch through the processor's own
chat template and finds words and cells in the token sequence that the processor really made, image tokens expanded and
left padding included. Nothing is guessed: where tokens and text cannot be brought together, it refuses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from grounding.errors import ExpressionError, ModelError
from grounding.models.chat import SLOT, Rendered, render
from grounding.text.align import align
from grounding.text.parse import NounFinder, parse
from grounding.text.words import split_words
from grounding.types import BoolArray, IntArray, TokenGrid, Word, WordKind

DEFAULT_PROMPT = "Where is {expression}?"
DEFAULT_QUESTION = "Please describe this image in detail."
LAST_WORD = "<last>"
SHOWN_VOCABULARY = 200  # a closed vocabulary up to this size is printed in full when a word is outside it
_SHOWN_CLOSE = 5  # of a larger one, so many words that are spelt alike


@dataclass(frozen=True)
class Prepared:
    """One batch, ready for the model. B is the batch size, N the padded sequence length.

    Attributes:
        inputs: tensors by the model's argument names, on the model's device, padded on the left.
        words: per element the words of the expression, then one word `<last>` of kind SPECIAL for the prompt's last
            token. A prompt without `{expression}` has its own words instead.
        grids: per element the image's token grids.
        image_positions: per element (n,) every position that holds an image token, cells or not.
        image_sizes: per element (width, height) of the original picture in pixels.
        padding: per element the number of padding tokens before the first real one.
        expressions: per element the expression as given.
    """

    inputs: Mapping[str, torch.Tensor]
    words: tuple[tuple[Word, ...], ...]
    grids: tuple[tuple[TokenGrid, ...], ...]
    image_positions: tuple[IntArray, ...]
    image_sizes: tuple[tuple[int, int], ...]
    padding: tuple[int, ...]
    expressions: tuple[str, ...]

    @property
    def length(self) -> int:
        """N, padding included."""
        return int(self.inputs["input_ids"].shape[1])

    def __len__(self) -> int:
        return len(self.words)


class VLM(ABC):
    """A loaded vision-language model and what its tokens mean.

    Args:
        model: a transformers model for image-text generation, in eval mode.
        processor: its processor.
        name: hub id, folder or `starter`, as the user wrote it.
        finder: who finds head nouns; the rules where None.

    Attributes:
        default_prompt: the prompt template used where a caller gives none; a model's config may carry its own as
            `grounding_prompt`.
        default_question: what asks the model for a description; a model's config may carry its own as
            `grounding_describe`.
        support_threshold: support below which a noun of a text is in doubt (`grounding.maps.support`), measured on this
            model; the config's `grounding_support`, None where nobody has measured it.
        notice: one sentence that every run with this model must show, or None; the config's `grounding_notice`.
    """

    model_types: ClassVar[tuple[str, ...]]

    def __init__(self, model: Any, processor: Any, name: str = "", finder: NounFinder | None = None) -> None:
        self.model = model
        self.processor = processor
        self.name = name or str(model.config.name_or_path or model.config.model_type)
        self.finder = finder
        self.default_prompt: str = getattr(model.config, "grounding_prompt", None) or DEFAULT_PROMPT
        self.default_question: str = getattr(model.config, "grounding_describe", None) or DEFAULT_QUESTION
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
        """Where inputs go: the device of the input embeddings, also when the model is spread over several."""
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
    def image_token(self) -> str:
        """The text that stands for an image in a rendered prompt."""
        return str(self.processor.image_token)

    @property
    def image_token_id(self) -> int:
        """The id of `image_token`."""
        return int(self.tokenizer.convert_tokens_to_ids(self.image_token))

    @abstractmethod
    def grids(
        self, index: int, image_size: tuple[int, int], positions: IntArray, inputs: Mapping[str, Any]
    ) -> tuple[TokenGrid, ...]:
        """The token grids of one picture.

        Args:
            index: which element of the batch.
            image_size: (width, height) of the original picture in pixels.
            positions: (n,) positions of its image tokens in the padded sequence.
            inputs: what the processor made of the batch.

        Returns:
            The grids; their positions are among `positions`.

        Raises:
            ModelError: the image tokens do not make up the grid that the picture's size asks for.
        """

    def prepare(self, images: Sequence[Image.Image], expressions: Sequence[str], prompt: str | None = None) -> Prepared:
        """Build one batch.

        Args:
            images: RGB pictures, one per expression.
            expressions: what to look for, one per picture.
            prompt: template with one `{expression}`, or a generic prompt without it; the family's own where None.

        Returns:
            The batch, on the model's device.

        Raises:
            ExpressionError: an expression is empty, of stop words alone, outside a closed vocabulary, or holds one of
                the model's control tokens.
            ModelError: tokens, text and image cells cannot be brought together for this model.
        """
        if len(images) != len(expressions) or not images:
            raise ValueError(
                f"{len(images)} pictures for {len(expressions)} expressions: one picture per expression is needed"
            )
        template = self.default_prompt if prompt is None else prompt
        for expression in expressions:
            self._refuse_control_tokens(expression)
        # Words first: a bad expression should be told before the pictures are resized.
        parsed = [parse(e, self.finder) if SLOT in template else split_words(template) for e in expressions]
        rendered = [render(self.processor, template, expression, self.image_token) for expression in expressions]
        return self._encode(images, rendered, parsed, expressions)

    def prepare_questions(self, images: Sequence[Image.Image], questions: Sequence[str]) -> Prepared:
        """Build one batch of pictures with a question or an instruction each, to be answered.

        Unlike an expression a question may be of stop words alone; its words are all words of the text.

        Args:
            images: RGB pictures, one per question.
            questions: what to ask, one per picture.

        Returns:
            The batch, on the model's device; `expressions` are the questions.

        Raises:
            ExpressionError: a question has words outside a closed vocabulary, or holds one of the model's control
                tokens.
            ModelError: tokens, text and image cells cannot be brought together for this model.
        """
        if len(images) != len(questions) or not images:
            raise ValueError(
                f"{len(images)} pictures for {len(questions)} questions: one picture per question is needed"
            )
        for question in questions:
            self._refuse_control_tokens(question)
        rendered = [render(self.processor, SLOT, question, self.image_token) for question in questions]
        return self._encode(images, rendered, [split_words(question) for question in questions], questions)

    def _encode(
        self,
        images: Sequence[Image.Image],
        rendered: Sequence[Rendered],
        parsed: Sequence[Sequence[Word]],
        expressions: Sequence[str],
    ) -> Prepared:
        batch = self.processor(
            images=list(images),
            text=[one.text for one in rendered],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=self._adds_special_tokens(rendered[0].text),
        )
        ids: IntArray = batch["input_ids"].numpy()
        real = batch["attention_mask"].numpy().astype(bool)
        words, grids, positions = [], [], []
        sizes = tuple((int(image.width), int(image.height)) for image in images)
        for index, one in enumerate(rendered):
            found = np.flatnonzero(ids[index] == self.image_token_id).astype(np.int64)
            if not real[index, -1]:
                raise ModelError(
                    f"the processor of {self.name} padded on the right, expected the left: update transformers"
                )
            positions.append(found)
            grids.append(self.grids(index, sizes[index], found, batch))
            words.append(self._place(parsed[index], one, ids[index], real[index], len(found)))
        return Prepared(
            inputs=self._to_device(batch),
            words=tuple(words),
            grids=tuple(grids),
            image_positions=tuple(positions),
            image_sizes=sizes,
            padding=tuple(int(row.argmax()) for row in real),
            expressions=tuple(expressions),
        )

    def _place(
        self, words: Sequence[Word], rendered: Rendered, ids: IntArray, real: BoolArray, image_tokens: int
    ) -> tuple[Word, ...]:
        expanded = rendered.expand(self.image_token, image_tokens)
        encoded = self.tokenizer(
            expanded.text,
            return_offsets_mapping=True,
            add_special_tokens=self._adds_special_tokens(expanded.text),
            truncation=False,
        )
        padding = int(real.argmax())
        if list(encoded["input_ids"]) != ids[padding:].tolist():
            raise ModelError(
                f"the processor of {self.name} made {len(ids) - padding} tokens that differ from the "
                f"{len(encoded['input_ids'])} tokens of its own rendered prompt, so words cannot be placed: expected "
                "one image token repeated per cell"
            )
        start, end = expanded.span
        offsets = [(a - start, b - start) if a < end and b > start else (0, 0) for a, b in encoded["offset_mapping"]]
        placed = []
        for word, tokens in zip(words, align([word.span for word in words], offsets), strict=True):
            self._refuse_unknown(word, [encoded["input_ids"][i] for i in tokens])
            placed.append(replace(word, positions=tuple(padding + i for i in tokens)))
        return (*placed, Word(LAST_WORD, (0, 0), (len(ids) - 1,), WordKind.SPECIAL))

    def _refuse_unknown(self, word: Word, token_ids: Sequence[int]) -> None:
        if not token_ids:
            raise ExpressionError(
                f"the tokenizer of {self.name} gives the word {word.text!r} no token of its own: write it apart "
                "from its neighbours with blanks"
            )
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown not in token_ids:
            return
        special = set(self.tokenizer.all_special_tokens)
        known = sorted(token for token in self.tokenizer.get_vocab() if token not in special and token.isalpha())
        raise ExpressionError(
            f"the word {word.text!r} is outside the vocabulary of {self.name}, which knows {len(known)} words"
            f"{_some_of(known, word.text)}: use known words, or for photos and free text load a hub model, for example "
            "--model llava-hf/llava-1.5-7b-hf"
        )

    def _refuse_control_tokens(self, expression: str) -> None:
        added = (str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special)
        for token in sorted({self.image_token, *self.tokenizer.all_special_tokens, *added}):
            if token in expression:
                raise ExpressionError(f"the expression holds {token!r}, a control token of {self.name}: leave it out")

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


def _some_of(known: Sequence[str], word: str) -> str:
    """The known words in brackets, all where they are few, else those spelt most like the word."""
    if len(known) <= SHOWN_VOCABULARY:
        return f" ({', '.join(known)})"
    close = get_close_matches(word.lower(), known, n=_SHOWN_CLOSE, cutoff=0.5)
    return f", {', '.join(close)} among them" if close else ", none of them spelt like it"
