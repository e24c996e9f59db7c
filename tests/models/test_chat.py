from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounding.errors import ModelError
from grounding.models.chat import render


class Templated:
    """A processor as far as `render` needs one: a chat template written in Python."""

    chat_template = "python"

    def __init__(self, template: Callable[[str], str]) -> None:
        self.template = template

    def apply_chat_template(self, messages: Any, *, add_generation_prompt: bool, tokenize: bool) -> str:
        assert add_generation_prompt
        assert not tokenize
        return self.template(messages[0]["content"][1]["text"])


PLAIN = Templated(lambda text: f"USER: <image>\n{text} ASSISTANT:")
SLOT = "Where is {expression}?"


def test_the_expression_is_found_although_its_words_stand_elsewhere() -> None:
    rendered = render(
        Templated(lambda text: f"Where is dog? <image> {text} dog"), "dog {expression}, dog?", "dog", "<image>"
    )
    start, end = rendered.span
    assert rendered.text[start:end] == "dog"
    assert rendered.text[:start].endswith("<image> dog ")


def test_blanks_around_the_expression_keep_its_offsets() -> None:
    rendered = render(Templated(lambda text: f"<image>{text.strip()}!"), "{expression}", "  red dog ", "<image>")
    start, _ = rendered.span
    assert rendered.text[start + 2 : start + 9] == "red dog"


def test_a_generic_prompt_stands_for_itself() -> None:
    rendered = render(PLAIN, "Describe the image.", "dog", "<image>")
    assert rendered.text[slice(*rendered.span)] == "Describe the image."


def test_repeated_text_is_read_at_its_last_place() -> None:
    rendered = render(Templated(lambda text: f"{text} <image> {text}"), SLOT, "dog", "<image>")
    assert rendered.text[slice(*rendered.span)] == "dog"
    assert rendered.span[0] > rendered.text.index("<image>")


@given(
    st.text(st.characters(exclude_categories=["Cs", "Co"])), st.sampled_from(["{expression}", SLOT, "a {expression} a"])
)
def test_any_expression_is_found(expression: str, template: str) -> None:
    rendered = render(PLAIN, template, expression, "<image>") if "<image>" not in expression else None
    if rendered is not None:
        lead = len(expression) - len(expression.lstrip())
        assert rendered.text[rendered.span[0] + lead : rendered.span[1]] == expression.strip()


@pytest.mark.parametrize(
    "template",
    [
        lambda text: f"<image>{text[:5]}",
        lambda text: f"{text}",
        lambda text: f"<image><image>{text}",
        lambda text: f"<image>{text.encode('ascii', 'ignore').decode()}",
        lambda text: f"<image>{len(text)} {text}",
    ],
)
def test_templates_that_rewrite_the_text_are_refused(template: Callable[[str], str]) -> None:
    with pytest.raises(ModelError, match="does not place one image and the prompt's text unchanged"):
        render(Templated(template), SLOT, "red dog", "<image>")


def test_two_slots_are_refused() -> None:
    with pytest.raises(ModelError, match="2 slots"):
        render(PLAIN, "{expression} {expression}", "dog", "<image>")


def test_no_chat_template_is_refused() -> None:
    bare = Templated(lambda text: text)
    bare.chat_template = ""
    with pytest.raises(ModelError, match="has no chat template"):
        render(bare, SLOT, "dog", "<image>")
