"""`grounding models`: the known families, what tests verify of each, and the refused model types."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from grounding.console import emit, stdout


@dataclass(frozen=True)
class ModelsCommand:
    """List the families of models, their classes and kinds of attention, and what is verified of each.

    Verified is what tests run on a tiny random model of the real class. A second table has the model types that are
    refused, with the reason. Any other model without a family is loaded with `--family probe`.

    Attributes:
        json: print one JSON object on stdout, with the names of the tests and what each family is asked.
    """

    json: bool = False

    def run(self) -> int:
        """Print the tables."""
        from grounding.catalogue import catalogue, matrix, refusal_table, refusals

        rows, refused = catalogue(), refusals()
        if self.json:
            emit({"families": [asdict(row) for row in rows], "refused": [asdict(row) for row in refused]})
        else:
            text = f"{matrix(rows)}\n\n{refusal_table(refused)}"
            stdout().print(text, markup=False, highlight=False, soft_wrap=True)
        return 0
