"""Answers on the disk, so that a lab that was cut off goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from evals.tasks.base import Answer, Sample
from grounding import strict
from grounding.errors import OutputError
from grounding.files import read_jsonl, to_json, write_text
from grounding.models.load import source_of
from pipelines.provenance import folder_hash, short_hash

if TYPE_CHECKING:
    from evals.lab.plan import LabPlan
    from grounding.steering.method import Steering


class AnswerStore:
    """One file of answers for each method and set of scenes, named by a hash of all that decides on them.

    Args:
        folder: where the files are.
        plan: of the lab; its model and seed are part of the hash.
    """

    def __init__(self, folder: Path, plan: LabPlan) -> None:
        self._folder = folder
        self._plan = plan

    def get(
        self, name: str, samples: Sequence[Sample], steering: Steering | None, answer: Callable[[], tuple[Answer, ...]]
    ) -> tuple[Answer, ...]:
        """The answers, from the disk where they are there.

        Args:
            name: what to call them, `test/unsteered` for instance.
            samples: what is asked.
            steering: how the model is steered.
            answer: asks the model.

        Raises:
            OutputError: the file is there and is no file of answers.
        """
        asked = [(one.id, one.question, one.fields) for one in samples]
        settings = {
            "model": self._plan.model,
            "weights": _weights(self._plan.model),
            "seed": self._plan.seed,
            "steering": steering.to_yaml() if steering else None,
            "asked": asked,
        }
        part, _, method = name.partition("/")
        file = self._folder / part / f"{method.split(' (')[0]}-{short_hash(settings, 12)}.jsonl"
        found = tuple(
            strict.build(Answer, line, f"line {number} of {file}", OutputError)
            for number, line in enumerate(read_jsonl(file), 1)
        )
        if len(found) != len(samples):
            found = answer()
            write_text(file, "".join(to_json(asdict(one), str(file)) + "\n" for one in found))
        return found



def _weights(model: str) -> str | None:
    """Hash of a local model's files; None for a hub id."""
    folder = Path(source_of(model))
    return folder_hash(folder) if folder.is_dir() else None
