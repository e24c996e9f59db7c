"""Text tokens as a diffusion transformer's text encoder makes them, and the words they belong to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from grounding.errors import ExpressionError, ModelError
from grounding.text.align import Span, align
from grounding.text.vocabulary import refuse_unknown
from grounding.types import Word, WordKind

Role = Literal["text", "special", "pad", "magnet"]

_BLANKS = " ▁ĠĊ\n"


@dataclass(frozen=True)
class TextToken:
    """One position of the text sequence.

    Attributes:
        piece: the token as its tokenizer writes it, such as "▁fish" or "</s>".
        span: (start, end) characters in the prompt; (0, 0) for tokens that stand for none.
        role: `text`; `special`: end of text, chat markup, and pieces that are blanks alone; `pad`; `magnet`: a piece of
            a magnet that was encoded alone, its end of text included.
        unknown: whether the tokenizer has no piece for these characters.
    """

    piece: str
    span: Span
    role: Role
    unknown: bool = False


def tokenize(
    tokenizer: Any, text: str, *, start: int = 0, stop: int | None = None, add_special_tokens: bool = True
) -> tuple[TextToken, ...]:
    """Tokenize a prompt without padding.

    Args:
        tokenizer: a fast tokenizer.
        text: the prompt, or the prompt inside a chat template.
        start: the prompt's first character in `text`; spans count from there.
        stop: the character behind the prompt; the end of `text` where None. Tokens outside the prompt are special.
        add_special_tokens: whether the tokenizer adds its own.

    Raises:
        ModelError: the tokenizer gives no character offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"the tokenizer {type(tokenizer).__name__} gives no character offsets, so words cannot be found among its "
            "tokens: load the model with its fast tokenizer (a tokenizer.json file)"
        )
    encoded = tokenizer(
        text, return_offsets_mapping=True, add_special_tokens=add_special_tokens, truncation=False, verbose=False
    )
    stop = len(text) if stop is None else stop
    special = set(tokenizer.all_special_ids)
    ids = encoded["input_ids"]
    tokens = []
    for piece, number, (a, b) in zip(tokenizer.convert_ids_to_tokens(ids), ids, encoded["offset_mapping"], strict=True):
        # CLIP's unknown token is its end token; an unknown word has characters and the end has none.
        unknown = number == tokenizer.unk_token_id and a < b
        outside = b <= start or a >= stop or a == b
        if (number in special and not unknown) or outside or not piece.strip(_BLANKS):
            tokens.append(TextToken(piece, (0, 0), "special"))
        else:
            tokens.append(TextToken(piece, (max(a, start) - start, min(b, stop) - start), "text", unknown))
    return tuple(tokens)


def in_chat(tokenizer: Any, text: str, **options: Any) -> tuple[str, int]:
    """Put a prompt into the tokenizer's chat template as a user's message; see `rendered`.

    Args:
        tokenizer: has the template.
        text: the prompt.
        options: arguments of `apply_chat_template`.
    """

    def render(content: str) -> str:
        return str(tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, **options))

    return rendered(render, text)


def rendered(render: Callable[[str], str], text: str) -> tuple[str, int]:
    """Put a prompt into a template, and find it there.

    The prompt is found by a mark of private-use characters in a second rendering, because its words may also occur in
    the template.

    Args:
        render: puts a text into the template.
        text: the prompt.

    Returns:
        (rendered text, the prompt's first character in it).
    """
    mark = "\ue0f0"
    return render(text), render(mark + text).index(mark)


def padded(tokens: Sequence[TextToken], length: int, tokenizer: Any, side: str | None = None) -> tuple[TextToken, ...]:
    """Tokens with padding, `length` in all.

    Args:
        tokens: the prompt's tokens.
        length: tokens and padding.
        tokenizer: names the padding.
        side: `left` or `right`; the tokenizer's own where None.
    """
    pads = [TextToken(str(tokenizer.pad_token), (0, 0), "pad")] * (length - len(tokens))
    return (*pads, *tokens) if (side or tokenizer.padding_side) == "left" else (*tokens, *pads)


def refuse_long(tokens: Sequence[TextToken], limit: int, what: str, model: str) -> None:
    """Refuse a prompt that the text encoder would cut.

    Args:
        tokens: the prompt's tokens, special ones included.
        limit: most tokens the encoder takes.
        what: the encoder, for the message ("T5").
        model: the model's name, for the message.

    Raises:
        ExpressionError: the prompt is longer.
    """
    if len(tokens) > limit:
        raise ExpressionError(
            f"the expression takes {len(tokens)} tokens, but the text encoder {what} of {model} takes {limit}: "
            "shorten it"
        )


def refuse_controls(text: str, tokenizer: Any, model: str) -> None:
    """Refuse a text that holds one of the tokenizer's control tokens.

    Raises:
        ExpressionError: it does; the message names the token.
    """
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    for token in sorted({*tokenizer.all_special_tokens, *added}):
        if token in text:
            raise ExpressionError(f"the expression holds {token!r}, a control token of {model}: leave it out")


def place(
    words: Sequence[Word], tokens: Sequence[TextToken], positions: Sequence[int], tokenizer: Any, model: str
) -> tuple[Word, ...]:
    """Give words the positions of their tokens, and make a special word or a magnet of every other token.

    Several encoders may have read the same prompt, one after the other in the sequence (SD3); a word then owns its
    tokens of all of them.

    Args:
        words: words with spans in the prompt.
        tokens: tokens that take part in a map's softmax.
        positions: the position of each in the model's sequence.
        tokenizer: of the tokens, for the message about a word it does not know.
        model: the model's name, for the same.

    Returns:
        All words in the order of their first position, so that every token belongs to exactly one.

    Raises:
        ExpressionError: a word has no token of its own or is outside the encoder's vocabulary.
    """
    owned: list[list[int]] = [[] for _ in words]
    for run in _runs(tokens):
        for own, found in zip(owned, align([w.span for w in words], [tokens[i].span for i in run]), strict=True):
            own.extend(run[i] for i in found)
    for word, own in zip(words, owned, strict=True):
        refuse_unknown(word.text, [tokenizer.unk_token_id if tokens[i].unknown else -1 for i in own], tokenizer, model)
    placed = [replace(w, positions=tuple(positions[i] for i in own)) for w, own in zip(words, owned, strict=True)]
    taken = {i for own in owned for i in own}
    rest = [
        Word(token.piece, (0, 0), (positions[i],), WordKind.MAGNET if token.role == "magnet" else WordKind.SPECIAL)
        for i, token in enumerate(tokens)
        if i not in taken
    ]
    return tuple(sorted((*placed, *rest), key=lambda word: word.positions[0]))


def _runs(tokens: Sequence[TextToken]) -> list[list[int]]:
    """Indices of tokens in runs of ascending spans; a second encoder's tokens begin a run of their own."""
    runs: list[list[int]] = [[]]
    last = -1
    for index, token in enumerate(tokens):
        if token.role == "text":
            if token.span[0] < last:
                runs.append([])
            last = token.span[0]
            runs[-1].append(index)
    return runs
