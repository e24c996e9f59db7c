"""`python -m grounding` is the command; launchers take modules too (`accelerate launch -m grounding eval run ...`)."""

from __future__ import annotations

import sys

from grounding.cli import main

if __name__ == "__main__":
    sys.exit(main())
