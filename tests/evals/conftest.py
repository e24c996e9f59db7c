from __future__ import annotations

import io
import runpy
import sys
import warnings
from contextlib import redirect_stdout
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs that benchmarks start in child processes run in this one, which has imported torch already.

    Their peak memory is then this process's. `test_linear_bench.py` and `test_record_bench.py` start real children.
    """

    def run(words: list[str], **_: Any) -> CompletedProcess[str]:
        executable, flag, module, order = words
        assert (executable, flag) == (sys.executable, "-m")
        printed = io.StringIO()
        with monkeypatch.context() as patch, redirect_stdout(printed), warnings.catch_warnings():
            patch.setattr(sys, "argv", [module, order])
            warnings.simplefilter("ignore", RuntimeWarning)  # the module is imported already
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        return CompletedProcess(words, 0, printed.getvalue(), "")

    monkeypatch.setattr("evals.bench.child.subprocess", SimpleNamespace(run=run))
