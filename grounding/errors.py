"""Exceptions for errors that a user can correct. Each message says what was seen, what was expected and what to do."""

from __future__ import annotations


class GroundingError(Exception):
    """Base of every error that a user can correct; the command line prints its sentence and exits with 2."""


class ImageError(GroundingError):
    """An image that is missing, broken, too small or too large."""


class ExpressionError(GroundingError):
    """A referring expression that is empty, made of stop words alone, or outside a closed vocabulary."""


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
    """A segmenter that is unknown, cannot be loaded or has no image yet, or a mask rule that is wrong."""


class OutputError(GroundingError):
    """An output path that cannot be written, or a result file that cannot be read back."""


class ManifestError(GroundingError):
    """A manifest (images with expressions or questions) that cannot be read, or a wrong line in it."""


class EvalDataError(GroundingError):
    """Captions, answers, questions or ground truth that cannot be scored: wrong, broken, duplicate or not matching."""


class JudgeError(GroundingError):
    """A judge model that cannot be reached, or a reply of it that cannot be used."""


class UnexpectedError(GroundingError):
    """A fault of this program or of a dependency that one item of several met; its cause is the original exception.

    Args:
        cause: the exception.
    """

    def __init__(self, cause: Exception) -> None:
        said = " ".join(str(cause).split())[:200]
        super().__init__(
            f"an unexpected {type(cause).__name__}{f' ({said})' if said else ''}: this is a fault of the program or of "
            "a package that it uses; run this item alone to see where it comes from"
        )


class MissingExtraError(GroundingError):
    """An optional package that is not installed.

    Args:
        package: what is missing.
        extra: the extra of this distribution that installs it.
        purpose: subject of the sentence, such as "MobileSAM".
        remedy: how to install it, where installing the extra is not all.
    """

    def __init__(self, package: str, extra: str, purpose: str, remedy: str = "") -> None:
        remedy = remedy or f"pip install 'vlm-grounding[{extra}]'"
        super().__init__(f"{purpose} needs the package '{package}', which is not installed: {remedy}")


FATAL = (MethodError, MissingExtraError, OutputError, RecordingError, UsageError)
"""Errors that every further item of a batch would raise too; a run stops at them."""
