"""The configuration of a run: everything that decides its results, as one hash."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from grounding.methods import Method
from grounding.runs.provenance import model_identity, nouns_identity, segmenter_identity, settings_text, short_hash
from grounding.sources import member_methods
from grounding.steering.decoding import Decoding
from grounding.steering.method import Steering
from pipelines.open_ended_settings import DiscoverySettings

DEFAULT_NOUNS = "rules"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides the results, and nothing else.

    Device and batch size are left out, because they change results by float rounding at most: a run can be resumed on
    another machine.

    Attributes:
        model: hub id, starter's name, or the folder's last name.
        weights: hash of the files of a model folder, or the commit of a hub model.
        segmenter: its name, of a file or folder the last part; empty without one.
        segmenter_weights: hash of its files, or the commit of a hub model; None without a segmenter.
        method: its name.
        method_text: its YAML without prose, so that a changed number is another configuration; of an ensemble with that
            of every member behind it.
        dtype: the resolved number format, `float32` for instance.
        seed: of random generators.
        nouns: which noun finder reads the words; see `grounding.runs.provenance.nouns_identity`.
    """

    model: str
    weights: str
    segmenter: str
    segmenter_weights: str | None
    method: str
    method_text: str
    dtype: str
    seed: int
    nouns: str = DEFAULT_NOUNS

    @property
    def hash(self) -> str:
        """12 hexadecimal digits."""
        return short_hash(self.plain(), 12)

    def plain(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class DescribeConfig(RunConfig):
    """Everything that decides descriptions; `segmenter` is empty where no masks are asked for.

    Attributes:
        question: the prompt; None is the model's own request for a description.
        steering: the steering method's name; None without steering.
        steering_text: its YAML without prose.
        decoding: how texts are generated.
        threshold: support below which a noun is flagged; None is the model's own.
    """

    question: str | None
    steering: str | None
    steering_text: str | None
    decoding: Decoding
    threshold: float | None


@dataclass(frozen=True, kw_only=True)
class OpenEndedConfig(RunConfig):
    """Everything that decides what open-ended segmentation finds.

    Attributes:
        settings: how objects are listed, found and ranked.
        steering: the steering method's name; None without steering.
        steering_text: its YAML without prose.
        decoding: how answers are generated.
        vocabulary: hash of the categories; None without.
        embedder: the text embedding model and its weights; None without.
        top_categories: most categories of one name that are found by embedding.
    """

    settings: DiscoverySettings
    steering: str | None
    steering_text: str | None
    decoding: Decoding
    vocabulary: str | None
    embedder: str | None
    top_categories: int


def embedder_identity(name: str) -> str:
    """Identify a text embedding model without loading it: its name, and the hash or commit of its weights.

    Raises:
        ModelError: the hub does not know it or cannot be reached.
    """
    from grounding.files import user_path
    from grounding.model_files import hub_commit
    from grounding.runs.content import folder_hash

    folder = user_path(name)
    return f"{folder.name} {folder_hash(folder)}" if folder.is_dir() else f"{name} {hub_commit(name)}"


def run_config(
    model: str,
    segmenter: str,
    method: Method,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    nouns: str = DEFAULT_NOUNS,
    family: str | None = None,
) -> RunConfig:
    """Make the configuration of a run without loading model or segmenter; an empty `segmenter` is none.

    Raises:
        ModelError: see `grounding.runs.provenance.model_identity`.
        SegmenterError: see `grounding.runs.provenance.segmenter_identity`.
        MissingExtraError: MobileSAM without the extra `starter`.
    """
    name, weights = segmenter_identity(segmenter) if segmenter else ("", None)
    members = [f"# member, method {own.name}\n{settings_text(own)}" for own in member_methods(model, method)]
    return RunConfig(
        **asdict(model_identity(model, device, dtype, family)),
        segmenter=name,
        segmenter_weights=weights,
        method=method.name,
        method_text="".join([settings_text(method), *members]),
        seed=seed,
        nouns=nouns_identity(nouns),
    )


def describe_config(
    base: RunConfig, question: str | None, steering: Steering | None, decoding: Decoding, threshold: float | None
) -> DescribeConfig:
    """Extend a run's configuration by what decides descriptions."""
    return DescribeConfig(
        **asdict(base),
        question=question,
        steering=steering.name if steering else None,
        steering_text=settings_text(steering) if steering else None,
        decoding=decoding,
        threshold=threshold,
    )
