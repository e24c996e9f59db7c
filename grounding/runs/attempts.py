"""Batches in which one item may fail without ending the run.

An error of `grounding.errors.FATAL` would meet every further item too, so it is raised; any other `GroundingError` is
returned in the place of the item's result, and so is an exception that nobody foresaw, as an `UnexpectedError`: a fault
that one odd item brings to light must not cost the results of the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeVar

from grounding.errors import GroundingError
from grounding.faults import attempt_one

T = TypeVar("T")
R = TypeVar("R")
P = TypeVar("P")

log = logging.getLogger(__name__)


def attempt(batch: Sequence[T], run: Callable[[Sequence[T]], Sequence[R]]) -> list[R | GroundingError]:
    """Run a batch; if it fails as a whole, run its items one by one.

    Args:
        batch: the items; none are run where it is empty.
        run: gives one result per item, in order.

    Returns:
        One result or error per item, in order.

    Raises:
        GroundingError: one of `FATAL`.
    """
    if not batch:
        return []
    outcome = attempt_one(lambda: run(batch))
    if not isinstance(outcome, GroundingError):
        return list(outcome)
    if len(batch) == 1:
        return [outcome]
    log.info("a batch of %d failed (%s); its items are run one by one", len(batch), outcome)
    return [attempt([item], run)[0] for item in batch]


def attempt_pictures(
    batch: Sequence[T],
    name: Callable[[T], Hashable],
    load: Callable[[T], P],
    run: Callable[[Sequence[tuple[T, P]]], Sequence[R]],
) -> list[R | GroundingError]:
    """Load each picture of a batch once, and run the items whose picture loads together; see `attempt`.

    Args:
        batch: the items.
        name: of an item's picture; items of one name share it.
        load: gives an item's picture.
        run: gives one result per item and picture, in order.

    Returns:
        One result or error per item, in order.

    Raises:
        GroundingError: one of `FATAL`.
    """
    pictures: dict[Hashable, P | GroundingError] = {}
    for item in batch:
        if name(item) not in pictures:
            pictures[name(item)] = attempt_one(partial(load, item))
    outcomes: list[R | GroundingError | None] = []
    loaded: list[tuple[T, P]] = []
    for item in batch:
        picture = pictures[name(item)]
        if isinstance(picture, GroundingError):
            outcomes.append(picture)
        else:
            outcomes.append(None)
            loaded.append((item, picture))
    results = iter(attempt(loaded, run))
    return [next(results) if outcome is None else outcome for outcome in outcomes]


def cut(items: Sequence[T], size: int) -> tuple[tuple[T, ...], ...]:
    """Split items into consecutive batches.

    Batches are cut from all items of a run before those that are done are left out, because padding can change a
    result's last digits: a resumed run must batch its items as an undisturbed one does.
    """
    return tuple(tuple(items[start : start + size]) for start in range(0, len(items), size))
