"""Losses of the two stages: the autoencoder on pixels, then the transformer with its text encoders on latents."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count as counting
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from grounding.scenes.drawing import SHAPES
from grounding.starter.dataset import batches
from grounding.starter.dit.data import SHORT_TOKENS, CaptionedScenes
from grounding.starter.dit.looking import look
from grounding.starter.dit.model import LATENTS, PACKED
from grounding.starter.dit.words import MAX_TOKENS, WORDS, build_clip_tokenizer, build_t5_tokenizer
from grounding.text.kinds import kind_of
from grounding.types import WordKind

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, FluxPipeline

_EDGES, _DIVERGENCE = 0.5, 1e-3  # weights beside the absolute error of a pixel
_NO_CAPTION, _NO_POOLED = 0.1, 0.5  # probabilities
_SHORT_IN_LONG = 0.25  # share of short captions among those padded to the full length
_BACKGROUND = 0.25  # weight of a latent without object; one inside an object has this plus 1
_LEVEL_MEAN, _LEVEL_SPREAD, _ANY_LEVEL = 0.5, (0.6, 1.0), 0.15
_NAMED = 2.0  # added weight of the object that a short caption names
_LOST = 0.9  # noise level above which the picture does not show where things are
_DECAY, _AVERAGE_EVERY = 0.98, 10  # of the weight average: 0.998 per step


_Weights = list[Tensor] | tuple[Tensor, ...]


class Captioned(NamedTuple):
    """A batch.

    Attributes:
        latents: [B, C, h, w].
        objects: coverage of the image tokens by any object, [B, X] in [0, 1].
        named: coverage by the object that a short caption names, [B, X]; None for long captions.
        ids: T5 token ids [B, T].
        spread: of the noise levels.
    """

    latents: Tensor
    objects: Tensor
    named: Tensor | None
    ids: Tensor
    spread: float


class Reconstruction(nn.Module):
    """The autoencoder's loss: absolute errors of pixels and of their differences, and the latents' divergence."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return loss and figures for pixels [B, 3, S, S] in [-1, 1]."""
        with mixed(pixels.device):
            posterior = self.vae.encode(pixels).latent_dist
            restored = self.vae.decode(posterior.sample()).sample
        error = restored.float() - pixels
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        loss = error.abs().mean() + _EDGES * edges + _DIVERGENCE * divergence
        return loss, {"error": error.detach().abs().mean(), "divergence": divergence.detach()}


