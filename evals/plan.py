"""What a run will do, settled before the model is loaded: which samples, in which batches, by which worker."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evals.inputs import refuse_doubles
from evals.tasks.base import Sample, Task
from grounding.errors import EvalDataError, MethodError
from grounding.steering.decoding import Decoding
from grounding.steering.method import Steering
from pipelines.provenance import folder_hash, short_hash

# What launchers call a process's number and how many there are: torchrun and accelerate first, then those of MPI.
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_COUNT = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_LOCAL_RANK = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")


@dataclass(frozen=True)
class Plan:
    """How a task is run.

    Attributes:
        model: as for `grounding.models.load.load`.
        steering: None is the model as it is.
        decoding: how texts are generated; each batch draws from a seed of its own, made of this one and its samples.
        batch_size: samples that are generated together.
        limit: at most so many samples; 0 is all.
        seed: of the draw of samples where there is a limit, and of the bootstrap.
        device: see `load`.
        dtype: see `load`.
        device_map: see `load`.
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

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.limit < 0:
            raise MethodError(
                f"batch size {self.batch_size} and limit {self.limit} were given, expected at least 1 and 0 (all)"
            )


@dataclass(frozen=True)
class Worker:
    """One of several that share a run, without talking to each other.

    Attributes:
        number: which one, from 0.
        count: how many there are.
        local: the number among those of one machine, for the choice of a GPU.
        launched: whether a launcher started several processes here.
    """

    number: int = 0
    count: int = 1
    local: int = 0
    launched: bool = False

    @property
    def file(self) -> str:
        """The file it writes its answers into."""
        return "samples.jsonl" if self.count == 1 else f"samples.{self.number}-of-{self.count}.jsonl"

    @property
    def is_main(self) -> bool:
        """Whether it is the one of its launcher's processes that shows progress."""
        return not self.launched or self.number == 0

    def device(self, asked: str) -> str:
        """The device for a worker: of several processes on a machine with GPUs each takes its own."""
        if asked != "auto" or not self.launched:
            return asked
        import torch

        return f"cuda:{self.local % torch.cuda.device_count()}" if torch.cuda.is_available() else asked


def worker(shard: str = "") -> Worker:
    """Which worker this process is.

    Args:
        shard: "i/n" with i from 0 to n - 1, the i-th of n parts; empty for the whole. Processes that `accelerate
            launch`, `torchrun` or `mpirun` started divide a part once more.

    Raises:
        MethodError: the shard is none.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", shard or "0/1")
    part, parts = (int(number) for number in found.groups()) if found else (1, 1)
    if part >= parts:
        raise MethodError(f"--shard {shard} was given, expected i/n with i from 0 to n - 1: 0/4, 1/4, 2/4 and 3/4")
    rank, ranks = _number(_RANK, 0), _number(_COUNT, 1)
    return Worker(rank * parts + part, parts * ranks, _number(_LOCAL_RANK, 0), ranks > 1)


def choose(task: Task, limit: int, seed: int) -> tuple[Sample, ...]:
    """The samples of a run, in the data's order.

    With a limit they are drawn at random, group by group: a group that does not fit any more ends the draw.

    Raises:
        EvalDataError: there is no sample, or an id stands twice.
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


def batches(samples: Sequence[Sample], size: int) -> tuple[tuple[Sample, ...], ...]:
    """Neighbours together; what is in a batch depends on the samples alone, since texts can depend on the company."""
    return tuple(tuple(samples[start : start + size]) for start in range(0, len(samples), size))


def batch_seed(seed: int, batch: Sequence[Sample]) -> int:
    """The seed of a batch's draws."""
    return int(short_hash([seed, [one.id for one in batch]], 8), 16)


def samples_hash(samples: Sequence[Sample]) -> str:
    """16 hexadecimal digits over what is asked of which picture, with what truth."""
    return short_hash([[one.id, one.image, one.question, dict(one.fields)] for one in samples], 16)


def config_of(task: Task, samples: Sequence[Sample], plan: Plan) -> dict[str, Any]:
    """Everything that decides on the answers, as plain JSON; device and number of workers do not.

    Raises:
        ModelError: the model's folder is missing, or the device or number format is not known.
    """
    from grounding.devices import resolve_device, resolve_dtype
    from grounding.models.load import source_of

    source = Path(source_of(plan.model))
    number_format = resolve_dtype(plan.dtype, resolve_device(plan.device))
    steering = replace(plan.steering, description="", source="").to_yaml() if plan.steering else None
    return {
        "task": task.name,
        "version": task.version,
        "samples": samples_hash(samples),
        "model": Path(plan.model).name if source.is_dir() else plan.model,
        "weights": folder_hash(source) if source.is_dir() else None,
        "dtype": str(number_format).removeprefix("torch."),
        "steering": steering,
        "decoding": asdict(plan.decoding),
        "batch_size": plan.batch_size,
    }


def _number(names: Sequence[str], otherwise: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), otherwise)
