"""Many prompts over one frozen model: every answer of a shared pass is the single answer of `predict`."""

import asyncio
import dataclasses
import itertools
import time
from typing import Any

import pytest
import torch
from softprompt.backbones import AbstractBackbone, from_model
from softprompt.errors import BadInput, ModelMismatch, UnknownName
from softprompt.inference.answers import Answers
from softprompt.inference.predict import predict
from softprompt.inference.scoring import Scoring
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.prompts.prompt import LinearHead
from softprompt.serving import Answer, Batcher, Draining, Engine, Limits, Overloaded, PromptBank, TooLate, TooLong, Work
from softprompt.serving.generation import Writing
from softprompt.serving.passes import next_pass

from serving_kit import TOKENS, WRITTEN, agrees, bank_of, singles, some_inputs, some_prompts

KINDS = {
    "t5": {},
    "bart": {},
    "llama": {},
    "llama by transformers": {"engine": "reference"},
    "bert": {"answers": "label-words"},
    "bert by heads": {"answers": "linear-head"},
}


@pytest.fixture(scope="module")
def backbones(tiny_model):
    made: dict[str, AbstractBackbone] = {}

    def backbone(kind: str) -> AbstractBackbone:
        if kind not in made:
            made[kind] = from_model(*tiny_model(kind.split()[0]), name=f"tiny-{kind}", **KINDS[kind])
        return made[kind]

    return backbone


@pytest.fixture(scope="module")
def backbone(backbones) -> AbstractBackbone:
    return backbones("llama")


@pytest.fixture(scope="module")
def bank(backbone) -> PromptBank:
    return bank_of(backbone, some_prompts(backbone, 50))


@pytest.fixture(scope="module")
def engine(backbone) -> Engine:
    return Engine(backbone)


def works_of(engine: Engine, bank: PromptBank, count: int, **options: Any) -> list[Work]:
    return [engine.work(served, given, max_new_tokens=TOKENS, **options) for served, given in some_inputs(bank, count)]


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_requests_to_fifty_prompts_are_answered_as_each_alone(backbones, kind, monkeypatch):
    backbone = backbones(kind)
    bank, engine = bank_of(backbone, some_prompts(backbone, 50)), Engine(backbone)
    requests = list(some_inputs(bank, 20))
    # Passes of one row, and for some of them what `predict` says.
    alone = [engine.answer([engine.work(*request, max_new_tokens=TOKENS)])[0] for request in requests]
    passes: list[int] = []
    run = engine.run
    monkeypatch.setattr(engine, "run", lambda works: (passes.append(len(works)), run(works))[1])
    answers = engine.answer([engine.work(served, given, max_new_tokens=TOKENS) for served, given in requests])
    for answer, single, (served, _) in zip(answers, alone, requests, strict=True):
        assert answer.text == single.text or backbone.answers == "linear-head"
        assert answer.probabilities(served.asked.task.labels) == pytest.approx(
            single.probabilities(served.asked.task.labels), abs=1e-4
        )
    for answer, expected, (served, _) in zip(answers, singles(requests[:4], backbone), requests, strict=False):
        assert agrees(answer, expected, served)
    # The rows of one way of answering, whatever their tasks, share passes.
    assert len(passes) <= 6


def test_a_prompt_trained_to_write_its_answer_writes_it_here_too(backbone, engine):
    prompt = some_prompts(backbone, 1)["p0"]
    scoring = Scoring(decode="generate", max_new_tokens=3)
    prompt = dataclasses.replace(prompt, provenance=dataclasses.replace(prompt.provenance, scoring=scoring.to_json()))
    (answer,) = engine.answer([engine.work(bank_of(backbone, {"p": prompt}).get("p"), "good")])
    assert [{"text": "good", "output": answer.text}] == predict(prompt, ["good"], model=backbone)


def test_a_model_in_training_mode_serves_as_in_evaluation_mode(tiny_t5):
    backbone = from_model(*tiny_t5(dropout_rate=0.5), name="tiny-dropping")
    bank, engine = bank_of(backbone, some_prompts(backbone, 1)), Engine(backbone)
    expected = engine.run(works_of(engine, bank, 3))
    backbone.model.train()
    assert str(engine.run(works_of(engine, bank, 3))) == str(expected)
    assert backbone.model.training


