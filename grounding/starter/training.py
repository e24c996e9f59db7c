"""Train one stage: learning-rate schedule, checkpoints, resume, loss curve."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from grounding.starter.muon import Muon

_console = Console(stderr=True)


@dataclass(frozen=True)
class Schedule:
    """Length and learning rates of one training stage.

    Attributes:
        steps: optimiser steps.
        peak_lr: learning rate after the warm-up; cosine decay to one hundredth of it follows.
        warmup: steps of linear warm-up.
        matrix_lr: peak learning rate of Muon for the inner matrices; embeddings, filters and vectors stay with AdamW.
            None trains everything with AdamW.
        weight_decay: weight decay, applied to matrices only.
        save_every: steps between checkpoints.
        seconds: time after which the stage ends, counted over all its runs, if its steps are not done by then; the
            learning rate then falls by time. None has no such limit.
    """

    steps: int
    peak_lr: float = 1e-3
    matrix_lr: float | None = None
    warmup: int = 200
    weight_decay: float = 0.05
    save_every: int = 250
    seconds: float | None = None

    def share(self, step: int, elapsed: float = 0.0) -> float:
        """Return the learning rate of a step divided by its peak, in (0, 1]."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = max((step - self.warmup) / max(1, self.steps - self.warmup), self.spent(elapsed))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

    def spent(self, elapsed: float) -> float:
        """Return the share of the time limit that is used up, in [0, 1]; 0 without a limit."""
        return 0.0 if self.seconds is None else min(1.0, elapsed / self.seconds)


def train_stage(
    name: str,
    modules: nn.ModuleDict,
    schedule: Schedule,
    batches_from: Callable[[int], Iterable],
    loss_of: Callable[..., tuple[Tensor, Mapping[str, float | Tensor]]],
    folder: Path,
    on_save: Callable[[int], None] = lambda step: None,
) -> list[dict[str, float]]:
    """Train `modules` in place and return the loss curve; resume from `folder/NAME.pt` if it exists.

    Args:
        name: the stage's name, for its files and the progress line.
        modules: modules with parameters to train.
        schedule: length and learning rate.
        batches_from: called with the first step; yields batches for `loss_of`.
        loss_of: maps a batch to (loss, figures for the curve: numbers, or tensors without gradient).
        folder: folder of checkpoints and curve.
        on_save: called after every checkpoint with the number of steps done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizers = _optimizers(modules, schedule)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    checkpoint, curve_path = folder / f"{name}.pt", folder / f"{name}.curve.json"
    first, curve, seconds = 0, [], 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location="cpu")
        modules.load_state_dict(state["modules"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        first, seconds = state["step"], state["seconds"]
        curve = [point for point in json.loads(curve_path.read_text()) if point["step"] <= first]
    if schedule.spent(seconds) >= 1:
        modules.eval()
        return curve
    started = time.monotonic() - seconds
    modules.train()
    running: dict[str, list[float | Tensor]] = {}
    for step, batch in zip(range(first, schedule.steps), batches_from(first), strict=False):
        elapsed = time.monotonic() - started
        loss, figures = loss_of(batch)
        modules.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = peak * schedule.share(step, elapsed)
            optimizer.step()
        # Figures stay tensors until the line is printed: on a GPU a number per step would wait for the step to end.
        for key, value in {"loss": loss.detach(), **figures}.items():
            running.setdefault(key, []).append(value)
        done = step + 1
        last = done == schedule.steps or schedule.spent(elapsed) >= 1
        if done % 50 == 0 or last:
            means = {k: float(sum(v)) / len(v) for k, v in running.items()}
            running.clear()
            elapsed = time.monotonic() - started
            curve.append({"step": done, "seconds": round(elapsed, 1), **{k: round(v, 4) for k, v in means.items()}})
            left = elapsed / done * (schedule.steps - done)
            left = left if schedule.seconds is None else min(left, max(0.0, schedule.seconds - elapsed))
            text = " ".join(f"{k} {v:.3f}" for k, v in means.items())
            _console.print(
                f"{name} {done}/{schedule.steps} {text}  {elapsed:.0f} s, {left:.0f} s left", highlight=False
            )
        if done % schedule.save_every == 0 or last:
            curve_path.write_text(json.dumps(curve))
            state = {
                "modules": modules.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": done,
                "seconds": time.monotonic() - started,
            }
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
            on_save(done)
        if last:
            break
    modules.eval()
    return curve


def _optimizers(modules: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    embeddings = {id(m.weight) for m in modules.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in modules.parameters() if p.requires_grad]
    muon = [p for p in trained if schedule.matrix_lr and p.ndim == 2 and id(p) not in embeddings]
    inner = {id(p) for p in muon}
    rest = [p for p in trained if id(p) not in inner]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=schedule.peak_lr, betas=(0.9, 0.98))]
    if schedule.matrix_lr and muon:
        optimizers.append(Muon(muon, lr=schedule.matrix_lr, weight_decay=schedule.weight_decay))
    return optimizers
