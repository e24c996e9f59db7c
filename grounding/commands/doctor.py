"""`grounding doctor`: check recorded attention on the installed versions."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from grounding.console import emit, stdout


@dataclass(frozen=True)
class DoctorCommand:
    """Build tiny random models of the real classes and compare recorded attention with eager attention.

    The exit code is 0 if every check passes, otherwise 1.

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
        passed = all(one.passed for one in checks)
        if self.json:
            emit({"passed": passed, "checks": [asdict(one) for one in checks]})
        else:
            for one in checks:
                stdout().print(f"{'pass' if one.passed else 'FAIL'}  {one.name}: {one.detail}")
            failed = sum(not one.passed for one in checks)
            stdout().print(f"{failed} of {len(checks)} checks failed" if failed else f"all {len(checks)} checks passed")
        return 0 if passed else 1