def test_a_row_with_a_fault_fails_alone(engine, bank, monkeypatch):
    works = [engine.work(bank.get("p0"), text) for text in ("good", "bad film", "great")]
    whole, faulty = type(engine.backbone).label_scores_each, works[1].row.inputs.row(0).long()

    def failing(self, prompt_batch, batch, readings, which):
        if any(torch.equal(ids[mask], faulty) for ids, mask in zip(batch.ids, batch.mask, strict=True)):
            raise RuntimeError("a fault")
        return whole(self, prompt_batch, batch, readings, which)

    monkeypatch.setattr(type(engine.backbone), "label_scores_each", failing)
    assert [isinstance(outcome, Exception) for outcome in engine.run(works)] == [False, True, False]


@pytest.mark.parametrize("names", [("p0", "p4"), ("p3", "p7")], ids=["scored", "written"])
def test_a_prompt_with_which_the_model_computes_nan_fails_and_the_others_are_answered(names, tiny_gpt):
    backbone = from_model(*tiny_gpt("gpt2"), name="tiny-gpt2")
    prompts = {name: prompt for name, prompt in some_prompts(backbone, 8).items() if name in names}
    huge = prompts[names[1]]
    prompts[names[1]] = dataclasses.replace(huge, vectors=torch.full_like(huge.vectors, 3e38))
    bank, engine, told = bank_of(backbone, prompts), Engine(backbone), []
    works = [engine.work(bank.get(name), "good", max_new_tokens=TOKENS, tell=told.append) for name in names]
    (alone,), told[:] = engine.run(works[:1]), []
    right, wrong = engine.run(works)
    assert str(right) == str(alone)
    assert isinstance(right, Answer)
    assert len(told) == right.tokens
    assert isinstance(wrong, BadInput)
    assert "the model computes NaN with this prompt" in str(wrong)


@pytest.mark.parametrize("name", ["p0", "p2"], ids=["label", "number"])
def test_a_head_that_gives_nan_fails(name, tiny_model):
    backbone = from_model(*tiny_model("bert"), name="tiny-bert", answers="linear-head")
    backbone.model.base_model.encoder.layer[-1].output.LayerNorm.weight.data.fill_(torch.nan)
    bank, engine = bank_of(backbone, {name: some_prompts(backbone, 3)[name]}), Engine(backbone)
    (wrong,) = engine.run([engine.work(bank.get(name), {"text": "good"})])
    assert isinstance(wrong, BadInput)
    assert "the model computes NaN with this prompt" in str(wrong)


class TestTexts:
    def test_blank_and_overlong_texts_and_half_characters_are_refused(self, engine, bank):
        served = bank.get("p2")
        assert served.asked.task.name == "spelt"
        with pytest.raises(BadInput, match="blank"):
            engine.work(served, " \n")
        with pytest.raises(TooLong, match=f"longer than the {served.asked.limit} tokens"):
            engine.work(served, "good " * 100)
        assert engine.work(served, "good " * 100, truncate=True).tokens == served.asked.limit
        for text in ("g" * 100000, "good " * 20000):
            with pytest.raises(TooLong, match="has 100000 characters"):
                engine.work(served, text)
            work = engine.work(served, text, truncate=True)
            assert (work.tokens, work.truncated) == (served.asked.limit, True)
        with pytest.raises(BadInput, match="surrogate"):
            engine.work(served, "good \ud800")

    def test_a_task_of_several_columns_takes_rows(self, engine, bank):
        with pytest.raises(BadInput, match="several columns"):
            engine.work(bank.get("p1"), "good")
        with pytest.raises(BadInput, match=r"^this row: unknown column 'b'"):
            engine.work(bank.get("p1"), {"a": "good"})

    def test_nothing_is_kept_on_disk(self, engine, bank, monkeypatch, tmp_path):
        monkeypatch.setenv("SOFTPROMPT_CACHE", str(tmp_path))
        engine.work(bank.get("p0"), "good")
        assert list(tmp_path.iterdir()) == []


