"""GLM-4.1V, GLM-4.5V and GLM-4.6V: the whole picture near its own size, one token per 2x2 patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from grounding.models.clips import ClipReader
from grounding.models.own_words import OwnWords
from grounding.models.qwen_vl import QwenClips, QwenVL


class Glm4VClips(QwenClips):
    """Clips of GLM-4V: each step of two frames has the tokens of a picture, and its time stands behind it."""

    fewest_frames = 2
    frames_are_pictures = True
    template_options: ClassVar[Mapping[str, Any]] = {"enable_thinking": False}


class Glm4V(QwenVL):
    """GLM-4.1V and 4.6V, and GLM-4.5V, a mixture of experts.

    Pictures are resized and merged as Qwen2-VL does. `<|begin_of_image|>` and `<|end_of_image|>` around the image
    tokens are written by the chat template and count as its text. Where the template can, the model is asked to answer
    without thinking.

    Notes:
        The question for an expression is the first of the README's section on grounding (github.com/zai-org/GLM-V).
    """

    model_types = ("glm4v", "glm4v_moe", "glm46v")
    clip_reader_class: ClassVar[type[ClipReader]] = Glm4VClips
    family_words = OwnWords(prompt="Help me to locate {expression} in the image and give me its bounding boxes.")
    template_options: ClassVar[Mapping[str, Any]] = {"enable_thinking": False}
