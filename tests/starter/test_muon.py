from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from grounding.starter.muon import Muon, half_orthogonal


@given(st.integers(2, 24), st.integers(2, 24), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_singular_vectors_stay_and_singular_values_come_near_one(rows: int, columns: int, seed: int):
    torch.manual_seed(seed)
    u, _, v = torch.linalg.svd(torch.randn(rows, columns, dtype=torch.float64), full_matrices=False)
    matrix = u @ torch.diag(torch.linspace(1.0, 0.2, len(v), dtype=torch.float64)) @ v
    inner = u.T @ half_orthogonal(matrix) @ v.T
    torch.testing.assert_close(inner, torch.diag(inner.diagonal()), atol=1e-6, rtol=0)
    assert inner.diagonal().min() > 0.6
    assert inner.diagonal().max() < 1.3


def test_a_step_is_as_large_as_promised_and_decays_the_weights():
    torch.manual_seed(0)
    matrix = nn.Parameter(torch.ones(8, 32))
    matrix.grad = torch.randn(8, 32)
    Muon([matrix], lr=0.1, weight_decay=0.5).step()
    moved = matrix.detach() - 0.95
    assert moved.square().mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=0.3)


def test_a_badly_scaled_problem_is_solved():
    torch.manual_seed(0)
    scale = torch.logspace(0, -2, 16)
    wanted, matrix = torch.randn(16, 16), nn.Parameter(torch.zeros(16, 16))
    optimizer = Muon([matrix], lr=0.1, weight_decay=0.0)
    losses = []
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - step / 300)
        optimizer.zero_grad()
        loss = ((matrix - wanted) * scale).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 1000