class TestBank:
    def test_an_unknown_prompt_is_answered_with_the_nearest_name(self, bank):
        with pytest.raises(UnknownName, match=r"unknown prompt 'p99'\. Did you mean 'p9'\?"):
            bank.get("p99")

    def test_a_prompt_of_another_model_is_refused_and_the_others_go_on(self, backbone, backbones):
        other = some_prompts(backbones("bert"), 1)["p0"]
        bank = PromptBank(bank_of(backbone, {}).admission)
        ours = some_prompts(backbone, 2)
        refused = bank.put([("other", other), *ours.items(), ("a/b", ours["p0"])])
        assert [refusal.name for refusal in refused] == ["other", "a/b"]
        assert list(bank.prompts) == ["p0", "p1"]
        with pytest.raises(ModelMismatch, match="other word embeddings"):
            bank.admission.admit("other", other)

    def test_a_replaced_prompt_has_another_version_and_what_was_taken_keeps_the_old_one(self, backbone, engine):
        prompts = some_prompts(backbone, 5)
        bank = bank_of(backbone, {"a": prompts["p0"]})
        work = engine.work(bank.get("a"), "good movie")
        before = bank.prompts
        bank.put([("a", prompts["p4"])])
        assert bank.get("a").version != work.served.version == before["a"].version
        after = engine.work(bank.get("a"), "good movie")
        old, new = engine.answer([work, after])
        requests = [(before["a"], "good movie"), (bank.get("a"), "good movie")]
        for answer, expected, (served, _) in zip((old, new), singles(requests, backbone), requests, strict=True):
            assert agrees(answer, expected, served)
        bank.remove(["a", "b"])
        assert len(bank.prompts) == 0

    def test_a_head_of_another_width_or_of_other_classes_is_refused(self, backbones):
        backbone = backbones("bert by heads")
        prompt, admission = some_prompts(backbone, 1)["p0"], bank_of(backbone, {}).admission
        wide = dataclasses.replace(prompt, head=LinearHead(torch.zeros(2, 17), torch.zeros(2)))
        three = dataclasses.replace(prompt, head=LinearHead(torch.zeros(3, 16), torch.zeros(3)))
        with pytest.raises(ModelMismatch, match="reads states of width 17"):
            admission.admit("a", wide)
        with pytest.raises(BadInput, match="has 3 outputs, its task 'sentiment' needs 2"):
            admission.admit("a", three)
        with pytest.raises(ModelMismatch):
            admission.admit("a", dataclasses.replace(prompt, head=None))


class TestPasses:
    def test_the_oldest_row_is_always_in_the_next_pass(self, engine, bank):
        works = works_of(engine, bank, 30)
        tight = Limits(batch_tokens=1, batch_rows=8)
        assert next_pass(works, tight, None) == works[:1]
        for limits in (tight, Limits(batch_rows=4), Limits(batch_tokens=100)):
            waiting = list(works)
            while waiting:
                chosen = next_pass(waiting, limits, engine.backbone.max_positions)
                assert chosen[0] is waiting[0]
                assert len(chosen) <= limits.batch_rows
                assert len(chosen) == 1 or len(chosen) * max(work.cost for work in chosen) <= limits.batch_tokens
                waiting = [work for work in waiting if work not in chosen]

    def test_the_labels_that_are_read_behind_each_text_count(self, engine, bank):
        prompts = [served for served in bank.prompts.values() if served.asked.task.name in ("spelt", "sentiment")]
        works = [engine.work(served, "good movie") for served in prompts]
        for work in works:
            reading = work.served.asked.reading
            assert reading is not None
            assert work.served.asked.behind == engine.backbone.read_positions(reading)
        behind = max(work.served.asked.behind for work in works)
        work = next(work for work in works if work.served.asked.behind == behind)
        limits = Limits(batch_tokens=5 * (work.length + behind))
        assert len(next_pass([work] * 20, limits, None)) == 5
        # As padding does, for rows with fewer labels.
        few = next(work for work in works if not work.served.asked.behind)
        limits = Limits(batch_tokens=2 * (max(work.length, few.length) + behind))
        assert next_pass([few, work, few, few], limits, None) == [few, work]

    def test_rows_of_very_different_length_do_not_share_a_pass(self, engine, bank):
        short, long = (engine.work(bank.get("p0"), "good " * count) for count in (2, 50))
        assert next_pass([short, long, short], Limits(spread=1.2), None) == [short, short]
        assert next_pass([short, long], Limits(spread=4.0), None) == [short, long]

    def test_an_answer_is_not_shortened_by_a_longer_row_of_its_pass(self, backbone, engine):
        assert backbone.max_positions == 64
        frozen = bank_of(backbone, {}).admission.frozen
        requests = ["good movie", "bad film " * 20]
        works = [engine.work(frozen, text, max_new_tokens=50) for text in requests]
        assert [len(next_pass(works, Limits(), backbone.max_positions)), works[1].wants] == [1, 23]
        together = engine.answer(works)
        assert [engine.answer([work])[0] for work in works] == together


