"""The tagger's weights as a table: the tags are NLTK's own."""

from __future__ import annotations

import pytest
from extras import needs_extra
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evals.nltk_tags import WeightTable, load_nltk, reading_from

WORDS = st.sampled_from("two dogs bench seated people 1999 7th well-lit ? are , zzz the some Dog".split())


@needs_extra("nltk", "eval")
@pytest.mark.usefixtures("nltk_data")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WORDS, max_size=12))
def test_the_tags_are_those_of_nltk(words):
    text = " ".join(words)
    import nltk

    assert load_nltk("a test").tagged(text) == nltk.pos_tag(nltk.word_tokenize(text))


def test_of_equal_scores_the_last_label_counts_and_unknown_features_do_not():
    table = WeightTable({"bias": {"NN": 0.5, "VB": 0.5}, "i word dog": {"NN": 1.0}}, {"NN", "VB", "DT"})
    assert table.predict({"bias": 1, "i word cat": 1}) == ("VB", None)
    assert table.predict({"bias": 1, "i word dog": 1}) == ("NN", None)
    assert table.predict({}) == ("VB", None)


@needs_extra("nltk", "eval")
@pytest.mark.usefixtures("nltk_data")
def test_a_folder_is_read_within_its_context_alone(tmp_path):
    import nltk

    before = list(nltk.data.path)
    with reading_from(tmp_path):
        assert nltk.data.path == [str(tmp_path)]
    assert nltk.data.path == before
