"""One exception per thing a user can mend. Each message says what was seen, what was expected and what to do."""

from __future__ import annotations


class GroundingError(Exception):
    """Base of every error a user can mend; the command line prints it as one sentence and exits with 2."""


class ImageError(GroundingError):
    """A picture that is missing, broken, too small or too large."""


class ExpressionError(GroundingError):
    """Words that are missing, empty, made of stop words alone, or outside a closed vocabulary."""


class ModelError(GroundingError):
    """A model that is unknown, cannot be found or cannot be loaded."""


class RecordingError(GroundingError):
    """Attention that cannot be recorded on this model."""


class BudgetError(GroundingError):
    """A request that would need more memory than allowed."""


class MethodError(GroundingError):
    """A method file that is unknown or wrong, or that asks for what was not recorded."""


class EmptyMapError(GroundingError):
    """A heat map without a positive cell, so that there is nothing to point at in this picture."""


class UsageError(GroundingError):
    """An option out of range, or options that exclude each other."""


class SegmenterError(GroundingError):
    """A segmenter that is unknown, cannot be found or is asked before it has an image."""


class OutputError(GroundingError):
    """A place that cannot be written to, or a result file that cannot be read back."""


class ManifestError(GroundingError):
    """A list of images and expressions that cannot be read, or a line of it that is wrong."""


class EvalDataError(GroundingError):
    """Captions, answers, questions or truth that cannot be scored: wrong kind, broken, doubled or not matching."""


class JudgeError(GroundingError):
    """A judge that cannot be asked, or whose answer cannot be used."""


class MissingExtraError(GroundingError):
    """An optional package that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed: pip install 'vlm-grounding[{extra}]'"
        )


FATAL = (MethodError, MissingExtraError, OutputError, RecordingError, UsageError)
"""Errors that every further item of a batch would meet too, so that a run ends with them."""