class Denoising(nn.Module):
    """The flow-matching loss of the transformer and its text encoders, trained together, with an average of them.

    Attributes:
        trained: transformer, T5 encoder and CLIP text model.
        average: exponential average of their weights, which is what is measured and shipped.

    Args:
        pipe: the pipeline to train.
        alignment: weight of a term that wants the words of a named object to be attended to from that object; 0
            trains for denoising alone.
    """

    def __init__(self, pipe: FluxPipeline, alignment: float = 0.0) -> None:
        super().__init__()
        self.alignment = alignment
        self.trained = TextDenoiser(pipe)
        self.average = AveragedModel(self.trained, multi_avg_fn=_average)
        self.average.requires_grad_(False)
        self._calls = 0

    @property
    def averaged(self) -> TextDenoiser:
        """The averaged networks."""
        return cast(TextDenoiser, self.average.module)

    def forward(self, batch: Captioned) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, weighted towards latents of objects, and figures."""
        if self._calls % _AVERAGE_EVERY == 0:
            self.average.update_parameters(self.trained)
        self._calls += 1
        device, count = batch.latents.device, len(batch.latents)
        ids = torch.where(torch.rand(count, 1, device=device) < _NO_CAPTION, self.trained.empty(batch.ids), batch.ids)
        dropped = torch.rand(count, 1, device=device) < _NO_POOLED
        pooled_ids = torch.where(dropped, self.trained.empty(ids), ids)
        levels = noise_levels(count, batch.spread, device)
        noise = torch.randn_like(batch.latents)
        noisy = mix(batch.latents, noise, levels)
        weight = _BACKGROUND + batch.objects
        if batch.named is None or not self.alignment:
            velocity, attention = self.trained(noisy, levels, ids, pooled_ids), None
        else:
            velocity, attention = self.trained.look(noisy, levels, ids, pooled_ids)
        weight = weight if batch.named is None else weight + _NAMED * batch.named
        error = (velocity.float() - pack(noise - batch.latents)).square().mean(dim=-1)
        loss = (error * weight).sum() / weight.sum()
        figures = {"plain": error.detach().mean()}
        if attention is not None and batch.named is not None:
            aligned = self._aligned(attention, ids, batch.named, levels)
            figures["aligned"] = aligned.detach()
            loss = loss + self.alignment * aligned
        return loss, figures

    def _aligned(self, attention: Tensor, ids: Tensor, named: Tensor, levels: Tensor) -> Tensor:
        """Cross-entropy between the named object and where its words are attended from, over the image tokens."""
        words = self.trained.head_words(ids)
        heat = (attention * words[:, None]).sum(dim=-1) + 1e-6  # [B, X]
        where = named / named.sum(dim=1, keepdim=True).clamp(min=1e-3)
        entropy = -(where * (heat / heat.sum(dim=1, keepdim=True)).log()).sum(dim=1)
        asked = (words.any(dim=1) & (levels < _LOST)).float()
        return (entropy * asked).sum() / asked.sum().clamp(min=1)


class TextDenoiser(nn.Module):
    """Transformer and text encoders of a pipeline as one module that takes token ids."""

    clip_ids: Tensor
    image_ids: Tensor
    content: Tensor
    shapes: Tensor

    def __init__(self, pipe: FluxPipeline) -> None:
        super().__init__()
        self.transformer, self.t5, self.clip = pipe.transformer, pipe.text_encoder_2, pipe.text_encoder
        self.register_buffer("clip_ids", clip_ids_of_t5(), persistent=False)
        content, shapes = word_kinds()
        self.register_buffer("content", content, persistent=False)
        self.register_buffer("shapes", shapes, persistent=False)
        places = torch.zeros(LATENTS // PACKED, LATENTS // PACKED, 3)
        places[..., 1] = torch.arange(LATENTS // PACKED)[:, None]
        places[..., 2] = torch.arange(LATENTS // PACKED)
        self.register_buffer("image_ids", places.flatten(0, 1), persistent=False)
        self._end = int(pipe.tokenizer_2.eos_token_id)
        self._pad = int(pipe.tokenizer_2.pad_token_id)
        self._start = int(pipe.tokenizer.bos_token_id)

    def forward(self, noisy: Tensor, levels: Tensor, ids: Tensor, pooled_ids: Tensor | None = None) -> Tensor:
        """Predict noise minus latents, packed [B, tokens, 4C].

        Args:
            noisy: [B, C, h, w].
            levels: noise levels [B] in (0, 1].
            ids: T5 token ids [B, T] with padding; as in FLUX, the padding is attended to.
            pooled_ids: the same for the pooled vector, if it differs.
        """
        pooled_ids = ids if pooled_ids is None else pooled_ids
        with mixed(noisy.device):
            text = self.t5(input_ids=ids)[0]
            return self.transformer(
                hidden_states=pack(noisy),
                encoder_hidden_states=text,
                pooled_projections=self.clip(input_ids=self.for_clip(pooled_ids)).pooler_output,
                timestep=levels,
                img_ids=self.image_ids,
                txt_ids=self.image_ids.new_zeros(text.shape[1], 3),
                return_dict=False,
            )[0]

    def look(self, noisy: Tensor, levels: Tensor, ids: Tensor, pooled_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, and the attention from image to text tokens [B, X, T]; see `look`."""
        with mixed(noisy.device):
            text = self.t5(input_ids=ids)[0]
            pooled = self.clip(input_ids=self.for_clip(pooled_ids)).pooler_output
            places = torch.cat([self.image_ids.new_zeros(text.shape[1], 3), self.image_ids])
            return look(self.transformer, pack(noisy), text, pooled, levels, places)

    def head_words(self, ids: Tensor) -> Tensor:
        """Mark the content words of the first noun phrase, bool [B, T]: those up to the first shape."""
        shapes = self.shapes[ids]
        return self.content[ids] & (shapes.cumsum(dim=1) - shapes.long() == 0)

    def empty(self, ids: Tensor) -> Tensor:
        """Return the ids of the empty caption in the shape of `ids`."""
        blank = torch.full_like(ids, self._pad)
        blank[:, 0] = self._end
        return blank

    def for_clip(self, ids: Tensor) -> Tensor:
        """Translate T5 token ids to CLIP's: a start token is put first; padding repeats the end token."""
        start = torch.full_like(ids[:, :1], self._start)
        return torch.cat([start, self.clip_ids[ids]], dim=1)[:, :MAX_TOKENS]


def clip_ids_of_t5() -> Tensor:
    """Return the CLIP token id of every T5 token, int64 [V]; unknown words become the end token, as in CLIP."""
    t5, clip = build_t5_tokenizer(), build_clip_tokenizer()
    table = torch.full((len(t5),), int(clip.eos_token_id))
    for piece, index in t5.get_vocab().items():
        word = piece.removeprefix("▁")
        if word and piece not in t5.all_special_tokens:
            table[index] = clip.convert_tokens_to_ids(f"{word}</w>")
    return table


def word_kinds() -> tuple[Tensor, Tensor]:
    """Return which T5 tokens are content words and which are shapes, bool [V] each."""
    t5 = build_t5_tokenizer()
    content, shapes = torch.zeros(2, len(t5), dtype=torch.bool)
    for word in WORDS:
        index = t5.convert_tokens_to_ids(f"▁{word}")
        content[index] = kind_of(word) is WordKind.CONTENT
        shapes[index] = word in SHAPES
    return content, shapes


