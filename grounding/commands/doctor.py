"""`grounding doctor`: check recorded attention on the installed versions."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from grounding.console import emit, stdout

_WORDS = {True: "pass", False: "FAIL", None: "skip"}


@dataclass(frozen=True)
class DoctorCommand:
    """Build tiny random models of the real classes and compare recorded attention with eager attention.

    With `--model` that model's own weights are loaded and checked: words, recording, steering, and whether the cells of
    a picture lie where its family claims, by changing the picture's columns and rows one by one.

    The exit code is 1 if a check fails, otherwise 0. A family without a tiny model is skipped.

    Attributes:
        model: `starter`, a folder or a hub id; check this model alone.
        weights: load the model's weights; with `--no-weights` a tiny model of its type is checked instead, and only its
            config is read.
        family: `probe` for a model without a family here, or a model type to read it as; its own if left out.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        json: print one JSON object on stdout instead of the list.
    """

    model: str | None = None
    weights: bool = True
    family: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    json: bool = False

    def run(self) -> int:
        """Check, and print the results."""
        from grounding.doctor import check, check_versions

        if self.model is not None and self.weights:
            from grounding.doctor_weights import check_weights
            from grounding.models.load import load

            vlm = load(self.model, self.device, self.dtype, family=self.family)
            checks = [check_versions(), *check_weights(vlm)]
        else:
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
