"""NLTK's data files for a few words, made here: the real ones are downloads."""

from __future__ import annotations

import json
from pathlib import Path

# One tagged sentence a line; the tagger is trained on them.
_SENTENCES = """
two/CD dogs/NNS are/VBP here/RB ./.
people/NNS are/VBP seated/VBN there/RB ./.
the/DT dogs/NNS are/VBP on/IN the/DT benches/NNS ./.
two/CD dogs/NNS and/CC some/DT benches/NNS
a/DT dog/NN sits/VBZ on/IN a/DT bench/NN ./.
"""
# The lemmas of the made WordNet, by part of speech.
_LEMMAS = {"noun": "dog bench seat people".split(), "verb": "be seat sit".split(), "adj": ["red"], "adv": ["here"]}
_EXCEPTIONS = {"verb": "are be\nis be\nsat sit\n"}


def forget_nltk() -> None:
    """Let go of what NLTK and we have loaded, so that the next use reads the data folders again."""
    import nltk

    from evals.nltk_tags import load_nltk

    for loaded in (load_nltk, nltk.tag._get_tagger, nltk.tokenize._get_punkt_tokenizer):
        loaded.cache_clear()
    if hasattr(nltk.corpus.wordnet, "_unload"):
        nltk.corpus.wordnet._unload()


def write_nltk_data(folder: Path) -> Path:
    """Write `punkt_tab`, `averaged_perceptron_tagger_eng` and `wordnet` in the layout of NLTK's data folder."""
    from nltk.tag.perceptron import PerceptronTagger

    punkt = folder / "tokenizers" / "punkt_tab" / "english"
    punkt.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (punkt / name).write_text("")

    tagger = PerceptronTagger(load=False)
    words = [line.split() for line in _SENTENCES.split("\n") if line]
    tagger.train([[tuple(word.rsplit("/", 1)) for word in sentence] for sentence in words], nr_iter=10)
    tags = folder / "taggers" / "averaged_perceptron_tagger_eng"
    tags.mkdir(parents=True)
    for value, name in zip(tagger.encode_json_obj(), tagger.param_files("eng"), strict=True):
        (tags / name).write_text(json.dumps(value))

    wordnet = folder / "corpora" / "wordnet"
    wordnet.mkdir(parents=True)
    for name in ("cntlist.rev", "index.sense"):
        (wordnet / name).write_text("")
    (wordnet / "lexnames").write_text("00\tadj.all\t3\n")
    for part, lemmas in _LEMMAS.items():
        letter = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}[part]
        # lemma, part of speech, synsets, pointers, senses, ranked senses, offset of each synset
        lines = [f"{lemma} {letter} 1 0 1 0 {number:08d}  \n" for number, lemma in enumerate(lemmas)]
        (wordnet / f"index.{part}").write_text("".join(lines))
        (wordnet / f"data.{part}").write_text("  1 WordNet 3.0 Copyright 2006 by Princeton University.\n")
        (wordnet / f"{part}.exc").write_text(_EXCEPTIONS.get(part, ""))
    return folder
