"""`grounding models`: the known families, and what tests verify of each."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from grounding.console import emit, stdout


@dataclass(frozen=True)
class ModelsCommand:
    """List the families of models, their classes and kinds of attention, and what is verified of each.

    Verified is what tests run on a tiny random model of the real class. A model without a family is loaded with
    `--family probe`.

    Attributes:
        json: print one JSON object on stdout, with the names of the tests.
    """

    json: bool = False

    def run(self) -> int:
        """Print the table."""
        from grounding.catalogue import catalogue, matrix

        rows = catalogue()
        if self.json:
            emit({"families": [asdict(row) for row in rows]})
        else:
            stdout().print(matrix(rows), markup=False, highlight=False, soft_wrap=True)
        return 0
