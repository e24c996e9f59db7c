from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from grounding import doctor
from grounding.doctor import check, check_family
from grounding.errors import ModelError
from grounding.models.registry import FAMILIES, family_class
from grounding.models.tiny import TINY

CANNOT_TELL = {"blip-2", "instructblip", "mllama", "phi4_multimodal"}
"""Families whose cells cannot be probed, because they are no tokens of the prompt or are not shown as such."""


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_the_installed_versions_pass(model_type: str) -> None:
    checks = check_family(model_type)
    assert len(checks) == 7 + model_type.startswith(("minicpmv", "qwen3_5"))  # a hybrid has rows of linear attention
    untold = [f"{model_type}: cells lie where the picture is seen"] if model_type in CANNOT_TELL else []
    assert [one.name for one in checks if one.passed is None] == untold
    assert [one for one in checks if one.passed is False] == []
    assert all(one.name.startswith(f"{model_type}: ") for one in checks)


def test_a_named_model_is_examined_by_its_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examined: list[str] = []
    monkeypatch.setattr(doctor, "check_family", lambda model_type: examined.append(model_type) or [])
    model, _ = TINY["qwen2_5_vl"]()
    model.config.save_pretrained(tmp_path)  # no weights are needed
    assert [one.name for one in check(str(tmp_path))] == ["versions"]
    check(family_class("llava")(*TINY["llava"]()))
    check()
    assert examined == ["qwen2_5_vl", "llava", *sorted(FAMILIES)]
    with pytest.raises(ModelError, match="there is no model folder"):
        check("./none")


def test_wrong_rows_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from grounding.attention import recorder

    original = recorder.record

    class Wrong:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __enter__(self) -> Any:
            self.recording = self.inner.__enter__()
            return self.recording

        def __exit__(self, *details: Any) -> Any:
            stopped = self.inner.__exit__(*details)
            with torch.inference_mode():
                for rows in self.recording.prefill:
                    rows += 0.01
            return stopped

    monkeypatch.setattr(recorder, "record", lambda *args, **options: Wrong(original(*args, **options)))
    failed = {one.name: one.detail for one in check_family("llava") if not one.passed}
    assert "llava: logits are unchanged by recording" not in failed
    assert "largest difference 1.0e-02" in failed["llava: rows equal eager attention"]


def test_a_kernel_that_changes_the_model_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from grounding.attention import recorder

    original = recorder.record

    class Disturbing:
        def __init__(self, inner: Any, model: Any) -> None:
            self.inner, self.weight = inner, model.lm_head.weight

        def __enter__(self) -> Any:
            with torch.no_grad():
                self.weight.mul_(1.5)
            return self.inner.__enter__()

        def __exit__(self, *details: Any) -> Any:
            with torch.no_grad():
                self.weight.div_(1.5)
            return self.inner.__exit__(*details)

    monkeypatch.setattr(recorder, "record", lambda model, request: Disturbing(original(model, request), model))
    failed = [one.name for one in check_family("llava") if not one.passed]
    assert failed == ["llava: logits are unchanged by recording", "llava: generation is unchanged by recording"]


def test_an_installation_that_raises_is_told_and_the_report_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from grounding.attention import recorder

    def fails(*_: Any, **__: Any) -> None:
        raise AttributeError("no such hook in this version")

    monkeypatch.setattr(recorder, "record", fails)
    checks = check_family("llava")
    assert len(checks) == 7
    assert "AttributeError: no such hook in this version" in checks[1].detail
    assert not any(one.passed for one in checks[1:5])
