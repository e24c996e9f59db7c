"""`grounding look`: a model's answer, with a map for every word of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.text import Text

from grounding.console import emit, stderr, stdout
from grounding.errors import GroundingError, UsageError
from grounding.faults import attempt_one
from grounding.files import folder_if_used, slug, user_path
from grounding.images import open_image
from grounding.pictures import is_file, looks_like_a_picture, picture_files
from grounding.types import WordKind
from pipelines.answer_maps import PAGE, SHEET, AnswerMaps, MappedAnswer
from pipelines.manifest import ManifestItem
from pipelines.options import LoadOptions
from pipelines.provenance import DescribeConfig, describe_config
from pipelines.records import Record, error_json, image_head

Words = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE... [QUESTION]")]


@dataclass(frozen=True, kw_only=True)
class LookCommand(LoadOptions):
    """Answer a question about an image, and show where each word of the answer looks.

    Every image gets two files in OUT: a page on which each word shows its map, and a picture with the maps of all words
    that are no stop words. No segmenter runs.

    Exit codes: 0 everything is done; 1 some images of several failed, each with its sentence; 2 refused (that is also
    how a single image fails); 130 interrupted.

    Attributes:
        words: one image or more (also folders, and patterns in quotes), then the question in quotes; left out, the
            model's own request for a description.
        answer: a text whose words are mapped in place of the model's own answer.
        max_new_tokens: most tokens of an answer.
        out: folder for the pages and pictures.
        json: print one JSON object per image on stdout: the answer, and the words with their shares.
    """

    words: Words = ()
    answer: str | None = None
    max_new_tokens: int = 128
    out: Path = Path("out")
    json: bool = False

    def run(self) -> int:
        """Answer; see the class for the exit codes."""
        from grounding.steering.decoding import Decoding

        images, question = images_and_question(self.words)
        decoding = Decoding(max_new_tokens=self.max_new_tokens, seed=self.seed, stop_at_repeats=True)
        config = describe_config(self.config_for(""), question, None, decoding, None)
        items = [ManifestItem(image, user_path(image), self.answer or "") for image in images]
        if len(items) == 1:
            open_image(items[0].path)  # a bad image is refused before the model is loaded
        with folder_if_used(self.out):
            pipe = AnswerMaps(self.load_vlm(), self.chosen_method(), decoding)
            failed = sum(not self._done(pipe, item, question, config, alone=len(items) == 1) for item in items)
        if failed:
            stderr().print(f"{failed} of {len(items)} images failed")
        return 1 if failed else 0

    def _done(
        self, pipe: AnswerMaps, item: ManifestItem, question: str | None, config: DescribeConfig, *, alone: bool
    ) -> bool:
        """Answer about one image, and print its line; False where it failed beside others."""
        record = image_head(item, config)
        name = f"{slug(Path(item.image).stem)}-{record['key'][:8]}"
        found = attempt_one(partial(self._look, pipe, item, question, name))
        if isinstance(found, GroundingError):
            if alone:
                raise found
            stderr().print(f"failed: {item.image}: {found}")
            record |= {"error": error_json(found)}
        else:
            record |= answer_record(found) | {"files": [f"{name}{PAGE}", f"{name}{SHEET}"], "error": None}
            if not self.json:
                _print(item.image, found, self.out / f"{name}{PAGE}")
        if self.json:
            emit(record)
        return not isinstance(found, GroundingError)

    def _look(self, pipe: AnswerMaps, item: ManifestItem, question: str | None, name: str) -> MappedAnswer:
        answer = pipe(item.path, question, self.answer)
        answer.save(self.out, name)
        return answer


def images_and_question(words: tuple[str, ...]) -> tuple[list[str], str | None]:
    """Take the words of the command line apart.

    Args:
        words: pictures, and perhaps a question behind them.

    Returns:
        The pictures' paths, and the question or None.

    Raises:
        UsageError: there is no picture, or a word that is neither a picture nor the last.
    """
    if not words:
        raise UsageError(
            'no image was given, expected one or more and a question: grounding look photo.jpg "What is it?"'
        )
    last = words[-1]
    said = last.endswith("?") or len(last.split()) > 1  # to a shell, a question mark is a pattern's
    asked = len(words) > 1 and not is_file(last) and (said or not looks_like_a_picture(last))
    pictures, question = (words[:-1], last) if asked else (words, None)
    odd = next((word for word in pictures[1:] if not looks_like_a_picture(word)), None)
    if odd is not None:
        raise UsageError(f"{odd!r} is no picture: give pictures first, then the question as one word, in quotes")
    return list(picture_files(pictures)), question


def answer_record(answer: MappedAnswer) -> Record:
    """An answer as JSON."""
    return {
        "question": answer.question,
        "answer": answer.text,
        "finished": answer.finished,
        "words": [
            {"text": word.text, "span": list(word.span), "kind": word.kind.value, "share": round(word.share, 6)}
            for word in answer.words
        ],
        **({"notes": list(answer.notes)} if answer.notes else {}),
    }


def _print(image: str, answer: MappedAnswer, page: Path) -> None:
    console = stdout()
    console.print(image, style="bold")
    console.print(Text(answer.text))
    shown = [word for word in answer.words if word.kind is not WordKind.STOP]
    if shown:
        console.print(Text("on the picture: " + ", ".join(f"{word.text} {word.share:.1%}" for word in shown), "dim"))
    for note in answer.notes:
        console.print(f"note: {note}")
    console.print(Text(str(page), "dim"))
