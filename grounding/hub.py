"""The model hub: whether it answers at all, and what the cache on this machine holds of it.

The libraries that fetch from the hub ask again and again before they give up, for half a minute and more. The loaders
here ask once first; without an answer they use what is cached, or fail at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

Kind = Literal["model", "dataset"]

SECONDS = 4.0  # that the hub may take to answer
_SHOWN = 6  # cached names in a message


def is_reachable() -> bool:
    """Whether the hub answers one request, of whatever status, within `SECONDS`; False in offline mode."""
    from huggingface_hub import constants, is_offline_mode
    from huggingface_hub.utils import get_session

    if is_offline_mode():
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:  # of the HTTP client, which differs between releases
        return False
    return True


@contextmanager
def without_waiting(source: str) -> Iterator[None]:
    """Load from the cache alone inside the block, unless the hub answers.

    Args:
        source: what is loaded; for a folder or a file on this machine the block changes nothing.
    """
    if Path(source).exists() or is_reachable():
        yield
        return
    from grounding.compat import hub_offline

    with hub_offline():
        yield


def cached(kind: Kind = "model") -> tuple[str, ...]:
    """The ids of the hub's repositories in the local cache, sorted."""
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).glob(f"{kind}s--*/snapshots")
    return tuple(sorted("/".join(folder.parent.name.split("--")[1:]) for folder in folders if any(folder.iterdir())))


def unreachable(name: str, kind: Kind = "model") -> str:
    """Say that the hub does not answer, and what the cache holds.

    Args:
        name: the id that was asked for, and that the cache does not hold whole.
        kind: of repository.

    Returns:
        The beginning of a sentence, up to what is to be done.
    """
    from huggingface_hub import constants

    held = cached(kind)
    shown = ", ".join(held[:_SHOWN]) + (f" and {len(held) - _SHOWN} more" if len(held) > _SHOWN else "")
    return (
        f"the hub ({constants.ENDPOINT}) cannot be reached, and the local cache {constants.HF_HUB_CACHE} holds "
        f"{'not all of it' if name in held else shown or f'no {kind}'}{did_you_mean(name, held)}"
    )


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Name the nearest of some names in brackets; empty where none is near, or the name is among them."""
    near = [] if name in known else difflib.get_close_matches(name, known, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
