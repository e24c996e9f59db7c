"""Run a measurement in a child process, whose peak memory is then its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Any

from grounding.errors import GroundingError


def run_child(module: str, order: dict[str, Any], what: str) -> dict[str, Any]:
    """Run `python -m MODULE ORDER` and read the JSON object on its last line of stdout.

    The child inherits the working directory and the environment, so it finds the same packages.

    Args:
        module: a module that answers with `print_answer`.
        order: the order, plain JSON data; the child's only argument.
        what: what is measured, for the error ("memory of plain").

    Raises:
        GroundingError: the child ended with another status than 0; the message has the last line of its stderr.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(order)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message; it may have been killed for lack of memory"]
        raise GroundingError(f"measuring {what} ended with status {done.returncode}: {lines[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_bytes() -> int:
    """Peak resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, kilobytes on Linux
