"""Load everything that CHAIR needs beside captions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from evals.chair.lexicon import DoubleWords, Lexicon, read_lexicon
from evals.chair.score import CaptionScore, ImageCaption, score_caption
from evals.chair.truth import Truth, read_truth, unknown_images
from evals.chair.words import Normaliser, Pipeline, normaliser
from evals.fetch import local_file

_HASH_DIGITS = 16
_BLOCK = 1 << 20  # bytes hashed at a time


@dataclass(frozen=True)
class ChairResources:
    """Tables, text pipeline and ground truth.

    Attributes:
        lexicon: the words of each class.
        normalise: the text pipeline.
        truth: the classes of each image.
        hashes: of the source files, by role.
    """

    lexicon: Lexicon
    normalise: Normaliser
    truth: Truth
    hashes: Mapping[str, str]

    def score(self, captions: Iterable[ImageCaption], where: str | Path) -> tuple[CaptionScore, ...]:
        """Score every caption; see `scores`."""
        return tuple(self.scores(captions, where))

    def scores(self, captions: Iterable[ImageCaption], where: str | Path) -> Iterator[CaptionScore]:
        """Score captions one by one, without holding them.

        Args:
            captions: the captions.
            where: their source, for messages.

        Raises:
            EvalDataError: the ground truth lacks some of the images; raised after the last.
        """
        unknown: list[int] = []
        seen = 0
        for one in captions:
            seen += 1
            if one.image_id not in self.truth:
                unknown.append(one.image_id)
            elif not unknown:
                yield score_caption(one, self.truth, self.lexicon, self.normalise)
        if unknown:
            raise unknown_images(unknown, seen, where)

    @staticmethod
    def hash_of(path: Path) -> str:
        """Hash a file, or the names and contents of a folder's annotation files: first digits of SHA-256."""
        digest = hashlib.sha256()
        files = sorted(path.glob("*_*.json")) if path.is_dir() else [path]
        for file in files:
            if path.is_dir():
                digest.update(file.name.encode())
            with file.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
        return digest.hexdigest()[:_HASH_DIGITS]


def load_chair_resources(
    ground_truth: str, synonyms: str, pipeline: Pipeline = "rules", double_words: DoubleWords = "original"
) -> ChairResources:
    """Load tables, text pipeline and ground truth.

    Args:
        ground_truth: see `evals.chair.truth.read_truth`; a path or an address with its hash.
        synonyms: the synonym list; a path, an address with its hash, or a name in `evals.fetch.NAMED`.
        pipeline: from captions to base words.
        double_words: list of word pairs to merge.

    Raises:
        EvalDataError: one of them is missing, broken or of the wrong kind.
        MissingExtraError: the pipeline's package is not installed.
    """
    normalise = normaliser(pipeline)
    words, truth = local_file(synonyms, "the synonyms"), local_file(ground_truth, "the ground truth")
    lexicon = read_lexicon(words, double_words)
    found = read_truth(truth, lexicon, normalise)
    hashes = {"synonyms": ChairResources.hash_of(words), "ground_truth": ChairResources.hash_of(truth)}
    return ChairResources(lexicon, normalise, found, hashes)
