"""Which evaluation to store: what each rule of the experiment chooses, and how the real model is asked."""

from pathlib import Path

from experiments.best_step.__main__ import REAL, RULES, asked, tables


def row(step, score, loss, test=0.5):
    return {"step": step, "score": score, "label_loss": loss, "test": test}


def chosen(*rows):
    return {rule: choose(rows)["step"] for rule, choose in RULES.items()}


def test_each_rule_chooses_by_what_it_names():
    # A standard error of .75 of 32 rows is .077; a row is .031.
    near = chosen(row(0, 0.75, 0.9), row(25, 0.6875, 0.5), row(50, 0.6875, 0.4), row(75, 0.5, 0.2))
    assert near["the same, words kept"] == 0
    assert near["words left within an error"] == 50
    assert (near["best trained"], near["label loss"], near["last step"]) == (50, 75, 75)
    far = chosen(row(0, 0.75, 0.9), row(25, 0.65625, 0.5))
    assert (far["words left within an error"], far["words left within two"]) == (0, 25)
    # A loss that is no smaller keeps the words, a higher score leaves them whatever the loss.
    assert chosen(row(0, 0.75, 0.5), row(25, 0.75, 0.5))["words left within two"] == 0
    assert chosen(row(0, 0.75, 0.5), row(25, 0.78125, 0.9))["words left within an error"] == 25
    # All right is sure: it has no error.
    assert chosen(row(0, 1.0, 0.9), row(25, 0.96875, 0.1))["words left within two"] == 0
    # Without words the score chooses, then the loss.
    random = chosen(row(25, 0.5, 0.5), row(50, 0.75, 0.4), row(75, 0.75, 0.3))
    assert random["words left within an error"] == random["the same, words kept"] == 75
    assert random["score"] == 50


def test_rules_are_compared_over_the_cells_of_each_model():
    arms = {"prompt": {"seed900": [row(0, 0.5, 0.9, 0.25), row(25, 0.5, 0.1, 1.0)]}}
    found = tables({f"{REAL}:a": arms, "lab-gpt:a": arms, "lab-t5:a": arms})
    assert [(each["models"], each["cells"]) for each in found["overall"]] == [("all", 3), ("lab", 2), (REAL, 1)]
    assert found["overall"][2]["the same, words kept"] == 0.25
    assert found["overall"][2]["last step"] == 1.0


def test_the_real_model_is_asked_with_an_instruction_and_a_lab_model_is_not():
    assert asked(f"{REAL}:lab/topic", None, Path()).instruction.endswith("travel?")
    assert not asked("lab-gpt:lab/topic", None, Path()).instruction