def with_batcher(engine: Engine, limits: Limits, test: Any) -> Any:
    """Run a test that is given a started batcher."""

    async def run() -> Any:
        batcher = Batcher(engine, limits)
        batcher.start()
        try:
            return await test(batcher)
        finally:
            await batcher.close(1)

    return asyncio.run(run())


def slow(engine: Engine, seconds: float) -> tuple[Engine, list[list[Work]]]:
    """The engine with passes that last so long, and the passes that it has run."""
    made, passes = Engine(engine.backbone), []

    def run(works):
        passes.append(list(works))
        time.sleep(seconds)
        return engine.run(works)

    made.run = run
    return made, passes


class TestBatcher:
    def test_requests_that_come_together_share_passes_and_each_gets_its_own_answers(self, engine, bank):
        alone, requests = ([works_of(engine, bank, count) for count in range(1, 6)] for _ in range(2))
        seen = []

        async def test(batcher):
            batcher.seen = seen.append
            return await asyncio.gather(*(batcher.answer(works) for works in requests))

        answers = with_batcher(engine, Limits(), test)
        for works, given in zip(alone, answers, strict=True):
            for ours, theirs in zip(engine.answer(works), given, strict=True):
                assert ours.text == theirs.text
        assert len(seen) <= 6
        assert sum(ran.rows for ran in seen) == 15

    def test_what_exceeds_the_capacity_is_refused_at_once_and_told_when_to_come_again(self, engine, bank):
        works = [engine.work(bank.get("p0"), "good") for _ in range(5)]

        async def test(batcher):
            tasks = [asyncio.create_task(batcher.answer(works[:1]))]
            while not batcher.running:
                await asyncio.sleep(0.01)
            tasks += [asyncio.create_task(batcher.answer([work])) for work in works[1:4]]
            await asyncio.sleep(0)
            began = time.monotonic()
            with pytest.raises(Overloaded) as caught:
                await batcher.answer([works[4]])
            assert time.monotonic() - began < 0.1
            assert caught.value.retry_after >= 1
            # Until the next pass as many rows are refused before their texts are read.
            for rows in (1, 2):
                with pytest.raises(Overloaded):
                    batcher.refuse_early(rows)
            assert len(await asyncio.gather(*tasks)) == 4
            batcher.refuse_early(1)

        with_batcher(slow(engine, 0.2)[0], Limits(batch_rows=1, waiting_tokens=3 * works[0].cost, max_wait=0.0), test)

    def test_a_request_of_too_many_tokens_is_refused(self, engine, bank):
        works = [engine.work(bank.get("p0"), "good") for _ in range(5)]

        async def test(batcher):
            with pytest.raises(TooLong, match="send less at once"):
                await batcher.answer(works)

        with_batcher(engine, Limits(request_tokens=4 * works[0].cost), test)

    def test_where_nothing_waits_one_request_is_taken_however_large(self, engine, bank):
        works = [engine.work(bank.get("p0"), "good") for _ in range(5)]

        async def test(batcher):
            return await batcher.answer(works)

        assert len(with_batcher(engine, Limits(waiting_tokens=1), test)) == 5

    def test_what_is_not_answered_by_the_end_is_told_so(self, engine, bank):
        works = [engine.work(bank.get("p0"), "good") for _ in range(3)]

        async def test(batcher):
            tasks = [asyncio.create_task(batcher.answer([work])) for work in works]
            await asyncio.sleep(0.02)
            await batcher.close(0.0)
            return await asyncio.gather(*tasks[1:], return_exceptions=True)

        outcomes = with_batcher(slow(engine, 0.1)[0], Limits(batch_rows=1, max_wait=0.0), test)
        assert [type(outcome) for outcome in outcomes] == [Draining, Draining]

    def test_a_deadline_ends_a_request_that_waits(self, engine, bank):
        engine, passes = slow(engine, 0.1)
        first = engine.work(bank.get("p0"), "good")
        late = engine.work(bank.get("p0"), "good", deadline=time.monotonic() + 0.05)

        async def test(batcher):
            task = asyncio.create_task(batcher.answer([first]))
            await asyncio.sleep(0.02)
            with pytest.raises(TooLate):
                await batcher.answer([late])
            assert len(await task) == 1

        with_batcher(engine, Limits(max_wait=0.0), test)
        assert passes == [[first]]

    def test_a_client_that_leaves_frees_its_work(self, engine, bank):
        engine, passes = slow(engine, 0.1)
        first, left, marked = (engine.work(bank.get("p0"), "good") for _ in range(3))

        async def test(batcher):
            tasks = [asyncio.create_task(batcher.answer([work])) for work in (first, left, marked)]
            await asyncio.sleep(0.03)
            tasks[1].cancel()
            marked.left = True
            await asyncio.wait(tasks[:2])
            await asyncio.sleep(0.01)
            assert batcher.waiting_tokens == 0
            tasks[2].cancel()

        with_batcher(engine, Limits(batch_rows=1, max_wait=0.0), test)
        assert passes == [[first]]
        assert left.left

    def test_a_client_that_leaves_ends_its_answer_while_it_is_written(self, backbone, engine):
        frozen = bank_of(backbone, {}).admission.frozen
        texts = []
        work = engine.work(frozen, "good movie", max_new_tokens=50)

        def tell(text):
            texts.append(text)
            work.left = len(texts) == 3

        work.tell = tell
        other = engine.work(frozen, "bad film", max_new_tokens=10)
        alone = engine.answer([engine.work(frozen, "bad film", max_new_tokens=10)])
        assert engine.answer([work, other])[1] == alone[0]
        assert len(texts) == 2 + 1

    def test_an_answer_whose_time_ends_while_it_is_written_is_given_up_and_others_go_on(self, backbone, engine):
        frozen = bank_of(backbone, {}).admission.frozen
        written = []

        def tell(text):
            written.append(text)
            time.sleep(0.03)

        late = engine.work(frozen, "good movie", max_new_tokens=50, deadline=time.monotonic() + 0.05, tell=tell)
        other = engine.work(frozen, "bad film", max_new_tokens=10)
        alone = engine.answer([engine.work(frozen, "bad film", max_new_tokens=10)])
        outcomes = engine.run([late, other])
        assert isinstance(outcomes[0], TooLate)
        assert outcomes[1] == alone[0]
        assert len(written) < 50

    def test_what_was_taken_is_answered_before_the_end_and_nothing_more_is_taken(self, engine, bank):
        works = [engine.work(bank.get("p0"), "good") for _ in range(3)]

        async def test(batcher):
            tasks = [asyncio.create_task(batcher.answer([work])) for work in works]
            await asyncio.sleep(0.01)
            closing = asyncio.create_task(batcher.close(5))
            await asyncio.sleep(0)
            with pytest.raises(Draining):
                await batcher.answer([engine.work(bank.get("p0"), "good")])
            assert len(await asyncio.gather(*tasks)) == 3
            await closing

        with_batcher(slow(engine, 0.02)[0], Limits(batch_rows=1), test)