def pack(latents: Tensor) -> Tensor:
    """Pack latents [B, C, h, w] two by two into image tokens [B, h * w / 4, 4C], in FLUX's order."""
    count, channels, height, width = latents.shape
    split = latents.view(count, channels, height // PACKED, PACKED, width // PACKED, PACKED)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(count, -1, channels * PACKED**2)


def mix(latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
    """Return (1 - level) latents + level noise, the linear path of flow matching (Lipman et al., 2023)."""
    level = levels[:, None, None, None]
    return (1 - level) * latents + level * noise


def noise_levels(count: int, spread: float, device: torch.device) -> Tensor:
    """Draw noise levels: most logit-normal around the middle with the given spread, some uniform.

    Middle levels are where the picture is uncertain enough for the text to matter and certain enough to say where
    things are, so training begins with a narrow spread.
    """
    middle = torch.sigmoid(_LEVEL_MEAN + spread * torch.randn(count, device=device))
    anything = torch.rand(count, device=device)
    return torch.where(torch.rand(count, device=device) < _ANY_LEVEL, anything, middle).clamp(1e-3, 1.0)


def mixed(device: torch.device) -> torch.autocast:
    """Bfloat16 on a GPU, float32 on a CPU."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def to_model(pixels: np.ndarray, device: torch.device) -> Tensor:
    """Return uint8 [B, S, S, 3] as float32 [B, 3, S, S] in [-1, 1], channels last in memory."""
    return torch.from_numpy(pixels).to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 127.5 - 1


def pictures(
    scenes: CaptionedScenes, count: int, size: int, seed: int, device: torch.device, start: int
) -> Iterator[Tensor]:
    """Yield batches of pixels [size, 3, S, S] of the first `count` scenes without end, from step `start` on."""
    for chosen in batches(count, size, seed, start):
        yield to_model(scenes.pixels[chosen], device)


class CaptionedLatents:
    """Latents and captions on the training device, and batches of them drawn there.

    Args:
        latents: [N, C, h, w], normalised.
        scenes: their coverage and captions.
        device: where they are kept.
    """

    def __init__(self, latents: Tensor, scenes: CaptionedScenes, device: torch.device) -> None:
        self._latents = latents.to(device)
        self._coverage, self._long, self._short, self._named = (
            torch.from_numpy(np.ascontiguousarray(values)).to(device)
            for values in (scenes.coverage, scenes.long, scenes.short, scenes.named)
        )

    def batches(self, size: int, seed: int, widening: int, start: int) -> Iterator[Captioned]:
        """Yield batches without end; even steps have short captions, odd ones captions of the full length.

        Args:
            size: pictures per batch.
            seed: seed of the run.
            widening: steps over which the noise levels spread out from the middle.
            start: first step.
        """
        narrow, wide = _LEVEL_SPREAD
        device = self._latents.device
        rows = torch.arange(size, device=device)
        for step in counting(start):
            random = torch.Generator(device).manual_seed(seed * 1_000_003 + step)
            chosen = torch.randint(len(self._latents), (size,), generator=random, device=device)
            which = torch.randint(self._short.shape[1], (size,), generator=random, device=device)
            ids, named = self._short[chosen, which].long(), None
            coverage = self._coverage[chosen].flatten(2).float() / 255  # [B, objects, X]
            if step % 2:
                ids = self._among_long(ids, chosen, random)
            else:
                named = coverage[rows, self._named[chosen, which].long()]
            spread = narrow + (wide - narrow) * min(1.0, step / widening)
            yield Captioned(self._latents[chosen].float(), coverage.sum(dim=1).clamp(max=1), named, ids, spread)

    def _among_long(self, short: Tensor, chosen: Tensor, random: torch.Generator) -> Tensor:
        size, device = len(chosen), chosen.device
        which = torch.randint(self._long.shape[1], (size,), generator=random, device=device)
        padded = F.pad(short, (0, MAX_TOKENS - SHORT_TOKENS))  # the padding token is 0
        keep = torch.rand(size, 1, generator=random, device=device) < _SHORT_IN_LONG
        return torch.where(keep, padded, self._long[chosen, which].long())


@torch.no_grad()
def encode(vae: AutoencoderKL, scenes: CaptionedScenes, device: torch.device, size: int = 512) -> Tensor:
    """Return the latents' means of all scenes, not normalised, float16 [N, C, h, w] on `device`."""
    parts = []
    for start in range(0, len(scenes.pixels), size):
        with mixed(device):
            parts.append(vae.encode(to_model(scenes.pixels[start : start + size], device)).latent_dist.mean.half())
    return torch.cat(parts)


def _average(averaged: _Weights, current: _Weights, count: Tensor | int) -> None:
    done = int(count)
    torch._foreach_lerp_(averaged, current, 1 - min(_DECAY, (1 + done) / (10 + done)))
