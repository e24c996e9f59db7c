"""Warn about runs whose metrics may mislead: texts that loop, end early, or are missing."""

from __future__ import annotations

from evals.chair.words import by_rules
from evals.folder import Folder
from evals.textquality import text_quality

# Smallest share of the texts that gives a warning; our choice.
REPEATED, UNFINISHED, EMPTY = 0.05, 0.10, 0.01
# Mean share of distinct 4-grams below which texts count as looping; human captions have about 0.95.
DISTINCT_4 = 0.80
_SHORT = 4.0  # texts of fewer words on average are short answers, which need no full stop


def flags(run: Folder) -> tuple[str, ...]:
    """Return one sentence per warning."""
    found = []
    failed = [one for one in run.samples if one.error]
    if failed:
        found.append(f"{len(failed)} of {len(run.samples)} samples failed and are in no figure.")
    total = run.manifest.get("samples")
    if isinstance(total, int) and len(run.samples) < total:
        found.append(f"The run is not complete: {len(run.samples)} of {total} samples are there.")
    texts = [one for one in run.samples if not one.error and ("text" in one.fields or one.text)]
    if not texts:
        return tuple(found)
    written = [one for one in texts if one.text.strip()]
    if len(texts) - len(written) >= EMPTY * len(texts):
        count = len(texts) - len(written)
        if count:
            found.append(f"{count} of {len(texts)} texts are empty, which no share of wrong words shows.")
    endings = [one.finished for one in texts if one.finished is not None]
    if endings and endings.count(False) >= UNFINISHED * len(endings):
        found.append(f"{endings.count(False)} of {len(endings)} texts were cut at the token limit.")
    words = [by_rules(one.text) for one in written]
    if not written or sum(map(len, words)) / len(words) < _SHORT:
        return tuple(found)
    signs = [text_quality(one.text, base) for one, base in zip(written, words, strict=True)]
    repeated = sum(one.repeats for one in signs)
    if repeated >= REPEATED * len(signs):
        found.append(f"{repeated} of {len(signs)} texts say a sentence twice.")
    shares = [one.distinct_grams / one.grams for one in signs if one.grams]
    if shares and sum(shares) / len(shares) < DISTINCT_4:
        found.append(f"Texts loop: only {sum(shares) / len(shares):.0%} of their 4-grams differ.")
    cut = sum(one.cut_off for one in signs)
    # If every text lacks a full stop, the model's closed vocabulary may have none.
    if not endings and UNFINISHED * len(signs) <= cut < len(signs):
        found.append(f"{cut} of {len(signs)} texts end in mid-sentence.")
    return tuple(found)
