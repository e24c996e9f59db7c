"""Compute the exact weights of layers that attend by the gated delta rule, row by row.

The rule (Gated DeltaNet, arXiv 2412.06464, eq. 10) keeps a state S [D, Dv] per head and reads its output off it:

    S_t = exp(g_t) S_{t-1};    S_t += beta_t k_t (v_t - k_t^T S_t)^T;    o_t = scale * q_t^T S_t

It is linear in the values, so o_t = sum_j w[t, j] v_j with weights that follow from queries, keys, decay and beta
alone. They are signed, causal, and do not sum to one.

Shape letters: H value heads, J key heads (each serves H/J value heads in a row), N positions, R rows, D key width,
Dv value width, C positions of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 64
"""Positions solved at once; a row costs about N (D + CHUNK) multiply-adds a head."""

NORM_EPS = 1e-6
"""Added to the squared norm of a query or key that the rule normalises, as its kernels do."""


@dataclass(frozen=True)
class DeltaCall:
    """Hold one call of the gated delta rule, as its kernel receives it.

    Attributes:
        query: [B, N, J, D].
        key: [B, N, J, D].
        value: [B, N, H, Dv].
        decay: [B, N, H], g <= 0, the logarithm of what the state is multiplied by at each position.
        beta: [B, N, H], how far a position overwrites what the state holds for its key.
        scale: factor on the queries.
        normalised: whether the kernel divides queries and keys by their norms.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    decay: Tensor
    beta: Tensor
    scale: float
    normalised: bool

    @property
    def head_count(self) -> int:
        """H, value heads."""
        return self.value.shape[2]


def delta_rows(call: DeltaCall, element: int, rows: Tensor) -> Tensor:
    """Compute the weights of chosen rows, in float32.

    A row is followed backwards. With a [D] the row's reading of the state after position t, the weight of v_t is
    beta_t k_t^T a, and before t the row reads exp(g_t) (a - beta_t k_t k_t^T a). A chunk of positions is one triangular
    system, so a row costs two products and a solution per chunk, and no value is touched.

    Args:
        call: a call that starts from an empty state.
        element: index into the batch.
        rows: [R] int64 query positions.

    Returns:
        [H, R, N] float32.
    """
    length, heads = call.value.shape[1], call.head_count
    weights = torch.zeros(heads, len(rows), length, device=call.value.device)
    if not len(rows):
        return weights
    positions = rows.tolist()
    stop = max(positions) + 1
    query = _of_heads(call.query[element].index_select(0, rows), heads, call.normalised) * call.scale  # [H, R, D]
    key = _of_heads(call.key[element, :stop], heads, call.normalised)  # [H, N, D]
    beta = call.beta[element, :stop].transpose(0, 1).float()  # [H, N]
    decay = call.decay[element, :stop].transpose(0, 1).float()
    reading = torch.zeros_like(query)  # of the state behind the chunk; 0 for a row that begins before it
    for start in reversed(range(0, stop, CHUNK)):
        part = slice(start, min(start + CHUNK, stop))
        own_key, own_beta = key[:, part], beta[:, part, None]
        total = decay[:, part].cumsum(1)  # log of the decay from the chunk's start
        between = _decay_between(total)  # [H, C, C], from the column's position to the row's
        system = own_beta * (own_key @ own_key.transpose(1, 2)) * between
        # What a row that begins behind the chunk reads of each position, before later positions overwrite it.
        seen = (reading @ own_key.transpose(1, 2)) * (total[:, -1:] - total).exp()[:, None]
        carried = reading * total[:, -1, None, None].exp()
        begins = [row for row, position in enumerate(positions) if part.start <= position < part.stop]
        if begins:
            at = torch.tensor([positions[row] - start for row in begins], device=rows.device)
            first = query[:, begins]
            seen[:, begins] = (first @ own_key.transpose(1, 2)) * between.index_select(1, at)
            carried[:, begins] = first * total.index_select(1, at).exp()[..., None]
        updates = torch.linalg.solve_triangular(system, seen, upper=False, left=False, unitriangular=True)
        weights[:, :, part] = updates * own_beta.transpose(1, 2)
        reading = carried - updates @ (own_beta * own_key * total.exp()[..., None])
    return weights


def delta_error(call: DeltaCall, element: int, rows: Tensor, weights: Tensor, output: Tensor) -> Tensor:
    """Compare recorded rows, multiplied by the values, with the kernel's output at those queries.

    Args:
        call: the call.
        element: index into the batch.
        rows: [R] int64 query positions.
        weights: [H, R, N] the recorded rows over all keys.
        output: [B, N, H, Dv] the kernel's output.

    Returns:
        Scalar tensor: the largest difference of an output beyond rounding, as a share of the root of the sum of
        squares of its terms w_j v_j, which is how far independent errors of all weights move it; not finite where the
        rows or the output are not.
    """
    value = call.value[element].transpose(0, 1).float()  # [H, N, Dv]
    actual = output[element].index_select(0, rows).transpose(0, 1).float()  # [H, R, Dv]
    expected = weights @ value
    energy = weights.square() @ value.square().sum(-1, keepdim=True)  # [H, R, 1]
    noise = energy.clamp(min=torch.finfo(torch.float32).tiny).sqrt()
    # Kernels round queries, keys and products to the model's number format, which moves all weights alike.
    size = weights.abs() @ value.norm(dim=-1, keepdim=True)
    rounding = 2 * torch.finfo(call.value.dtype).eps * size
    return (((expected - actual).norm(dim=-1, keepdim=True) - rounding).clamp(min=0) / noise).max()


def _of_heads(vectors: Tensor, heads: int, normalised: bool) -> Tensor:
    """Queries or keys [n, J, D] as [H, n, D] float32."""
    vectors = vectors.transpose(0, 1).float()
    if normalised:
        vectors = vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + NORM_EPS)
    return vectors.repeat_interleave(heads // vectors.shape[0], dim=0)


def _decay_between(total: Tensor) -> Tensor:
    """Decay [H, C, C] from the position of a column to that of a row, 0 above the diagonal; `total` is [H, C]."""
    later = torch.ones(total.shape[1], total.shape[1], dtype=torch.bool, device=total.device).triu(1)
    return (total[:, :, None] - total[:, None, :]).masked_fill(later, -torch.inf).exp()
