"""Render a prompt through a chat template, and find the user's words in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from grounding.errors import ModelError
from grounding.source import SLOT

Kind = Literal["image", "video"]
# Private-use characters, which chat templates and expressions do not contain.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"


@dataclass(frozen=True)
class Rendered:
    """A prompt after the chat template.

    Attributes:
        text: the whole prompt, with one image token per picture.
        span: (start, end) characters in `text` of the user's expression, or of the whole prompt where it has no slot.
            `start` is the position of the expression's first character, also where the template trims its blanks.
    """

    text: str
    span: tuple[int, int]


def render(
    processor: Any,
    template: str,
    expression: str,
    image_token: str,
    pictures: int = 1,
    options: Mapping[str, Any] | None = None,
    kind: Kind = "image",
) -> Rendered:
    """Put an expression into a prompt and the prompt into the processor's chat template.

    The expression is found by marking its ends with private-use characters in a second rendering, so its words may
    also occur elsewhere in the prompt or in the chat template. Where a template repeats the user's text, the last
    repetition counts.

    Args:
        processor: a processor with a chat template.
        template: the prompt with at most one `{expression}`.
        expression: the words for the slot; without a slot they are not used.
        image_token: what the chat template writes for a picture.
        pictures: how many pictures stand before the text.
        options: variables of the chat template, such as `enable_thinking`.
        kind: what stands before the text, as chat templates name it.

    Returns:
        The rendered prompt.

    Raises:
        ModelError: there is no chat template, it does not place each picture once, or it rewrites the text it is given;
            or the prompt has more than one slot.
    """
    rendered = placed(
        lambda text: _chat(processor, text, kind, pictures, options or {}), template, expression, pictures
    )
    if rendered.text.count(image_token) != pictures:
        raise _unplaced(pictures)
    return rendered


def placed(chat: Callable[[str], str], template: str, expression: str, pictures: int = 1) -> Rendered:
    """Put an expression into a prompt, and find it in what a chat template makes of the prompt.

    Args:
        chat: writes the whole prompt around the user's text.
        template: the prompt with at most one `{expression}`.
        expression: the words for the slot; without a slot they are not used.
        pictures: how many pictures the prompt has, for the error message.

    Raises:
        ModelError: the chat template rewrites the text it is given, or the prompt has more than one slot.
    """
    if template.count(SLOT) > 1:
        raise ModelError(f"the prompt {template!r} has {template.count(SLOT)} slots {SLOT}, expected one or none")
    before, _, after = template.partition(SLOT)
    words = expression
    if SLOT not in template:
        before, words = "", template
    # Templates may trim their text; trimming it first keeps both renderings equal.
    core = words.strip()
    plain = chat((before + core + after).strip())
    marked = chat((before + _OPEN + core + _CLOSE + after).strip())
    start = marked.rfind(_OPEN)
    if start < 0 or marked.replace(_OPEN, "").replace(_CLOSE, "") != plain:
        raise _unplaced(pictures)
    start -= marked[:start].count(_OPEN) + marked[:start].count(_CLOSE)
    lead = len(words) - len(words.lstrip())
    return Rendered(plain, (start - lead, start + len(core)))


def _unplaced(pictures: int) -> ModelError:
    places = "one image" if pictures == 1 else f"{pictures} images"
    return ModelError(
        f"the chat template does not place {places} and the prompt's text unchanged, so words cannot be found in it: "
        "use a model whose processor has a chat template for images followed by text"
    )


def _chat(processor: Any, text: str, kind: Kind, pictures: int, options: Mapping[str, Any]) -> str:
    if not getattr(processor, "chat_template", None):
        raise ModelError(
            f"the processor {type(processor).__name__} has no chat template: use an instruction-tuned model, or put a "
            "chat_template.jinja beside the weights"
        )
    content = [*({"type": kind} for _ in range(pictures)), {"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    return str(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **options))
