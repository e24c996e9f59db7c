"""`grounding eval report`: write one HTML file about one or several runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from evals.commands.generation import check_seed
from grounding.console import emit, stdout
from grounding.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class EvalReportCommand:
    """Show runs side by side in one HTML file, which works offline and contains no script.

    The page has the metrics with intervals and paired differences from the first run, the truncation curve, diagnostics
    where a folder holds diagnostics.json or sensitivity.yaml, the worst samples with pictures, and each run's settings.

    Attributes:
        folders: run folders of `grounding eval run`, or folders with scores.json, captions.jsonl and details.jsonl.
        out: the file; report.html in the first folder if left out.
        title: of the page.
        cases: number of worst samples shown of each run.
        synonyms: CHAIR's synonym list, to highlight the words of another list than the one that scored the runs, or of
            runs whose details do not say their words. A path, an address with its hash, or `chair-synonyms`.
        seed: of bootstrap and permutation test.
        json: print the file's path and size as one JSON object on stdout.
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path | None = None
    title: str = "Evaluation report"
    cases: int = 12
    synonyms: str | None = None
    seed: int = 0
    json: bool = False

    def run(self) -> int:
        """Read the runs, build the page and write it."""
        from evals.folder import read_folder
        from evals.html.page import build
        from grounding.files import check_writable, write_text

        check_seed(self.seed)
        if not self.folders:
            raise UsageError("no folder was given: give the folder of at least one run")
        if self.cases < 0:
            raise UsageError(f"--cases {self.cases} was given, expected 0 or more")
        lexicon = None
        if self.synonyms:
            from evals.chair.lexicon import read_lexicon
            from evals.fetch import local_file

            lexicon = read_lexicon(local_file(self.synonyms, "the synonyms"))
        runs = [read_folder(folder) for folder in dict.fromkeys(self.folders)]
        check_writable(self.out or self.folders[0] / "report.html")
        page = build(runs, title=self.title, cases=self.cases, lexicon=lexicon, seed=self.seed)
        out = write_text(self.out or self.folders[0] / "report.html", page)
        if self.json:
            emit({"report": str(out), "runs": len(runs), "bytes": len(page.encode())})
        else:
            stdout().print(f"{out}: {len(runs)} runs, {len(page.encode()) / 1e6:.1f} MB")
        return 0
