"""The words about a scene are checked against an independent reading of them, not against the code that wrote them."""

from __future__ import annotations

import pytest

from grounding.scenes.drawing import COLOURS, PATTERNS, SHAPES, SIZES, Scene, SceneConfig, SceneObject, draw_scene
from grounding.scenes.language import EXTREMES, RELATIONS, SIDES, VOCABULARY, SceneTexts, caption, cell_of

SCENES = [draw_scene(seed, SceneConfig(size=96)) for seed in range(60)]


def fits(thing: SceneObject, words: list[str]) -> bool:
    kind = thing.kind
    wanted = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "pattern": PATTERNS}
    return all(word == getattr(kind, part) for word in words for part, values in wanted.items() if word in values)


def referents(scene: Scene, text: str) -> list[int]:
    """Reads a referring expression from left to right, as a person would."""
    for words, (axis, sign) in RELATIONS.items():
        if f" {words} " in text:
            target, anchor = text.split(f" {words} ")
            (place,) = [t.centre[axis] for t in scene.objects if fits(t, anchor.split())]
            near = [i for i, t in enumerate(scene.objects) if fits(t, target.split())]
            return [i for i in near if sign * (scene.objects[i].centre[axis] - place) > 0]
    near = [i for i, t in enumerate(scene.objects) if fits(t, text.split())]
    for words, (axis, sign) in (EXTREMES | SIDES).items():
        if words in text:
            return [max(near, key=lambda i: sign * scene.objects[i].centre[axis])]
    return near


def test_every_expression_is_true_of_its_target_alone():
    kinds = set()
    for scene in SCENES:
        for expression in SceneTexts(scene).expressions:
            assert referents(scene, expression.text) == [expression.target_index], expression.text
            kinds.add(expression.kind)
    assert kinds == {"plain", "attribute", "position", "relation"}


def test_existence_questions_are_answered_truly_and_both_ways():
    answers = []
    for scene in SCENES:
        for question in SceneTexts(scene).questions:
            if question.kind == "exists":
                assert question.answer == ("yes" if referents(scene, question.text) else "no")
                answers.append(question.answer)
    assert 0.4 < answers.count("yes") / len(answers) < 0.6


def test_counts_and_attributes_are_true():
    for scene in SCENES:
        for question in SceneTexts(scene).questions:
            words = question.text.split()
            if question.kind == "count":
                assert int(question.answer) == sum(
                    words[2] in (t.kind.shape + "s", t.kind.shape + "es") for t in scene.objects
                )
            if question.kind == "attribute":
                part = {"color": "colour"}.get(words[1], words[1])
                assert {getattr(scene.objects[i].kind, part) for i in referents(scene, question.text)} == {
                    question.answer
                }


def test_only_words_of_the_vocabulary_are_used():
    texts = [e.text for s in SCENES for e in SceneTexts(s).expressions] + [
        c for s in SCENES for c in SceneTexts(s).captions
    ]
    texts += [part for s in SCENES for q in SceneTexts(s).questions for part in (q.text, q.answer)]
    assert {word for text in texts for word in text.split()} <= set(VOCABULARY)


def test_a_caption_goes_from_left_to_right_and_names_everything():
    for scene in SCENES[:20]:
        ordered = sorted(scene.objects, key=lambda t: t.centre[0])
        named = [word for word in caption(scene.objects, attributes=True).split() if word in SHAPES]
        assert named == [t.kind.shape for t in ordered]


@pytest.mark.parametrize(("centre", "cell"), [((0.0, 0.0), (0, 0)), ((0.999, 0.5), (11, 6)), ((1.0, 1.0), (11, 11))])
def test_cells_are_counted_column_first(centre: tuple[float, float], cell: tuple[int, int]):
    thing = SCENES[0].objects[0]
    assert cell_of(SceneObject(thing.kind, centre, thing.mask)) == cell
