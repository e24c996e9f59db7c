"""What a processor writes around a prompt by itself, beside what it puts in place of the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grounding.models.chat import Rendered


@dataclass(frozen=True)
class Additions:
    """Texts that a processor adds to each prompt; empty where it adds none.

    Attributes:
        before: in front of the prompt, such as a first token.
        behind_pictures: behind the last picture.
        end: at the prompt's end.
    """

    before: str = ""
    behind_pictures: str = ""
    end: str = ""

    def __bool__(self) -> bool:
        return bool(self.before or self.behind_pictures or self.end)

    @classmethod
    def found(cls, ids: Sequence[int], given: str, image_token: str, replacement: str, tokenizer: Any) -> Additions:
        """Read from a processor's tokens what it added to a prompt with one picture.

        Args:
            ids: the tokens.
            given: the prompt that it was given.
            image_token: what stands for the picture in it.
            replacement: what the processor wrote in place of that.
            tokenizer: the processor's.

        Returns:
            The additions; none where the tokens are those of the prompt alone, or cannot be explained by additions.
        """
        head, _, tail = given.partition(image_token)
        if _ids(tokenizer, head + replacement + tail) == list(ids):
            return cls()
        decoded = str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        before, _, behind = decoded.partition(replacement)
        if not before.endswith(head) or tail not in behind:
            return cls()
        start = behind.rfind(tail)
        added = cls(before.removesuffix(head), behind[:start], behind[start + len(tail) :])
        written = added.before + head + replacement + added.behind_pictures + tail + added.end
        return added if _ids(tokenizer, written) == list(ids) else cls()

    def put(self, rendered: Rendered, image_token: str) -> Rendered:
        """The prompt as the processor completes it."""
        text, (start, end) = rendered.text, rendered.span
        split = text.rfind(image_token) + len(image_token)
        moved = len(self.before) + (len(self.behind_pictures) if start >= split else 0)
        text = self.before + text[:split] + self.behind_pictures + text[split:] + self.end
        return Rendered(text, (start + moved, end + moved))

    def taken(self, text: str, image_token: str) -> str:
        """The prompt without what the processor adds: `put` undone."""
        text = text.removeprefix(self.before).removesuffix(self.end)
        split = text.rfind(image_token) + len(image_token)
        return text[:split] + text[split:].removeprefix(self.behind_pictures)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