def test_the_texts_of_a_streamed_answer_grow_into_the_whole_answer(backbone, engine):
    frozen = bank_of(backbone, {}).admission.frozen
    texts: list[str] = []
    answer = engine.answer([engine.work(frozen, "good movie", max_new_tokens=12, tell=texts.append)])[0]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert texts[-1] == answer.text
    assert len(texts) == answer.tokens


def test_a_stop_is_not_found_in_the_blanks_that_a_model_writes_before_its_answer(backbone, engine):
    class Pieces:
        def decode(self, ids, **options):
            return "".join(["\n", " ", "mary", " ", "was"][number] for number in ids)

    frozen = bank_of(backbone, {}).admission.frozen
    texts: list[str] = []
    stops = [(" ",), ("\n", " wa"), ()]
    works = [engine.work(frozen, "who", max_new_tokens=5, stops=of_row, tell=texts.append) for of_row in stops]
    writing = Writing(works, Pieces(), [9])
    for number in range(5):
        writing(torch.full((3,), number))
    answers = [outcome for outcome in writing.outcomes() if isinstance(outcome, Answer)]
    assert [answer.text for answer in answers] == ["mary", "mary", "mary was"]
    assert [answer.finish for answer in answers] == ["stop", "stop", "length"]
    assert {*texts} == {"", "mary", "mary was"}


