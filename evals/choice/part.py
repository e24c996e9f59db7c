"""Which photos are for fitting and which are held out."""

from __future__ import annotations

import hashlib
from typing import Literal

Part = Literal["fit", "held-out", "all"]
_OF, _FIT = 3, 1  # one photo in three is for fitting


def is_for_fitting(photo_id: int) -> bool:
    """Whether a photo is for fitting: one in three, by a hash of the id, whatever folder it lies in."""
    digest = hashlib.blake2b(str(photo_id).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _OF == _FIT
