from __future__ import annotations

import pytest
import torch

from grounding.devices import resolve_device, resolve_dtype
from grounding.errors import ModelError


def test_auto_is_a_device_this_machine_has():
    torch.zeros(1, device=resolve_device("auto"))


def test_cpu_and_a_device_object_pass_through():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:x", "cpu:3 "])
def test_unknown_device_names_the_known_ones(name):
    with pytest.raises(ModelError, match="choose auto, cpu"):
        resolve_device(name)


def test_cuda_beyond_the_machine_is_refused():
    with pytest.raises(ModelError, match="CUDA device"):
        resolve_device(f"cuda:{torch.cuda.device_count()}")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has an Apple GPU")
def test_mps_where_there_is_none_is_refused():
    with pytest.raises(ModelError, match="Apple GPU"):
        resolve_device("mps")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
        (torch.float16, torch.float16),
    ],
)
def test_dtypes_by_name(name, expected):
    assert resolve_dtype(name) == expected


def test_auto_dtype_on_the_cpu_is_float32():
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    assert resolve_dtype() == torch.float32


def test_unknown_dtype_names_the_known_ones():
    with pytest.raises(ModelError, match="bfloat16"):
        resolve_dtype("int4")
