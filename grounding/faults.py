"""Calls that may fail without ending what they are a part of."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from grounding.errors import FATAL, GroundingError, ModelError, UnexpectedError
from grounding.memory import OUT_OF_MEMORY, is_out_of_memory

R = TypeVar("R")

log = logging.getLogger(__name__)


def attempt_one(call: Callable[[], R]) -> R | GroundingError:
    """Return the result of a call, or its error.

    Raises:
        GroundingError: one of `FATAL`.
    """
    try:
        return call()
    except FATAL:
        raise
    except GroundingError as error:
        return error
    except Exception as fault:
        if is_out_of_memory(fault):
            return ModelError(OUT_OF_MEMORY)
        log.debug("an item met an unexpected error", exc_info=True)
        unexpected = UnexpectedError(fault)
        unexpected.__cause__ = fault
        return unexpected
