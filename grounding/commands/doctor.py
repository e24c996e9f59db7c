"""`grounding doctor`: check recorded attention on the installed versions."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from grounding.console import emit, stdout

_WORDS = {True: "pass", False: "FAIL", None: "skip"}


@dataclass(frozen=True)
class DoctorCommand:
    """Build tiny random models of the real classes and compare recorded attention with eager attention.

    The exit code is 1 if a check fails, otherwise 0. A family without a tiny model is skipped.

    Attributes:
        model: `starter`, a folder or a hub id; check only its model type. Its config is read, not its weights.
        json: print one JSON object on stdout instead of the list.
    """

    model: str | None = None
    json: bool = False

    def run(self) -> int:
        """Check, and print the results."""
        from grounding.doctor import check

        checks = check(self.model)
        failed = sum(one.passed is False for one in checks)
        skipped = sum(one.passed is None for one in checks)
        if self.json:
            emit({"passed": not failed, "checks": [asdict(one) for one in checks]})
        else:
            for one in checks:
                stdout().print(f"{_WORDS[one.passed]}  {one.name}: {one.detail}")
            ran = len(checks) - skipped
            verdict = f"{failed} of {ran} checks failed" if failed else f"all {ran} checks passed"
            stdout().print(f"{verdict}, {skipped} skipped" if skipped else verdict)
        return 1 if failed else 0
