from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from extras import needs_extra
from hypothesis import given
from hypothesis import strategies as st

from evals.amber.annotations import AmberScene, Statement, Words, read_annotations
from evals.amber.discriminative import amber_score, read_verdict, score_groups, score_verdicts
from evals.amber.generative import HIGHER_IS_BETTER, score_description, score_descriptions
from evals.amber.nouns import description_nouns, similarity
from evals.commands.amber import EvalAmberCommand
from grounding.errors import EvalDataError, GroundingError

DATA = Path(os.environ.get("GROUNDING_TEST_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
OFFICIAL = DATA / "hallucination" / "amber"

WORDS = Words(
    {
        "forest": ("tree", "bush"),
        "tree": ("forest",),
        "person": ("man", "woman"),
        "sky": (),
        "dog": ("puppy",),
        "cloud": (),
        "light": (),
    },
    frozenset({"light"}),
)
SCENE = AmberScene(("forest", "tree", "person"), ("cloud", "dog"))


def counts(*nouns, similar=None):
    options = {} if similar is None else {"similar": similar}
    return score_description(1, nouns, SCENE, WORDS, **options)


def test_the_counts_by_hand():
    # man: covers person; sky: flagged; puppy: flagged, and a likely hallucination; light: safe; rocket: no object.
    found = counts("man", "sky", "puppy", "light", "rocket")
    assert (found.nouns, found.flagged) == (4, ("sky", "puppy"))
    assert (found.covered, found.shown, found.cognitive, found.targets) == (1, 3, 1, 2)


def test_of_two_true_words_the_associate_goes_first():
    # "tree" is an associate of the first true word, so that one is ticked off, not "tree" itself.
    assert counts("tree").covered == 1
    assert counts("tree", "forest").covered == 2  # "forest" in turn is an associate of "tree"
    assert counts("tree", "bush").covered == 1


def by_flags(nouns, scene, words, similar):
    """The counts by positions in lists of flags, as the authors' script keeps them; (flagged, covered, targets hit)."""

    def laid_out(heads):
        rows = [(word, number) for number, head in enumerate(heads) for word in words.associates[head]]
        return [word for word, _ in rows] + list(heads), [number for _, number in rows], [0] * len(heads)

    def tick(flags, owners, at):
        flags[owners[at] if at < len(owners) else at - len(owners)] = 1

    safe, safe_owners, covered = laid_out(scene.truth)
    targets, target_owners, hit = laid_out(scene.targets)
    flagged = 0
    for noun in nouns:
        if noun not in words.known or noun in words.safe:
            continue
        if noun in safe:
            tick(covered, safe_owners, safe.index(noun))
            continue
        if noun in targets:
            tick(hit, target_owners, targets.index(noun))
        alike = [at for at, word in enumerate(targets) if similar(noun, word)]
        if alike:
            tick(hit, target_owners, alike[0])
        alike = [at for at, word in enumerate(safe) if similar(noun, word)]
        if alike:
            tick(covered, safe_owners, alike[0])
        else:
            flagged += 1
    return flagged, sum(covered), sum(hit)


VOCABULARY = sorted(WORDS.known | {"rocket"})
HEADS = st.lists(st.sampled_from(sorted(WORDS.associates)), unique=True, max_size=4)


@given(
    st.lists(st.sampled_from(VOCABULARY), max_size=8),
    HEADS,
    HEADS,
    st.sets(st.frozensets(st.sampled_from(VOCABULARY), min_size=2, max_size=2), max_size=6),
)
def test_the_counts_are_those_of_flags_kept_by_position(nouns, truth, targets, alike):
    def similar(one, other):
        return one == other or frozenset((one, other)) in alike

    scene = AmberScene(tuple(truth), tuple(targets))
    found = score_description(1, nouns, scene, WORDS, similar)
    assert (len(found.flagged), found.covered, found.cognitive) == by_flags(nouns, scene, WORDS, similar)


def test_every_mention_is_flagged_and_every_object_covered_once():
    found = counts("sky", "sky", "man", "woman")
    assert (found.flagged, found.covered) == (("sky", "sky"), 1)


def test_a_word_like_a_true_one_is_safe_and_covers_it_and_is_asked_of_targets_too():
    def similar(one, other):
        return one == other or {one, other} in ({"sky", "person"}, {"sky", "cloud"})

    found = counts("sky", similar=similar)
    assert (found.flagged, found.covered, found.cognitive) == ((), 1, 1)


def test_figures_are_sums_over_all_and_not_means_of_images():
    one = score_description(1, ["man", "sky"], SCENE, WORDS)
    other = score_description(2, ["tree", "forest", "man"], SCENE, WORDS)
    found = score_descriptions([one, other])
    assert found.chair.value == 1 / 5
    assert found.cover.value == 4 / 6
    assert found.hal.value == 1 / 2
    assert found.cog.value == 0


def test_directions():
    assert HIGHER_IS_BETTER == {"chair": False, "cover": True, "hal": False, "cog": False}
    worse = score_descriptions([counts("man", "sky", "puppy")])
    better = score_descriptions([counts("man", "tree")])
    for name, higher in HIGHER_IS_BETTER.items():
        gain = getattr(better, name).value - getattr(worse, name).value
        assert gain > 0 if higher else gain < 0
    assert amber_score(5, 80) > amber_score(10, 80)
    assert amber_score(10, 85) > amber_score(10, 80)


def test_a_true_word_outside_the_lists_is_refused():
    with pytest.raises(EvalDataError, match="lack 'unicorn'"):
        score_description(1, ["man"], AmberScene(("unicorn",), ()), WORDS)


def verdicts(dimension, truths, responses):
    return [
        read_verdict(Statement(dimension, truth == "yes"), response)
        for truth, response in zip(truths, responses, strict=True)
    ]


def test_no_is_the_positive_class():
    found = score_verdicts(verdicts("state", ["yes", "yes", "no", "no"], ["Yes", "No", "No", "Yes"]))
    assert (found.accuracy, found.precision, found.recall) == (50.0, 50.0, 50.0)
    found = score_verdicts(verdicts("state", ["yes", "no", "no", "no"], ["No", "No", "Yes", "Yes"]))
    assert (found.precision, found.recall) == (50.0, 33.3)


@pytest.mark.parametrize("response", ["yes", "No.", "no", "", "Yes, it is"])
def test_only_the_two_words_letter_for_letter_are_answers(response):
    found = score_verdicts(verdicts("state", ["yes", "no"], [response, response]))
    assert (found.accuracy, found.unread) == (0, 2)


def test_existence_is_always_precise():
    groups = score_groups(
        verdicts("existence", ["no"] * 3, ["No", "Yes", "No"]) + verdicts("relation", ["yes"], ["Yes"])
    )
    assert groups["existence"].precision == pytest.approx(100, abs=0.1)
    assert groups["existence"].recall == 66.6  # 2 / 3.001, as the script's count begins at 0.001
    assert groups["all"].n == 4
    assert set(groups) == {"all", "existence", "relation"}


def test_f1_is_of_rounded_figures_with_the_scripts_small_number():
    found = score_verdicts(verdicts("existence", ["no"] * 3, ["No", "No", "Yes"]), existence=True)
    p, r = found.precision / 100, found.recall / 100
    assert found.f1 == round(200 * p * r / (p + r + 0.001), 1)


@pytest.fixture
def folder(tmp_path):
    annotations = [
        {"id": 1, "type": "generative", "truth": ["forest", "person"], "hallu": ["cloud"]},
        {"id": 2, "type": "discriminative-hallucination", "truth": "no"},
        {"id": 3, "type": "discriminative-relation", "truth": "yes"},
        {"id": 4, "type": "relation", "truth": "no"},
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    (tmp_path / "relation.json").write_text(
        json.dumps({word: list(others) for word, others in WORDS.associates.items()})
    )
    (tmp_path / "safe_words.txt").write_text("light\n")
    return tmp_path


def respond(folder, rows):
    (folder / "responses.json").write_text(json.dumps(rows))
    return EvalAmberCommand(responses=folder / "responses.json", data=folder, pipeline="rules", json=True)


def test_the_command_scores_both_tasks(folder, capsys):
    rows = [(1, "A man under clouds."), (2, "No"), (3, "No"), (4, "No")]
    assert respond(folder, [{"id": one, "response": text} for one, text in rows]).run() == 0
    found = json.loads(capsys.readouterr().out)
    assert found["generative"]["chair"] == 50
    assert found["generative"]["cog"] == 100
    assert found["generative"]["higher_is_better"]["cog"] is False
    assert found["discriminative"]["relation"]["n"] == 2
    assert found["discriminative"]["relation"]["precision"] == 50.0
    assert found["amber_score"] == (100 - 50 + found["discriminative"]["all"]["f1"]) / 2


def test_one_task_alone_is_scored_alone(folder, capsys):
    assert respond(folder, [{"id": 2, "response": "No"}]).run() == 0
    found = json.loads(capsys.readouterr().out)
    assert found["generative"] is None
    assert found["amber_score"] is None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"id": 9, "response": "Yes"}], "1 of 1 ids are not in AMBER's annotations (9)"),
        ([{"id": 2, "response": "Yes"}] * 2, "has 1 ids more than once"),
        ([{"response": "Yes"}], "has no 'id'"),
        ([{"id": 2}], "has no 'response'"),
        ([], "has no rows"),
    ],
)
def test_wrong_responses(rows, said, folder, capsys):
    with pytest.raises(GroundingError) as refusal:
        respond(folder, rows).run()
    assert said in str(refusal.value)
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason=f"no AMBER data in {OFFICIAL}")
def test_the_official_annotations_have_the_counts_that_were_published():
    found = read_annotations(OFFICIAL / "annotations.json")
    assert (len(found.scenes), len(found.statements)) == (1004, 14216)
    existence = [one for one in found.statements.values() if one.dimension == "existence"]
    assert len(existence) == 4924
    assert not any(one.truth for one in existence)
    assert sum(one.dimension == "relation" for one in found.statements.values()) == 975 + 689


