"""Print descriptions: tokens as they are generated, then the nouns of each text, side by side on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from grounding.console import stdout

if TYPE_CHECKING:
    from pipelines.results import Caption, Description


def token_streamer(tokenizer: Any) -> Any:
    """Make a streamer (transformers' kind) that prints new text to stdout word by word, then a line end."""
    from transformers import TextStreamer

    class Printer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            console = stdout()
            console.print(Text(text), end="\n" if stream_end else "")
            console.file.flush()

    return Printer(tokenizer, skip_prompt=True, skip_special_tokens=True)


def write_description(description: Description, console: Console, *, streamed: bool) -> None:
    """Print the texts with their nouns: a table with one column per text on a terminal, plain lines elsewhere.

    Args:
        description: what to print.
        console: where to.
        streamed: the texts were printed as they were generated, so plain lines leave them out.
    """
    if console.is_terminal:
        table = Table(expand=True)
        for label in description.captions:
            table.add_column(description.title(label), ratio=1)
        table.add_row(*(_column(caption) for caption in description.captions.values()))
        console.print(table, soft_wrap=False)
        _print_notes(description, console)
        return
    for label, caption in description.captions.items():
        if streamed and caption.repeated:
            console.print(f"{label}, without the repeat: {caption.text}")
        console.print(f"nouns of {label}:" if streamed else f"{label}: {caption.text}")
        for line in _lines(caption):
            console.print(Text("  ").append(line))
    _print_notes(description, console)


def _print_notes(description: Description, console: Console) -> None:
    for note in description.notes:
        console.print(f"note: {note}")


def _column(caption: Caption) -> Group:
    """The text with its flagged nouns in red, then one line per noun."""
    text = Text(caption.text)
    for noun in caption.unsupported:
        text.stylize("bold red", *noun.span)
    return Group(text, Text(), *_lines(caption))


def _lines(caption: Caption) -> Iterator[Text]:
    for noun in caption.by_noun:
        flags = f"{noun.flags} " if noun.flags else ""
        yield Text(f"{noun.title}: {flags}({noun.note})", style="bold red" if flags else "")
    rate = caption.tokens_per_second
    speed = "" if rate is None else f", {caption.tokens} tokens, {rate:.1f} per s"
    yield Text(f"{caption.summary}{speed}", style="dim")
