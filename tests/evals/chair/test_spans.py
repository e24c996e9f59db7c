from __future__ import annotations

from evals.chair.lexicon import make_lexicon
from evals.chair.spans import mention_spans, plain_lexicon

LEXICON = make_lexicon("person, man, woman\ndining table, table\nchair, seat\ntoilet\nhot dog, hotdog\ndog, puppy\n")


def cut(text: str, lexicon=LEXICON) -> list[tuple[str, str]]:
    return [(text[one.start : one.end], one.object) for one in mention_spans(text, lexicon)]


def test_words_are_found_where_they_stand() -> None:
    text = "Two MEN\u2019s puppies: a hot dog on the tables, no car."
    assert cut(text) == [("MEN", "person"), ("puppies", "dog"), ("hot dog", "hot dog"), ("tables", "dining table")]


def test_they_are_those_that_chair_counts() -> None:
    from evals.chair.words import by_rules

    for text in ("A man, a seat and a toilet seat.", "A seat.", "hot dogs, dog", ""):
        counted = LEXICON.objects(LEXICON.merge(by_rules(text)))
        assert tuple(one.object for one in mention_spans(text, LEXICON)) == counted


def test_forms_of_verbs_are_words_only_where_they_are_asked_for() -> None:
    text = "Seated people are seating dogs on a running table."
    found = [text[one.start : one.end] for one in mention_spans(text, LEXICON, verbs=True)]
    assert found == ["Seated", "seating", "dogs", "table"]
    assert [word for word, _ in cut(text)] == ["dogs", "table"]


def test_names_of_two_words_are_known_by_themselves() -> None:
    assert cut("A dining table.", plain_lexicon(["dining table"])) == [("dining table", "dining table")]
