"""How `grounding describe` tells a description: tokens as they come, then the nouns, side by side on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from grounding.console import stdout
from pipelines.describe_files import note_of, summary

if TYPE_CHECKING:
    from pipelines.describe import Caption, Description


def token_streamer(tokenizer: Any) -> Any:
    """A streamer that prints the new text to stdout word by word, with a line's end behind it."""
    from transformers import TextStreamer

    class Printer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            console = stdout()
            console.print(Text(text), end="\n" if stream_end else "")
            console.file.flush()

    return Printer(tokenizer, skip_prompt=True, skip_special_tokens=True)


def write_description(description: Description, console: Console, *, streamed: bool) -> None:
    """Print the judged texts: a table with a column a text on a terminal, plain lines elsewhere.

    Args:
        description: what to print.
        console: where to.
        streamed: whether the texts stand there already, so that the lines need not repeat them.
    """
    if console.is_terminal:
        table = Table(expand=True)
        for label in description.captions:
            table.add_column(label if label == "unsteered" else f"{label} by {description.steering}", ratio=1)
        table.add_row(*(_column(caption) for caption in description.captions.values()))
        console.print(table, soft_wrap=False)
        return
    for label, caption in description.captions.items():
        console.print(f"nouns of {label}:" if streamed else f"{label}: {caption.text}")
        for line in _lines(caption):
            console.print(Text("  ").append(line))


def _column(caption: Caption) -> Group:
    """The text with its flagged nouns in red, and the lines about its nouns."""
    text = Text(caption.text)
    for noun in caption.unsupported:
        text.stylize("bold red", *noun.span)
    return Group(text, Text(), *_lines(caption))


def _lines(caption: Caption) -> Iterator[Text]:
    for noun in caption.nouns:
        flag = "" if noun.supported else "unsupported "
        yield Text(f"{noun.text}: {flag}({note_of(noun)})", style="" if noun.supported else "red")
    rate = caption.tokens_per_second
    speed = "" if rate is None else f", {caption.tokens} tokens, {rate:.1f} per s"
    yield Text(f"{summary(caption)}{speed}", style="dim")
