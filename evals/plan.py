"""Plan a run before the model is loaded: its samples, their batches, and the batches of each worker."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evals.inputs import refuse_doubles
from evals.task import Sample, SelfAnswering, Task
from grounding.errors import EvalDataError, UsageError
from grounding.runs.provenance import model_identity, settings_text, short_hash
from grounding.steering.decoding import Decoding
from grounding.steering.method import Steering

# Environment variables of a process's number and the number of processes: torchrun and accelerate first, then MPI.
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_COUNT = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_LOCAL_RANK = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")


@dataclass(frozen=True)
class Plan:
    """How a task is run.

    Attributes:
        model: as for `grounding.models.load.load`.
        steering: None for the model without steering.
        decoding: how texts are generated; each batch has its own seed, made of this one and the batch's samples.
        batch_size: samples that are generated together.
        limit: most samples; 0 is all.
        seed: of the draw of samples where there is a limit, and of the bootstrap.
        device: see `load`.
        dtype: see `load`.
        device_map: see `load`.
        family: see `load`.

    Raises:
        UsageError: batch size or limit are out of range.
    """

    model: str
    steering: Steering | None
    decoding: Decoding
    batch_size: int
    limit: int = 0
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    device_map: str | None = None
    family: str | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.limit < 0:
            raise UsageError(
                f"batch size {self.batch_size} and limit {self.limit} were given, expected at least 1 and 0 (all)"
            )


@dataclass(frozen=True)
class Worker:
    """One of several processes that share a run without communicating.

    Attributes:
        number: from 0.
        count: of all workers.
        local: the number among the workers of one machine, for the choice of a GPU.
        launched: whether a launcher started several processes here.
    """

    number: int = 0
    count: int = 1
    local: int = 0
    launched: bool = False

    @property
    def file(self) -> str:
        """The file that it writes its answers to."""
        return "samples.jsonl" if self.count == 1 else f"samples.{self.number}-of-{self.count}.jsonl"

    @property
    def part(self) -> str:
        """The part of the run folder that it keeps other processes out of."""
        return self.file.removesuffix(".jsonl")

    @property
    def is_main(self) -> bool:
        """Whether this worker prints progress: one of the processes of a launcher does."""
        return not self.launched or self.number == 0

    def device(self, asked: str) -> str:
        """The device of this worker: several processes on a machine with GPUs take one GPU each."""
        if asked != "auto" or not self.launched:
            return asked
        import torch

        return f"cuda:{self.local % torch.cuda.device_count()}" if torch.cuda.is_available() else asked


def worker(shard: str = "") -> Worker:
    """Find out which worker this process is.

    Args:
        shard: "i/n" with i from 0 to n - 1, the i-th of n parts; empty for the whole. Processes started by `accelerate
            launch`, `torchrun` or `mpirun` divide a part again.

    Raises:
        UsageError: the shard has another form.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", shard or "0/1")
    part, parts = (int(number) for number in found.groups()) if found else (1, 1)
    if part >= parts:
        raise UsageError(f"--shard {shard} was given, expected i/n with i from 0 to n - 1: 0/4, 1/4, 2/4 and 3/4")
    rank, ranks = _number(_RANK, 0), _number(_COUNT, 1)
    return Worker(rank * parts + part, parts * ranks, _number(_LOCAL_RANK, 0), ranks > 1)


def choose(task: Task, limit: int, seed: int) -> tuple[Sample, ...]:
    """Choose the samples of a run, in the data's order.

    With a limit whole groups are drawn at random, until the next group would exceed the limit.

    Raises:
        EvalDataError: there are no samples, or two have one id.
    """
    samples = task.samples()
    if not samples:
        raise EvalDataError(f"the task {task.name} found no sample in its data: check what was given")
    refuse_doubles((one.id for one in samples), f"the task {task.name}", "sample ids")
    if not limit or limit >= len(samples):
        return tuple(samples)
    groups: dict[str, list[int]] = {}
    for index, one in enumerate(samples):
        groups.setdefault(one.group or one.id, []).append(index)
    names = list(groups)
    taken: list[int] = []
    for pick in np.random.default_rng(seed).permutation(len(names)).tolist():
        if taken and len(taken) + len(groups[names[pick]]) > limit:
            break
        taken += groups[names[pick]]
    return tuple(samples[index] for index in sorted(taken))


def batch_seed(seed: int, batch: Sequence[Sample]) -> int:
    """The seed of the random draws of a batch."""
    return int(short_hash([seed, [one.id for one in batch]], 8), 16)


def samples_hash(samples: Sequence[Sample]) -> str:
    """Hash the samples' ids, picture names, questions and truth; 16 hexadecimal digits."""
    return short_hash([[one.id, one.image, one.question, dict(one.fields)] for one in samples], 16)


def config_of(task: Task, samples: Sequence[Sample], plan: Plan) -> dict[str, Any]:
    """Everything that decides the answers, as JSON values. Device and number of workers do not.

    Raises:
        ModelError: the model's folder is missing, or the device or number format is unknown.
    """
    return {
        "task": task.name,
        "version": task.version,
        "samples": samples_hash(samples),
        **asdict(model_identity(plan.model, plan.device, plan.dtype, plan.family)),
        "steering": settings_text(plan.steering) if plan.steering else None,
        "decoding": asdict(plan.decoding),
        "batch_size": plan.batch_size,
        **({"pipeline": task.configuration(plan)} if isinstance(task, SelfAnswering) else {}),
    }


def _number(names: Sequence[str], otherwise: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), otherwise)