@needs_extra("nltk", "eval")
@pytest.mark.usefixtures("nltk_data")
def test_with_nltk_only_nouns_are_found_as_lemmas():
    assert description_nouns("nltk", {"dog"})("The dogs are on the benches.") == ("dog", "bench")


KNOWN = frozenset("can TV sunglasses shoe tie mountain trash watch hot dog".split())


@pytest.mark.parametrize(
    ("text", "nouns"),
    [
        ("A mountain can be seen.", ["mountain"]),
        ("You can see two dogs.", ["dog"]),
        ("A can of beans.", ["can"]),
        ("A trash can, two cans.", ["trash", "can", "can"]),
        ("There is a can.", ["can"]),
        ("They watch a dog. A watch.", ["dog", "watch"]),
        ("People gather to watch TV.", ["TV"]),
        ("A tv and two TVs.", ["TV"]),  # AMBER's list has the capitals alone
        ("Sunglasses, shoes and ties.", ["sunglasses", "shoe", "tie"]),
        ("The dog's hot dog.", ["dog", "dog"]),
    ],
)
def test_the_rules_find_what_the_lists_hold_and_no_verbs(text, nouns):
    assert list(description_nouns("rules", KNOWN)(text)) == nouns


def test_a_modal_verb_is_no_hallucination(tmp_path, capsys):
    """By the authors' script CHAIR of this description is 0."""
    relation = {"mountain": ["hill"], "can": ["tin"]}
    (tmp_path / "relation.json").write_text(json.dumps(relation))
    (tmp_path / "safe_words.txt").write_text("sky\n")
    scene = {"id": 1, "type": "generative", "truth": ["mountain"], "hallu": ["can"]}
    (tmp_path / "annotations.json").write_text(json.dumps([scene]))
    (tmp_path / "responses.json").write_text(json.dumps([{"question_id": 1, "text": "A mountain can be seen."}]))
    command = EvalAmberCommand(data=tmp_path, responses=tmp_path / "responses.json", pipeline="rules", json=True)
    assert command.run() == 0
    found = json.loads(capsys.readouterr().out)
    assert found["generative"]["chair"] == 0
    assert found["variant"]["pipeline"] == "rules"


@needs_extra("spacy", "nlp")
def test_with_spacys_vectors_near_words_are_alike(tmp_path, monkeypatch):
    package = tmp_path / "en_core_web_lg"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import numpy, spacy\n"
        "def load(**options):\n"
        "    model = spacy.blank('en')\n"
        "    for word, vector in {'dog': (1, 0), 'puppy': (0.9, 0.2), 'car': (0, 1)}.items():\n"
        "        model.vocab.set_vector(word, numpy.array(vector, dtype='float32'))\n"
        "    return model\n"
    )
    metadata = tmp_path / "en_core_web_lg-0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: en-core-web-lg\nVersion: 0.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    similar = similarity("en_core_web_lg")
    assert similar("dog", "puppy")
    assert not similar("dog", "car")
