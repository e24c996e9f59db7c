"""`python -m grounding` is the command `grounding`; launchers take modules too (`torchrun -m grounding eval run ...`)."""

from __future__ import annotations

import sys

from grounding.cli import main

if __name__ == "__main__":
    sys.exit(main())
