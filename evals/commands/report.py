"""`grounding eval report`: one HTML file about one or several runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from evals.commands.checks import check_seed
from grounding.console import emit, stdout
from grounding.errors import EvalDataError, UsageError


@dataclass(frozen=True, kw_only=True)
class EvalReportCommand:
    """Put runs side by side in one HTML file that needs no network and no script.

    Figures with intervals and paired differences against the first run, the truncation curve, diagnostics where a
    folder holds diagnostics.json or sensitivity.yaml, the worst samples with pictures, and how each run was made.

    Attributes:
        folders: what `grounding eval run` wrote; or folders with scores.json, captions.jsonl and details.jsonl.
        out: the file; report.html in the first folder where none is given.
        title: of the page.
        cases: how many worst samples are shown of each run.
        synonyms: CHAIR's list of synonyms, so that every word for an object is highlighted; without it only the
            objects' own names are. A path, an address with its hash, or `chair-synonyms`.
        seed: of bootstrap and permutation of the differences.
        json: print one JSON object about what was written on stdout.
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path | None = None
    title: str = "Evaluation report"
    cases: int = 12
    synonyms: str | None = None
    seed: int = 0
    json: bool = False

    def run(self) -> int:
        """Read, build, write."""
        from evals.folder import read_folder
        from evals.html.page import build
        from grounding.files import write_text

        check_seed(self.seed)
        if not self.folders:
            raise EvalDataError("no folder was given: give the folder of at least one run")
        if self.cases < 0:
            raise UsageError(f"--cases {self.cases} was given, expected 0 or more")
        lexicon = None
        if self.synonyms:
            from evals.chair.lexicon import read_lexicon
            from evals.fetch import local_file

            lexicon = read_lexicon(local_file(self.synonyms, "the synonyms"))
        runs = [read_folder(folder) for folder in dict.fromkeys(self.folders)]
        page = build(runs, title=self.title, cases=self.cases, lexicon=lexicon, seed=self.seed)
        out = write_text(self.out or self.folders[0] / "report.html", page)
        if self.json:
            emit({"report": str(out), "runs": len(runs), "bytes": len(page.encode())})
        else:
            stdout().print(f"{out}: {len(runs)} runs, {len(page.encode()) / 1e6:.1f} MB")
        return 0