@pytest.mark.parametrize(
    ("most", "stops", "text", "tokens", "finish"),
    [(9, (), "mary was here", 4, "stop"), (3, (), "mary was here", 3, "length"), (3, ("he",), "mary was", 3, "stop")],
)
def test_an_answer_over_windows_ends_at_a_stop_and_counts_its_tokens(
    backbones, monkeypatch, most, stops, text, tokens, finish
):
    backbone = backbones("t5")
    record = dataclasses.replace(WRITTEN, template="{q} {text}", window="text", stride=2, max_length=40).to_json()
    prompt = some_prompts(backbone, 1)["p0"]
    prompt = dataclasses.replace(prompt, provenance=dataclasses.replace(prompt.provenance, task=record))
    bank, engine = bank_of(backbone, {"p": prompt}), Engine(backbone)
    monkeypatch.setattr(type(backbone), "encode_answers", lambda self, words: [[*range(len(words[0].split())), 1]])
    answers = Answers(["mary was here"], ["mary was here"])
    monkeypatch.setattr("softprompt.serving.engine.answer", lambda *args, **options: answers)
    work = engine.work(bank.get("p"), {"q": "who", "text": "good film " * 40}, max_new_tokens=most, stops=stops)
    assert work.is_alone
    with pytest.raises(BadInput, match="unknown column 'text'"):
        engine.work(bank.get("p"), {"q": "who"})
    with pytest.raises(TooLong, match="has 100003 characters, 2560 are read at most"):
        engine.work(bank.get("p"), {"q": "who", "text": "good " * 20000}, truncate=True)
    (answer,) = engine.answer([work])
    assert (answer.text, answer.tokens, answer.finish) == (text, tokens, finish)


def test_an_answer_behind_a_prefix_in_the_cache_is_watched_token_by_token(tiny_model):
    backbone: Any = from_model(*tiny_model("t5"), name="tiny-t5")
    config: Any = backbone.model.config
    keys = torch.randn(config.num_heads, 2, config.d_kv, generator=torch.Generator().manual_seed(0))

    class Before:
        length = 2

        def layers(self):
            return [(keys, -keys)] * config.num_decoder_layers

    backbone.prefix = Before()
    prompt_batch = PromptBatch.of(some_prompts(backbone, 1)["p0"])
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    batch = TextBatch(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros(2, dtype=torch.long))
    options: Any = {"max_new_tokens": 6, "at_least": 6}
    whole = backbone.answer_ids(prompt_batch, batch, **options)
    seen: list[torch.Tensor] = []

    def watch(tokens):
        seen.append(tokens)
        return torch.tensor([len(seen) == 2, len(seen) == 4])

    watched = backbone.answer_ids(prompt_batch, batch, **options, watch=watch)
    assert torch.equal(watched, torch.stack(seen, 1))
    assert watched.shape[1] == 4
    assert torch.equal(watched[0, :2], whole[0, :2])
    assert torch.equal(watched[1], whole[1, :4])
    assert watched[0, 2:].tolist() == [backbone.pad] * 2
