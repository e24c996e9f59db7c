"""The adapter between a vision-language model and its words and image cells.

A `VLM` wraps a loaded model and its processor. `prepare` builds the inputs of one batch through the processor's own
chat template and finds words and cells in the token sequence that the processor made, image tokens expanded and left
padding included. It refuses a prompt whose tokens do not agree with its text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import nn

from grounding.attention.introspect import LayerStack
from grounding.compat import reports_replacements
from grounding.errors import ImageError, ModelError
from grounding.layout import ImageGrid, TokenLayout
from grounding.models.chat import Rendered, render
from grounding.models.layers import DecoderLayers
from grounding.models.maps import record_maps
from grounding.models.own_words import OwnWords
from grounding.models.picture import Picture, Pictures, nested, written_texts
from grounding.models.placement import Tokens
from grounding.models.prepared import Prepared, last_word
from grounding.record_spec import RecordSpec
from grounding.source import SLOT
from grounding.text.parse import NounFinder, parse
from grounding.text.vocabulary import refuse_broken_text, refuse_control_tokens, refuse_unknown
from grounding.text.words import split_words
from grounding.types import AttentionMaps, IntArray, Word

DEFAULT_PROMPT = "Where is {expression}?"
DEFAULT_QUESTION = "Please describe this image in detail."


class VLM(DecoderLayers, ABC):
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
        notice: what every run with this model must show: the config's `grounding_notice`, and which layers are left
            out; or None.

    Raises:
        ModelError: the processor is of another kind than the model, or its tokenizer gives no character offsets.
    """

    model_types: ClassVar[tuple[str, ...]]
    family_words: ClassVar[OwnWords] = OwnWords()
    """Words of every checkpoint of the family that declares none of its own."""
    auto_class: ClassVar[str] = "AutoModelForImageTextToText"
    """Transformers' class that loads the model by its config."""
    takes_several: ClassVar[bool] = True
    """Whether one prompt may have several pictures."""
    nests_pictures: ClassVar[bool] = False
    """Whether the processor takes one list of pictures per prompt instead of one list for the batch."""
    text_types: ClassVar[Mapping[str, int]] = {}
    """Per input of shape [B, N] its value at the tokens of a text behind the prompt, where it is not 0."""
    cells_are_tokens: ClassVar[bool] = True
    """Whether image cells are positions of the sequence; else keys of cross-attention (`TokenLayout.cross`)."""
    fixed_inputs: ClassVar[tuple[str, ...]] = ()
    """Inputs that a text behind the prompt does not lengthen, whatever their shape: tokens of another model."""
    repeated_inputs: ClassVar[tuple[str, ...]] = ()
    """Inputs [B, N, ...] whose last position a text behind the prompt repeats."""
    template_options: ClassVar[Mapping[str, Any]] = {}
    """Variables of the chat template; `enable_thinking` where a thinking model is to answer at once."""

    def __init__(self, model: Any, processor: Any, name: str = "", finder: NounFinder | None = None) -> None:
        self.model = model
        self.processor = processor
        self.name = name or str(model.config.name_or_path or model.config.model_type)
        self.finder = finder
        self._check_processor()
        self.own_words = OwnWords.of(model.config, self.family_words)
        self.default_prompt: str = self.own_words.prompt or DEFAULT_PROMPT
        self.default_question: str = self.own_words.describe or DEFAULT_QUESTION
        self.support_threshold: float | None = getattr(model.config, "grounding_support", None)
        self.notice: str | None = getattr(model.config, "grounding_notice", None)
        if skipped := self.layers_notice():
            self.notice = f"{self.notice} {skipped}" if self.notice else skipped
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def _check_processor(self) -> None:
        try:
            tokenizer, image_token = self.tokenizer, self.image_token
        except AttributeError:
            raise ModelError(
                f"the processor of {self.name} is a {type(self.processor).__name__}, expected one of pictures and text "
                "with an image token: load the model with its own processor (a processor_config.json file)"
            ) from None
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"the tokenizer of {self.name} ({type(tokenizer).__name__}) gives no character offsets, so words "
                "cannot be found among its tokens: load the model with its fast tokenizer (a tokenizer.json file)"
            )
        config = self.model.config
        expected = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
        if expected is not None and expected != self.image_token_id:
            raise ModelError(
                f"the processor of {self.name} ({type(self.processor).__name__}) writes token {self.image_token_id} "
                f"({image_token}) for a picture, and the model expects {expected}: load the model with its own "
                "processor"
            )

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def device(self) -> torch.device:
        """The device of the input embeddings, where inputs go; also for a model spread over several devices."""
        return self.model.get_input_embeddings().weight.device

    @property
    def projector(self) -> nn.Module | None:
        """The module whose input rows are the vision tower's features, for `RecordSpec.features`.

        The rows of all pictures follow each other in the order of their image tokens; an equal number of neighbouring
        rows may make one token. None, the default, where a family's rows do not: its features are then the image tokens
        as they enter the language model, which is the tower's output behind the projector.
        """
        return None

    @property
    def query_reader(self) -> LayerStack | None:
        """The cross-attention by which image tokens read the whole picture, where they stand for no part of it."""
        return None

    @property
    def image_token(self) -> str:
        """What the chat template writes for a picture."""
        return str(self.processor.image_token)

    @property
    def image_token_id(self) -> int:
        """The id of the tokens that the vision tower's outputs replace."""
        return int(self.tokenizer.convert_tokens_to_ids(self.image_token))

    @abstractmethod
    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """The grids of one picture.

        Args:
            picture: the picture and the processor's output.
            positions: (n,) positions of its tokens with the id `image_token_id` in the padded sequence.

        Returns:
            The grids; their positions are among `positions`. Tokens of the picture that are in no grid become
            separators. `ImageGrid.picture` need not be set.

        Raises:
            ModelError: the image tokens do not make up the grids that the picture's size asks for.
        """

    def picture_text(self, picture: Picture) -> str:
        """The text that the processor puts in place of a picture's image token.

        `prepare` compares its tokens with those that the processor made.

        Args:
            picture: `picture.text` is what the processor reports, or the image token repeated.
        """
        return picture.text

    def check_picture(self, image: Image.Image) -> None:
        """Refuse a picture that the image processor cannot take.

        Raises:
            ImageError: the picture's size is outside the processor's limits.
        """

    def render(self, template: str, expression: str, pictures: int) -> Rendered:
        """Put an expression into a prompt and the prompt into the chat template; see `grounding.models.chat.render`."""
        return render(self.processor, template, expression, self.image_token, pictures, self.template_options)

    def maps(
        self,
        images: Pictures,
        expressions: Sequence[str],
        spec: RecordSpec,
        prompt: str | None = None,
    ) -> list[AttentionMaps]:
        """Record the attention maps of one batch; see `grounding.source.MapSource`.

        An expression may have several pictures; it has one maps object for each of them, in order.

        Raises:
            ExpressionError: see `prepare`.
            ModelError: see `prepare`, or out of memory.
            BudgetError: the rows need more bytes than the spec allows.
            RecordingError: this model's attention cannot be recorded.
        """
        return record_maps(self, self.prepare(images, expressions, prompt), spec)

    def prepare(self, images: Pictures, expressions: Sequence[str], prompt: str | None = None) -> Prepared:
        """Build one batch of pictures with a referring expression each.

        Args:
            images: RGB pictures, one per expression, or a list of several for one prompt.
            expressions: one per picture or list of pictures.
            prompt: template with one `{expression}`, or a generic prompt without it; `default_prompt` where None.

        Returns:
            The batch, on the model's device.

        Raises:
            ExpressionError: an expression is empty, has stop words only or words outside a closed vocabulary, or
                contains one of the model's control tokens.
            ImageError: see `check_picture`, or several pictures for a model that takes one.
            ModelError: tokens, text and image cells do not agree for this model.
        """
        pictures = self._checked(images, expressions, "expression")
        template = self.default_prompt if prompt is None else prompt
        has_expression = SLOT in template
        # Words first, so that a bad expression is refused before the pictures are resized.
        words = [parse(e, self.finder) if has_expression else split_words(template) for e in expressions]
        rendered = [self.render(template, e, len(own)) for e, own in zip(expressions, pictures, strict=True)]
        return self._encode(pictures, rendered, words, has_expression)

    def prepare_questions(self, images: Pictures, questions: Sequence[str]) -> Prepared:
        """Build one batch of pictures with a question or an instruction each, to be answered.

        Unlike an expression a question may have stop words only; its words are all words of the text.

        Args:
            images: RGB pictures, one per question, or a list of several for one question.
            questions: one per picture or list of pictures.

        Returns:
            The batch, on the model's device.

        Raises:
            ExpressionError: a question has words outside a closed vocabulary, or contains one of the model's control
                tokens.
            ImageError: see `prepare`.
            ModelError: tokens, text and image cells do not agree for this model.
        """
        pictures = self._checked(images, questions, "question")
        rendered = [self.render(SLOT, q, len(own)) for q, own in zip(questions, pictures, strict=True)]
        return self._encode(pictures, rendered, [split_words(question) for question in questions], False)

    def _checked(self, images: Pictures, texts: Sequence[str], what: str) -> list[list[Image.Image]]:
        """The pictures of each text."""
        self._check_texts(len(images), texts, what, "picture")
        pictures = nested(images)
        for own in pictures:
            if len(own) != 1 and (not own or not self.takes_several):
                raise ImageError(
                    f"{self.name} takes {'one picture or more' if self.takes_several else 'one picture'} for each "
                    f"{what}, got {len(own)}: give one picture for each {what}"
                )
            for image in own:
                self.check_picture(image)
        return pictures

    def _check_texts(self, count: int, texts: Sequence[str], what: str, shown: str) -> None:
        """Refuse texts of another number than the pictures or clips, and those that cannot be tokenised as they are."""
        if count != len(texts) or not count:
            raise ValueError(f"{count} {shown}s for {len(texts)} {what}s: one {shown} per {what} is needed")
        for text in texts:
            refuse_broken_text(text)
            refuse_control_tokens(text, self.image_token, self.tokenizer, self.name)

    def _encode(
        self,
        pictures: Sequence[Sequence[Image.Image]],
        rendered: Sequence[Rendered],
        words: Sequence[Sequence[Word]],
        has_expression: bool,
    ) -> Prepared:
        batch = self._processed(pictures, rendered)
        placed, layouts, index = [], [], 0
        for element, own in enumerate(pictures):
            described = [
                Picture((int(image.width), int(image.height)), index + number, element, number, len(own) == 1, batch)
                for number, image in enumerate(own)
            ]
            index += len(own)
            found, layout = self._place(rendered[element], words[element], described, has_expression)
            placed.append(found)
            layouts.append(layout)
        return Prepared(self._to_device(batch), tuple(placed), tuple(layouts))

    def processed(self, pictures: Sequence[Sequence[Image.Image]], rendered: Sequence[Rendered]) -> dict[str, Any]:
        """The model's inputs for a batch of rendered prompts with their pictures, on the model's device."""
        return self._to_device(self._processed(pictures, rendered))

    def _processed(self, pictures: Sequence[Sequence[Image.Image]], rendered: Sequence[Rendered]) -> Mapping[str, Any]:
        """The processor's output for a batch."""
        flat = [one for own in pictures for one in own]
        return self._processed_with(rendered, images=[list(own) for own in pictures] if self.nests_pictures else flat)

    def _processed_with(self, rendered: Sequence[Rendered], **shown: Any) -> Mapping[str, Any]:
        """The processor's output for the prompts of a batch and what they show, by the processor's own arguments."""
        return self.processor(
            **shown,
            text=[self.given_text(one) for one in rendered],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=self._adds_special_tokens(rendered[0].text),
            **self._reports,
        )

    @property
    def _reports(self) -> dict[str, bool]:
        """The option by which newer processors say what they wrote in place of the image tokens."""
        return {"return_text_replacement_offsets": True} if reports_replacements(self.processor) else {}

    def given_text(self, rendered: Rendered) -> str:
        """The text that the processor is given, where it adds to it by itself; else the rendered prompt."""
        return rendered.text

    def _place(
        self, rendered: Rendered, words: Sequence[Word], pictures: Sequence[Picture], has_expression: bool
    ) -> tuple[tuple[Word, ...], TokenLayout]:
        """The words and the layout of one element."""
        batch, element = pictures[0].inputs, pictures[0].element
        ids: IntArray = batch["input_ids"][element].numpy()
        real = batch["attention_mask"][element].numpy().astype(bool)
        if not real[-1]:
            raise ModelError(
                f"the processor of {self.name} padded on the right, expected the left: update transformers"
            )
        padding = int(real.argmax())
        image = ids == self.image_token_id
        texts = written_texts(batch, element, self.image_token, len(pictures), int(image.sum()))
        pictures = [replace(picture, text=text) for picture, text in zip(pictures, texts, strict=True)]
        texts = [self.picture_text(picture) for picture in pictures]
        tokens = self._tokens(rendered, texts)
        if list(tokens.ids) != ids[padding:].tolist():
            counts = ", ".join(str(len(own)) for own in tokens.pictures)
            raise ModelError(
                f"the processor of {self.name} made {len(ids) - padding} tokens that differ from the "
                f"{len(tokens.ids)} tokens of its own rendered prompt, so words cannot be placed: expected {counts} "
                "tokens in place of the prompt's image token"
            )
        own = tokens.place(words, padding)
        for word in own:
            refuse_unknown(word.text, [int(ids[p]) for p in word.positions], self.tokenizer, self.name)
        grids = [
            [replace(grid, picture=picture.number) for grid in self.grids(picture, at[image[at]])]
            for picture, at in zip(pictures, (padding + at for at in tokens.pictures), strict=True)
        ]
        layout = tokens.layout(padding, grids, [picture.size for picture in pictures], has_expression)
        return (*own, last_word(len(ids) - 1)), layout

    def _tokens(self, rendered: Rendered, texts: Sequence[str]) -> Tokens:
        """The tokens that a rendered prompt has when each picture is written out as its text."""
        return Tokens.of(self.tokenizer, rendered, self.image_token, texts, self._adds_special_tokens(rendered.text))

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
