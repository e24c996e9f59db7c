"""Locate data by path, or by address with the SHA-256 of its content.

Nothing is downloaded without an address and a hash. Downloads are cached and checked on every use.
"""

from __future__ import annotations

import re
from pathlib import Path

from grounding.errors import EvalDataError, MissingExtraError
from grounding.files import user_path

# The CHAIR synonym list of LisaAnne/Hallucination (BSD-2-Clause), by its content's hash.
NAMED = {
    "chair-synonyms": "https://raw.githubusercontent.com/LisaAnne/Hallucination/master/data/synonyms.txt"
    "#sha256=b685537b36fe21b791c87151b96a991ceb582edff19f3da204dcc7a7905502f2",
}
_ADDRESS = re.compile(r"(https?://[^#\s]+)(?:#sha256=([0-9a-f]{64}))?", re.IGNORECASE)


def local_file(source: str, what: str) -> Path:
    """Return the local path of a source; download it first if it is an address.

    Args:
        source: a path, a name in `NAMED`, or `https://...#sha256=HASH`.
        what: what the source is, for messages ("the synonyms").

    Returns:
        The path. Whether a given path exists is not checked here.

    Raises:
        EvalDataError: an address without a hash, one that cannot be fetched, or content of another hash.
        MissingExtraError: an address was given and pooch is not installed.
    """
    address = _ADDRESS.fullmatch(NAMED.get(source, source))
    if address is None:
        return user_path(source)
    url, digest = address.groups()
    if digest is None:
        raise EvalDataError(
            f"{source} is an address without a hash, so what comes cannot be checked: add #sha256= and the 64 digits, "
            f"or download {what} and give the path"
        )
    try:
        import pooch
    except ImportError as missing:
        raise MissingExtraError("pooch", "eval", f"fetching {what}") from missing
    try:
        return Path(pooch.retrieve(url, known_hash=f"sha256:{digest.lower()}", progressbar=False))
    except ValueError as wrong:
        raise EvalDataError(
            f"what came from {url} as {what} has another SHA-256 than {digest[:12]}...: it has changed, so check it "
            "and give the new hash, or give a path"
        ) from wrong
    except Exception as wrong:  # pooch does not wrap the exceptions of its downloaders
        raise EvalDataError(
            f"{url} cannot be fetched ({type(wrong).__name__}): download {what} and give the path"
        ) from (wrong)
