from __future__ import annotations

import pytest
import torch

from grounding.errors import ModelError, SegmenterError
from grounding.memory import explain_out_of_memory, is_out_of_memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_every_allocators_error_is_known(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_real_allocation_that_cannot_be_had() -> None:
    expected = "out of memory while allocating 4 EiB: ask for less"
    with (
        pytest.raises(SegmenterError, match=expected) as raised,
        explain_out_of_memory("allocating 4 EiB", "ask for less", SegmenterError),
    ):
        torch.empty(1 << 60, dtype=torch.float32)
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_other_errors_pass_through() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), explain_out_of_memory("running", "wait"):
        raise RuntimeError("shapes differ")
    with pytest.raises(ModelError, match="not mine"), explain_out_of_memory("running", "wait", SegmenterError):
        raise ModelError("not mine")
