"""Clips: the same models, with frames in place of a picture.

A `ClipReader` is a `VLM` whose prompts hold one clip each. It shares the model and the processor with the family's own
adapter, and takes clips where that takes pictures: recording, teacher forcing and generation. What works on the pixels
of pictures is left out: backgrounds (`grounding.source.Backgrounds`), a shared beginning of prompts, and, unless the
model takes frames as pictures, steering by noised pictures or by attention inside the vision tower.

A clip's layout has one grid for each step of time that its tokens stand for; `grounding.maps.frames` gives the maps of
each.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

from PIL import Image

from grounding.errors import ImageError, ModelError
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.chat import Rendered, render
from grounding.models.geometry import square_grids, whole
from grounding.models.picture import Clip, Picture, Pictures
from grounding.types import IntArray


class ClipReader(VLM):
    """A model whose prompts hold one clip each.

    Where a method of `VLM` takes pictures it takes clips, each a `Clip` or its frames at
    `grounding.models.picture.FPS`. An image token is a token of a clip.
    """

    takes_several: ClassVar[bool] = False
    equal_lengths: ClassVar[bool] = False
    """Whether the clips of a batch must have as many frames each."""
    fewest_frames: ClassVar[int] = 1
    """How many frames the family's processor asks for at least."""
    frames_are_pictures: ClassVar[bool] = False
    """Whether a clip's cells have the tokens of pictures instead of their own."""

    @property
    def image_token(self) -> str:
        """What the chat template writes for a clip."""
        return str(self.processor.video_token)

    @property
    def image_token_id(self) -> int:
        """The id of the tokens that stand for cells of a clip."""
        token = self.processor.image_token if self.frames_are_pictures else self.image_token
        return int(self.tokenizer.convert_tokens_to_ids(str(token)))

    def render(self, template: str, expression: str, pictures: int) -> Rendered:
        """Put an expression into a prompt and the prompt into the chat template; see `VLM.render`."""
        return render(self.processor, template, expression, self.image_token, pictures, self.template_options, "video")

    def _check_processor(self) -> None:
        kind = "image" if self.frames_are_pictures else "video"
        config = self.model.config
        expected = getattr(config, f"{kind}_token_id", getattr(config, f"{kind}_token_index", None))
        if expected != self.image_token_id:
            raise ModelError(
                f"the processor of {self.name} ({type(self.processor).__name__}) writes token {self.image_token_id} "
                f"({self.image_token}) for a clip, and the model expects {expected}: load the model with its own "
                "processor"
            )

    def _checked(self, images: Pictures, texts: Sequence[str], what: str) -> list[list[Image.Image]]:
        self._check_texts(len(images), texts, what, "clip")
        clips = [_clip(one) for one in images]
        for clip in clips:
            if len(clip.frames) < self.fewest_frames:
                raise ImageError(
                    f"{self.name} reads clips of at least {self.fewest_frames} frames, got {len(clip.frames)}: give "
                    "more frames, or the only one as a picture to the model loaded for pictures"
                )
            self.check_picture(clip.frames[0])
        if self.equal_lengths and len(lengths := {len(clip.frames) for clip in clips}) > 1:
            raise ImageError(
                f"{self.name} reads clips of one length in a batch, got {sorted(lengths)} frames: give them one by one"
            )
        return [[cast(Image.Image, clip)] for clip in clips]

    def _processed(self, pictures: Sequence[Sequence[Image.Image]], rendered: Sequence[Rendered]) -> Mapping[str, Any]:
        """The processor's output for a batch of clips, whose frames are all kept."""
        clips = [cast(Clip, clip) for (clip,) in pictures]
        return self._processed_with(
            rendered,
            videos=[list(clip.frames) for clip in clips],
            video_metadata=[
                {
                    "total_num_frames": len(clip.frames),
                    "fps": clip.fps,
                    "duration": len(clip.frames) / clip.fps,
                    "frames_indices": list(range(len(clip.frames))),
                    "width": clip.width,
                    "height": clip.height,
                }
                for clip in clips
            ],
            do_sample_frames=False,
        )


class SquareFrames(ClipReader):
    """Clips whose frames are each squeezed into the square that the tower reads, and have the tokens of pictures."""

    equal_lengths = True
    frames_are_pictures = True

    @property
    @abstractmethod
    def cells_per_frame(self) -> int:
        """How many cells a frame has."""

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """One square grid for each frame; see `VLM.grids`."""
        frames = max(len(positions) // self.cells_per_frame, 1)
        grids = square_grids(positions, [whole(picture.size)] * frames, self.name)
        return tuple(replace(grid, frame=frame) for frame, grid in enumerate(grids))


def clip_reader(vlm: VLM) -> ClipReader:
    """The adapter that reads clips with a loaded model.

    Args:
        vlm: the model, of a family whose class names a `clip_reader_class`; an adapter that reads clips is returned as
            it is.

    Raises:
        ModelError: clips are not read in this family.
    """
    if isinstance(vlm, ClipReader):
        return vlm
    found: type[ClipReader] | None = getattr(vlm, "clip_reader_class", None)
    if found is None:
        from grounding.models.registry import FAMILIES

        able = [name for name in FAMILIES if getattr(FAMILIES.get(name), "clip_reader_class", None)]
        raise ModelError(
            f"{vlm.name} ({type(vlm).__name__}) reads single pictures here: give frames one by one, or choose a model "
            f"of type {', '.join(able)}"
        )
    return found(vlm.model, vlm.processor, vlm.name, vlm.finder)


def _clip(given: Any) -> Clip:
    if isinstance(given, Image.Image):
        raise ImageError(
            "a picture was given, expected a clip or a list of frames: give a clip's frames as a list, and a single "
            "picture to the model loaded for pictures"
        )
    if isinstance(given, Clip):
        return given
    return Clip(tuple(given) if isinstance(given, Iterable) else (given,))
