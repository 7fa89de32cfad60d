"""Compiled prompts of the server: a row costs the same whichever prompt it names, within a bounded memory."""

import gc

import pytest
import torch
from softprompt.backbones import from_model
from softprompt.backbones.fast.shared.runner import Runner
from softprompt.serving import Engine
from softprompt.serving.prefixes import opening_of

from serving_kit import bank_of, some_prompts

TEXTS = ("good movie", "bad film", "a great film", "very bad")


@pytest.fixture(scope="module")
def backbone(tiny_gpt):
    return from_model(*tiny_gpt("llama"), name="tiny-llama")


@pytest.fixture(scope="module")
def prompts(backbone):
    """Prompts of one task with an instruction, of one length and scoring."""
    return {name: prompt for name, prompt in some_prompts(backbone, 100).items() if int(name[1:]) % 16 == 2}


@pytest.fixture
def bank(backbone, prompts):
    return bank_of(backbone, prompts)


@pytest.fixture
def positions(monkeypatch) -> list[int]:
    """Positions of each pass that is computed."""
    counted, whole = [], Runner._inputs

    def counting(self, prompt_batch, batch, layout):
        counted.append(len(layout.tokens))
        return whole(self, prompt_batch, batch, layout)

    monkeypatch.setattr(Runner, "_inputs", counting)
    return counted


def works_of(engine, bank, names):
    return [engine.work(bank.get(name), TEXTS[number % len(TEXTS)]) for number, name in enumerate(names)]


def bytes_of(engine, bank, name) -> int:
    """Memory of one prompt's prefix, alone in a store of its own."""
    engine = Engine(engine.backbone)
    engine.answer(works_of(engine, bank, [name]))
    return engine.prefixes.nbytes


def test_a_row_costs_the_same_whichever_prompt_it_names(backbone, bank, positions):
    engine, plain = Engine(backbone), Engine(backbone, prefix_bytes=0)
    names = list(bank.prompts)
    several, costs = works_of(engine, bank, names), []
    for works in (several, works_of(engine, bank, names[:1] * len(names))):
        expected = plain.answer(works)
        computed = positions[-1]
        engine.answer(works)
        positions.clear()
        answers = engine.answer(works)
        # What is computed is the text behind the instruction, and the labels.
        assert len(positions) == 1
        assert positions[0] < computed
        costs.append(positions[0])
        for ours, theirs in zip(answers, expected, strict=True):
            torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-4)
    assert costs[0] == costs[1]
    assert backbone.tokenizer.decode(opening_of(several[0]), skip_special_tokens=True).strip() == "it is"


def test_the_memory_is_bounded_and_what_was_not_asked_for_longest_goes_first(backbone, bank, positions):
    names = list(bank.prompts)[:4]
    room = sum(bytes_of(Engine(backbone), bank, name) for name in names[:3])
    engine = Engine(backbone, prefix_bytes=room)
    plain = Engine(backbone, prefix_bytes=0)

    def passes(*which: int) -> int:
        positions.clear()
        works = works_of(engine, bank, [names[i] for i in which])
        answers, passes = engine.answer(works), len(positions)
        assert engine.prefixes.nbytes <= room
        for ours, theirs in zip(answers, plain.answer(works), strict=True):
            torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-4)
        return passes

    # New prompts are computed together before the pass; then they are known.
    assert [passes(0), passes(1, 2), passes(1, 0, 2)] == [2, 2, 1]
    # The first prompt was asked for last but one.
    passes(3)
    assert passes(2) == passes(0) == 1
    assert passes(1) == 2
    # More prompts than there is room for: three are read, the fourth is computed within the pass.
    assert passes(0, 1, 2, 3) == 1


def test_a_prompt_that_is_replaced_or_removed_gives_its_memory_back(backbone, bank, prompts):
    engine = Engine(backbone)
    first, second = list(prompts)[:2]
    engine.answer(works_of(engine, bank, [first, second]))
    assert len(engine.prefixes) == 2
    taken = works_of(engine, bank, [first])
    before = bank.get(first).version
    bank.put([(first, prompts[second])])
    # What was taken before is answered by the old prompt.
    assert taken[0].served.version == before
    old = Engine(backbone, prefix_bytes=0).answer(taken)[0]
    torch.testing.assert_close(engine.answer(taken)[0].scores, old.scores, rtol=0, atol=1e-4)
    taken.clear()
    gc.collect()
    new, other = (engine.work(bank.get(name), "good") for name in (first, second))
    torch.testing.assert_close(*(answer.scores for answer in engine.answer([new, other])), rtol=0, atol=1e-4)
    del new, other
    assert len(engine.prefixes) == 2
    bank.remove([first])
    gc.collect()
    engine.answer(works_of(engine, bank, [second]))
    assert len(engine.prefixes) == 1
    assert engine.prefixes.nbytes == bytes_of(engine, bank, second)


def test_rows_that_have_more_in_common_than_the_instruction_compute_it_once(backbone, bank, positions):
    name, texts = next(iter(bank.prompts)), ["the film is very " + word for word in ("good", "bad", "great")] * 3
    engine, plain = Engine(backbone), Engine(backbone, prefix_bytes=0)
    works = [engine.work(bank.get(name), text) for text in texts]
    for answering in (plain, engine):
        answering.answer(works)
    assert positions[0] == positions[-1]


def test_a_prompt_larger_than_the_memory_is_computed_in_each_pass(backbone, bank, positions):
    engine = Engine(backbone, prefix_bytes=1)
    for _ in range(2):
        engine.answer(works_of(engine, bank, list(bank.prompts)[:2]))
    assert engine.prefixes.nbytes == 0
