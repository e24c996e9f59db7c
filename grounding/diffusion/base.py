"""The adapter between a diffusion transformer and its words and image cells.

A `DiffusionSource` wraps a diffusers pipeline. A picture becomes latents, noise is mixed in, one forward pass of the
transformer is recorded with the expression as its prompt, and the maps of words over cells are read off.

Shape letters: X image cells, T text tokens that take part in the softmax, C latent channels, h and w latent cells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from grounding.attention.events import Pass
from grounding.diffusion.concepts import ConceptStream, with_concepts
from grounding.diffusion.latents import mixed, pixels_of
from grounding.diffusion.magnets import PromptMagnets
from grounding.diffusion.prompts import Encoded, Observed, TextPrompt
from grounding.diffusion.reading import ModelSettings, Pads
from grounding.diffusion.run import NoisyRuns
from grounding.diffusion.sequence import LatentShape, Placement, grids_of
from grounding.diffusion.sink_edits import read_edited
from grounding.diffusion.tokens import TextToken, padded, place, refuse_controls, refuse_long, tokenize
from grounding.errors import ModelError
from grounding.joint_spec import Readout
from grounding.memory import explain_out_of_memory
from grounding.record_spec import RecordSpec
from grounding.source import SLOT, fingerprint
from grounding.text.parse import NounFinder, parse
from grounding.text.words import split_words
from grounding.types import AttentionMaps, Word, WordKind

_REMEDY = "read the picture at a smaller size, choose --dtype bfloat16, or a smaller model"


class DiffusionSource(ABC):
    """A loaded diffusion transformer; a `grounding.source.MapSource`.

    Args:
        pipe: a diffusers pipeline with all of its parts.
        name: hub id, folder or starter's name, as the user wrote it.
        finder: finds head nouns; `RuleNounFinder` where None.
        settings: the model's own notice, prompt and reading.

    Attributes:
        pipelines: names of the pipeline classes of this family.
        required: parts of the pipeline without which no map can be recorded.
        attention: how the blocks relate text and image: one sequence with `text-first` or `image-first`, or `cross`.
        pad_rules: what can become of padding, the family's own rule first.
        video: whether the model reads clips and not pictures.
        patch: latents along each side of a cell.
        encoder: the text encoder's name in messages.
        text_length: positions of the pipeline's padded prompt, and most tokens of a prompt.
        guidance: how classifier-free guidance runs while generating: `negative-first` or `prompt-first` in one batch,
            or in `calls` of their own, the prompt's first.
        per_token: arguments of the transformer that have one entry per text token, with the axis of the tokens; empty
            where the states of two prompts cannot follow each other.
        concept_streams: whether nothing but attention mixes text tokens, which also have no positions, so that concepts
            can run beside a prompt.
        default_prompt: prompt template used where a caller gives none.
        reading: how a picture is read.
        magnets: encodes magnets and concepts.
        notice: one sentence that every run with this model must show, or None.
    """

    pipelines: ClassVar[tuple[str, ...]]
    required: ClassVar[tuple[str, ...]]
    attention: ClassVar[Literal["text-first", "image-first", "cross"]]
    pad_rules: ClassVar[tuple[Pads, ...]]
    video: ClassVar[bool] = False
    patch: ClassVar[int] = 2
    encoder: ClassVar[str] = "T5"
    text_length: ClassVar[int]
    guidance: ClassVar[Literal["negative-first", "prompt-first", "calls"]]
    per_token: ClassVar[Mapping[str, int]] = {}
    concept_streams: ClassVar[bool] = False

    def __init__(
        self, pipe: Any, name: str = "", finder: NounFinder | None = None, settings: ModelSettings | None = None
    ) -> None:
        settings = settings or ModelSettings()
        self.pipe = pipe
        self.name = name or type(pipe).__name__
        self.finder = finder
        self.default_prompt = settings.prompt or SLOT
        self.notice: str | None = settings.notice
        self.reading = settings.reading
        self._latents: tuple[bytes, Tensor] | None = None
        self.magnets = PromptMagnets(self)

    # -- what a family says

    @property
    @abstractmethod
    def layers(self) -> Sequence[nn.Module]:
        """The attention modules that relate text and image, one per block in the order of their run."""

    @property
    @abstractmethod
    def tokenizer(self) -> Any:
        """The tokenizer that labels text tokens."""

    def tokens(self, text: str, length: int | None = None) -> tuple[TextToken, ...]:
        """The tokens of a prompt as the transformer's text sequence holds them.

        Args:
            text: the prompt.
            length: positions of the sequence, where padding is kept; no padding where None.

        Raises:
            ExpressionError: the prompt is longer than a text encoder takes.
        """
        tokens = tokenize(self.tokenizer, text)
        refuse_long(tokens, self.longest, self.encoder, self.name)
        return tokens if length is None else padded(tokens, length, self.tokenizer)

    @abstractmethod
    def encode(self, text: str) -> Encoded:
        """Encode a prompt by the pipeline's own text encoders, with padding as `pads` says.

        Raises:
            ExpressionError: see `tokens`.
        """

    @abstractmethod
    def clean_latents(self, pixels: Tensor) -> Tensor:
        """Encode pixels [1, 3, H, W] in [-1, 1] (a clip: [1, 3, F, H, W]) to scaled latents [1, C, h, w] or
        [1, C, f, h, w].
        """

    @abstractmethod
    def inputs(self, noisy: Tensor, level: float, encoded: Encoded) -> dict[str, Any]:
        """The transformer's arguments.

        Args:
            noisy: noisy latents of `clean_latents`' shape.
            level: noise level t in (0, 1).
            encoded: the prompt.
        """

    @abstractmethod
    def observe(self, running: Pass) -> Observed:
        """Describe a pipeline's own call of the transformer."""

    @property
    def native_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the model was trained at."""
        side = int(getattr(self.pipe.vae.config, "sample_size", None) or 1024)
        return side, side

    @property
    def latent_pixels(self) -> int:
        """Pixels along each side of a latent."""
        return int(self.pipe.vae_scale_factor)

    @property
    def cell_pixels(self) -> int:
        """Pixels along each side of a cell: the VAE's factor times the transformer's patch."""
        return self.latent_pixels * self.patch

    @property
    def longest(self) -> int:
        """Most tokens of a prompt."""
        return min(self.text_length, int(self.tokenizer.model_max_length))

    def encoded_length(self, own: int) -> int:
        """Positions that a prompt of `own` tokens is encoded at.

        A padded prompt over the reading's length is encoded at the longest, because models are trained at both.
        """
        wanted = min(self.reading.text_length or self.longest, self.longest)
        return own if self.pads == "drop" else wanted if own <= wanted else self.longest

    @property
    def frames_per_latent(self) -> int:
        """Frames of a clip that one latent frame stands for, the first excepted."""
        return 1

    @property
    def guided(self) -> bool:
        """Whether the pipeline's own call runs with classifier-free guidance."""
        return bool(getattr(self.pipe, "do_classifier_free_guidance", False))

    def noisy(self, clean: Tensor, noise: Tensor, level: float) -> Tensor:
        """Mix noise into latents; as flow matching does, where the family does not say otherwise."""
        return mixed(clean, noise, level)

    def starts(self, cells: int, text: int) -> tuple[int, int]:
        """Where the image and the text begin in the joint sequence, given their lengths."""
        return (text, 0) if self.attention == "text-first" else (0, cells)

    def latent_shape(self, latents: Tensor) -> LatentShape:
        """The grid of cells of latents."""
        height, width = (int(side) // self.patch for side in latents.shape[-2:])
        return LatentShape(1 if latents.ndim == 4 else int(latents.shape[2]), height, width)

    # -- the map source

    @property
    def transformer(self) -> Any:
        """The diffusion transformer."""
        return self.pipe.transformer

    @property
    def device(self) -> torch.device:
        """The transformer's device."""
        return torch.device(self.transformer.device)

    @property
    def dtype(self) -> torch.dtype:
        """The transformer's number format."""
        found: torch.dtype = self.transformer.dtype
        return found

    @property
    def layer_count(self) -> int:
        """L, blocks that relate text and image."""
        return len(self.layers)

    @property
    def pads(self) -> Pads:
        """What becomes of padding.

        Raises:
            ModelError: the family cannot do what the reading asks for.
        """
        chosen = self.reading.pads or self.pad_rules[0]
        if chosen not in self.pad_rules:
            raise ModelError(
                f"{self.name} ({type(self).__name__}) cannot read padding as {chosen!r}: use "
                f"{', '.join(self.pad_rules)}"
            )
        return chosen

    def with_reading(self, **changes: Any) -> DiffusionSource:
        """A source on the same pipeline that reads pictures otherwise.

        Args:
            changes: fields of `MapReading`.
        """
        other = type(self)(self.pipe, self.name, self.finder)
        other.default_prompt, other.notice = self.default_prompt, self.notice
        other.reading = replace(self.reading, **changes)
        return other

    def maps(
        self,
        images: Sequence[Image.Image],
        expressions: Sequence[str],
        spec: RecordSpec,
        prompt: str | None = None,
    ) -> list[AttentionMaps]:
        """Record the maps of one batch, a picture at a time; see `grounding.source.MapSource`.

        Raises:
            ExpressionError: an expression is empty, of stop words only, too long, or holds control tokens or words
                outside a closed vocabulary.
            ModelError: the model reads clips, or memory ran out.
            BudgetError: the maps need more bytes than the spec allows.
            RecordingError: this model's attention cannot be recorded.
        """
        if self.video:
            raise ModelError(
                f"{self.name} is a video model ({type(self).__name__}), which a single picture is no input for: give a "
                "clip, or choose an image model such as FLUX.1"
            )
        return self._read([[image] for image in images], expressions, spec, prompt)

    def clip_maps(
        self,
        clips: Sequence[Sequence[Image.Image]],
        expressions: Sequence[str],
        spec: RecordSpec,
        prompt: str | None = None,
    ) -> list[AttentionMaps]:
        """Record the maps of clips; every latent frame is one grid, named by the first frame it stands for.

        Args:
            clips: RGB frames of one size, one clip per expression; frames that fill no latent frame are left out.
            expressions: referring expressions.
            spec: what to record.
            prompt: see `maps`.

        Raises:
            ModelError: the model reads pictures; otherwise as `maps`.
        """
        if not self.video:
            raise ModelError(f"{self.name} is an image model, which a clip is no input for: give single pictures")
        step = self.frames_per_latent
        usable = [list(clip)[: 1 + (len(clip) - 1) // step * step] for clip in clips]
        return self._read(usable, expressions, spec, prompt)

    def prompt(self, expression: str, template: str | None = None) -> TextPrompt:
        """Put an expression into a template and find its words.

        Args:
            expression: the referring expression; not read where the template has no slot.
            template: with one `{expression}`, or a generic prompt without it; `default_prompt` where None.

        Raises:
            ExpressionError: see `maps`.
        """
        template = self.default_prompt if template is None else template
        refuse_controls(expression, self.tokenizer, self.name)
        if SLOT not in template:
            return TextPrompt(template, split_words(template))
        start = template.index(SLOT)
        words = parse(expression, self.finder)
        moved = (replace(w, span=(w.span[0] + start, w.span[1] + start)) for w in words)
        return TextPrompt(template.replace(SLOT, expression), tuple(moved), start)

    def placement(self, tokens: Sequence[TextToken], latents: LatentShape) -> Placement:
        """Positions of cells and of the text tokens that take part in the softmax."""
        keep = self.pads == "keep"
        kept = tuple(i for i, token in enumerate(tokens) if keep or token.role != "pad")
        if self.attention == "cross":
            return Placement(latents.cells, kept, 0, 0, joint=False)
        return Placement(latents.cells, kept, *self.starts(latents.cells, len(tokens)))

    def words(self, prompt: TextPrompt, tokens: Sequence[TextToken], placement: Placement) -> tuple[Word, ...]:
        """All words of a prompt and one special word for every other token, with positions in the sequence."""
        kept = [tokens[i] for i in placement.tokens]
        placed = place(prompt.words, kept, placement.word_positions, self.tokenizer, self.name)
        shift = prompt.start
        moved = (replace(w, span=(w.span[0] - shift, w.span[1] - shift)) if any(w.span) else w for w in placed)
        return tuple(replace(w, span=(0, 0)) if w.kind is WordKind.MAGNET else w for w in moved)

    def _read(
        self,
        clips: Sequence[Sequence[Image.Image]],
        expressions: Sequence[str],
        spec: RecordSpec,
        template: str | None,
    ) -> list[AttentionMaps]:
        if len(clips) != len(expressions) or not clips:
            raise ValueError(f"{len(clips)} pictures for {len(expressions)} expressions: one per expression is needed")
        # Words first, so that a bad expression is refused before a picture is encoded.
        prompts = [self.magnets.prompt(self.prompt(one, template), spec.magnets) for one in expressions]
        for prompt in prompts:
            self.tokens(prompt.text)
        return [self._read_one(clip, prompt, spec) for clip, prompt in zip(clips, prompts, strict=True)]

    def _read_one(self, frames: Sequence[Image.Image], prompt: TextPrompt, spec: RecordSpec) -> AttentionMaps:
        with torch.inference_mode(), explain_out_of_memory(f"running {self.name}", _REMEDY):
            readout, edit = spec.readout or Readout(), spec.sinks
            if edit is not None and readout.what == "outputs":
                raise ModelError(
                    "text sinks are those of attention, and the method reads attention outputs: leave the stage "
                    "'text-sinks' out, or write 'what: attention' in the method's readout"
                )
            encoded = self.magnets.encode(prompt, spec.magnets)
            clean = self._encoded_picture(frames)
            shape = self.latent_shape(clean)
            placement = self.placement(encoded.tokens, shape)
            words, stream = self.words(prompt, encoded.tokens, placement), None
            if readout.concepts == "stream":
                self._check_streams()
                found = with_concepts(prompt, encoded, self.magnets, readout.background, placement)
                encoded, placement, words = found
                stream = ConceptStream(placement, len(encoded.tokens))
            encoded = encoded.without_pooled() if readout.pooled == "zero" else encoded
            size = (frames[0].width, frames[0].height)
            grids = grids_of(placement, shape, size, self.video, self.frames_per_latent)
            runs = NoisyRuns(self, self.reading.under(readout), clean, encoded, placement, words, grids)
            if edit is None:
                return runs.maps(spec, stream)
            return read_edited(partial(runs.maps, start=edit.start), spec, placement, words)

    def _check_streams(self) -> None:
        if not self.concept_streams:
            raise ModelError(
                f"{self.name} ({type(self).__name__}) has no place for concepts beside the prompt, because its text "
                "tokens are numbered, pooled or keys alone: choose FLUX.1 or SD3, or in joint attention read the "
                "prompt's own words, with 'concepts: prompt' and without 'background' in the method's readout"
            )

    def _encoded_picture(self, frames: Sequence[Image.Image]) -> Tensor:
        """Clean latents; those of the latest picture are kept, since expressions of one picture follow each other."""
        key = b"".join(fingerprint(frame) for frame in frames)
        if self._latents is None or self._latents[0] != key:
            height, width = self.reading.size or self.native_size
            unit = self.cell_pixels
            if height % unit or width % unit:
                raise ModelError(
                    f"size ({height}, {width}) was asked for, but {self.name} reads cells of {unit} px: give multiples "
                    "of it"
                )
            vae = self.pipe.vae
            pixels = pixels_of(frames, (height, width), video=self.video).to(vae.device, vae.dtype)
            self._latents = key, self.clean_latents(pixels).to(self.device, torch.float32)
        return self._latents[1]
