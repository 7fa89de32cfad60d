"""What the text of an `init` says."""

import pytest
from softprompt.errors import BadInput, UnknownName
from softprompt.initial import INITIALIZERS, Initial


@pytest.mark.parametrize("text", [*INITIALIZERS[:-1], "text:a: b", "file:C:x.npy", "examples:4"])
def test_what_a_prompt_can_begin_with_is_accepted(text: str):
    Initial(text).refuse_unknown()


@pytest.mark.parametrize("text", ["", "unifrom", "uniform:", "auto:x", "text", "text:", "file:", "prompt"])
def test_what_says_nothing_is_refused(text: str):
    with pytest.raises(UnknownName, match="unknown initialiser"):
        Initial(text).refuse_unknown()


@pytest.mark.parametrize("text", ["examples", "examples:", "examples:0", "examples:-1", "examples:1.5", "examples:²"])
def test_examples_are_counted(text: str):
    with pytest.raises(BadInput, match="give the number of examples, at least 1"):
        Initial(text).refuse_unknown()


def test_the_words_of_an_instruction_are_refused():
    with pytest.raises(BadInput, match="give the words by `instruction`"):
        Initial("instruction:Say it.").refuse_unknown()


def test_only_files_and_prompts_have_a_path():
    assert [Initial(text).path for text in ("file:a:b", "prompt:x", "text:a", "file:")] == ["a:b", "x", None, None]
    assert Initial("file:a").with_path("/b/a") == Initial("file:/b/a")


def test_only_instructions_and_examples_begin_as_words():
    assert [text for text in INITIALIZERS if Initial(text).is_words] == ["instruction", "examples:K"]
    assert Initial("examples:12").example_count() == 12
