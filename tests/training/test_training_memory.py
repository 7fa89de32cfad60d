"""Rows split over passes: same gradients, same scores; bounded by memory, and halved when it runs out."""

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from softprompt.backbones import Reading, from_model
from softprompt.data import load_rows, split_rows
from softprompt.errors import OutOfMemory
from softprompt.inference.answers import answer, answer_all
from softprompt.inference.evaluate import evaluate
from softprompt.inference.report import Report
from softprompt.inference.rows import examples_for
from softprompt.memory import MemoryBudget, bytes_per_token, is_out_of_memory
from softprompt.memory import _budget as budget_file
from softprompt.memory._memory import _kept, left_in_groups
from softprompt.memory._split import least_padded
from softprompt.prompts.initializers import uniform
from softprompt.prompts.trainable import TrainablePrompt, stack_prompts
from softprompt.regularizers import regularizers
from softprompt.settings import TrainSettings
from softprompt.training import Plan, resume, train
from softprompt.training._leaves import leaves
from softprompt.training._loop import Loop
from softprompt.training._loss_rule import task_loss
from softprompt.training._records import read_record
from softprompt.training._scorer import Scorer
from softprompt.training._step import backward
from softprompt.training.objectives import Plain, Regularized, RegularizerContext, TokenLoss, acting

from kit import review_task
from training_kit import entry, opened, prepared, run_quietly

FAMILIES = ("t5", "bert", "gpt2")


@pytest.fixture(scope="session")
def task(tmp_path_factory):
    return review_task(tmp_path_factory.mktemp("reviews") / "data")


@pytest.fixture
def setting(tiny_model, task):
    """A backbone in float64 with its training rows; an encoder without a masked-LM head gets a linear one."""

    def build(family, **options) -> Any:
        backbone = from_model(*tiny_model(family, dtype=torch.float64, **options))
        return backbone, examples_for(backbone, task, split_rows(task, load_rows(task)).train, 4)

    return build


# Dropout in a reparameterisation, lengths that differ, one deep prompt.
FLEET_SIZE = (
    entry("prompt-tuning", 0, lr=0.1, options={"prompt_length": 4}),
    entry("residual", 1, lr=0.03, options={"bottleneck": 8, "prompt_length": 3, "dropout": 0.5}, regularizer="rn-emb"),
    entry("ept-star", 2, lr=0.3, options={"repeats": 2}, regularizer="rn-text:rate=0.5,divergence=kl"),
)


def built(backbone, settings):
    head = (2, backbone.hidden_size) if backbone.answers == "linear-head" else None
    states = backbone.state_scales() if settings.deep else []
    return TrainablePrompt.build(settings, uniform(), backbone.word_vectors, head, states=states).double()


def loop_of(task, backbone, folder, members=FLEET_SIZE, **settings):
    plan = Plan(task=task, model=backbone.spec, prompts=tuple(members), settings=TrainSettings(**settings))
    return opened(prepared(plan, backbone), folder, double=True)


def limit(backbone, monkeypatch, most, what="logits", error: Any = torch.OutOfMemoryError):
    """Memory for `most` rows; the rows of each call that did not fit, or did."""
    original, calls = getattr(backbone, what), []

    def limited(prompt_batch, batch, *rest, **options):
        calls.append(len(batch.ids))
        if len(batch.ids) > most:
            raise error("tried to allocate 20 GiB")
        return original(prompt_batch, batch, *rest, **options)

    monkeypatch.setattr(backbone, what, limited)
    return calls


def same_prompts(found, expected, atol):
    for a, b in zip(found, expected, strict=True):
        for (name, x), y in zip(a.trainable.named_parameters(), b.trainable.parameters(), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=atol, msg=lambda m, name=name, a=a: f"{a.name} {name}: {m}")


class TestParts:
    def test_a_bound_is_lowered_and_never_raised(self):
        budget = MemoryBudget(100)
        for bounds, expected in (((200, 3), (100, 3)), ((None, None), (100, 3)), ((50, 8), (50, 3))):
            budget.bound(*bounds)
            assert (budget.tokens, budget.rows) == expected

    @given(
        lengths=st.lists(st.integers(1, 50), min_size=1, max_size=12),
        tokens=st.none() | st.integers(1, 400),
        rows=st.none() | st.integers(1, 8),
        each=st.none() | st.floats(0, 60),
    )
    def test_every_row_is_in_one_part_and_no_part_is_too_large(self, lengths, tokens, rows, each):
        parts = MemoryBudget(tokens, rows, each=each).parts(lengths)
        assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
        for part in parts:
            longest = max(lengths[row] for row in part)
            assert rows is None or len(part) <= rows
            assert tokens is None or len(part) == 1 or len(part) * longest <= tokens
        order = [lengths[row] for part in parts for row in part]
        assert order == (sorted(lengths, reverse=True) if len(parts) > 1 else lengths)

    @given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=9), each=st.floats(0, 60))
    def test_no_other_split_is_padded_less(self, lengths, each):
        """All ways to cut the sorted rows; the rest of a split saves less than 5 %."""

        def cost(parts):
            return sum(len(part) * max(lengths[row] for row in part) + each for part in parts)

        order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
        ways = itertools.product([False, True], repeat=len(lengths) - 1)
        cuts = [[0, *(i for i, is_cut in enumerate(way, 1) if is_cut), len(order)] for way in ways]
        least = min(cost([order[a:b] for a, b in itertools.pairwise(cut)]) for cut in cuts)
        found = least_padded(lengths, each)
        assert cost(found) == pytest.approx(least) if len(found) > 1 else 0.95 * cost(found) <= least + 1e-9

    def test_a_fleet_of_short_rows_on_a_small_model_is_one_pass(self, lab_t5):
        assert len(MemoryBudget.of(lab_t5).parts([60] * 64)) == 1

    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_part_is_as_wide_as_its_longest_row(self, family, setting):
        backbone, examples = setting(family)
        owner = torch.tensor([0, 1, 1, 0, 2, 2])
        whole = examples.batch(list(range(6)), owner, backbone.pad_id)
        rows = [4, 0, 3]
        found = whole.select(torch.tensor(rows)).trimmed()
        expected = examples.batch(rows, owner[rows], backbone.pad_id)
        for field in dataclasses.fields(found):
            a, b = getattr(found, field.name), getattr(expected, field.name)
            assert (a is b is None) or a.equal(b), field.name


DRAWN = (
    ("", "rn-emb:divergence=kl", "rn-emb:divergence=kl,sigma=0.1"),
    (
        "rn-emb:start=ball,where=both,template=false",
        "rn-text:rate=0.5",
        "rn-emb:start=box+rn-text:rate=0.5,how=replace,divergence=ce",
    ),
    ("adv-text:cosine=-1,stop_words=false", "", "rn-emb"),
)
# Float32 noise climbs along a gradient: a last bit there is a last bit of float32 here.
CLIMBING = ("adv-emb", "freelb", "vat+smart")


@pytest.mark.parametrize("family", ["t5", "bert", "gpt2"])
class TestSplit:
    """Nine rows of three prompts in four parts, one of them a single row; bert has a linear head."""

    PARTS = ([5, 0, 3], [2, 1], [4, 7, 6], [8])

    def run(self, family, setting, task, texts, parts, deep=False):
        backbone, examples = setting(family, **({"head": False} if family == "bert" else {}))
        members = [built(backbone, dataclasses.replace(one, deep=deep)) for one in FLEET_SIZE]
        batch = examples.batch(list(range(9)), torch.tensor([0, 1, 2, 1, 0, 2, 2, 1, 1]), backbone.pad_id)
        terms = acting([regularizers(text) for text in texts], [3, 4, 5], 1, 1, 0)
        around = RegularizerContext.of(backbone, task)
        found = backward(
            backbone, members, batch, [7, 8, 9], Regularized(Plain(), terms, around), check=True, parts=parts
        )
        gradients = [p.grad for one in members for p in one.parameters() if p.numel()]
        return [found.losses, found.divergences, found.norms, *gradients]

    @pytest.mark.parametrize("texts", DRAWN, ids=" | ".join)
    def test_gradients_and_losses_are_those_of_one_pass(self, family, texts, setting, task):
        together, apart = (self.run(family, setting, task, texts, parts) for parts in ((), self.PARTS))
        for a, b in zip(together, apart, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)

    def test_ascents_too(self, family, setting, task):
        together, apart = (self.run(family, setting, task, CLIMBING, parts) for parts in ((), self.PARTS))
        for a, b in zip(together, apart, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)

    def test_deep_prompts_too(self, family, setting, task):
        texts = ("rn-emb", "", "")
        together, apart = (self.run(family, setting, task, texts, parts, deep=True) for parts in ((), self.PARTS))
        for a, b in zip(together, apart, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("deep", [False, True])
    def test_a_prompt_of_nan_changes_no_bit_of_the_others(self, family, deep, setting, task):
        """Forward and backward, with every kind of regulariser that could mix rows."""
        ends = []
        for poisoned in (False, True):
            backbone, examples = setting(family, **({"head": False} if family == "bert" else {}))
            members = [built(backbone, dataclasses.replace(one, deep=deep)) for one in FLEET_SIZE]
            if poisoned:
                members[0].initial.data.fill_(math.nan)
            batch = examples.batch(list(range(9)), torch.tensor([0, 1, 2, 1, 0, 2, 2, 1, 1]), backbone.pad_id)
            texts = ("rn-emb+adv-emb+adv-text:cosine=-1", "rn-emb:alpha=0.3", "adv-emb+freelb:share=0.5")
            terms = acting([regularizers(text) for text in texts], [3, 4, 5], 1, 1, 0)
            found = backward(
                backbone,
                members,
                batch,
                [7, 8, 9],
                Regularized(Plain(), terms, RegularizerContext.of(backbone, task)),
            )
            assert bool(found.losses[0].isfinite()) is not poisoned
            gradients = [p.grad for one in members[1:] for p in one.parameters() if p.numel()]
            ends.append([found.losses[1:], found.divergences[1:], *gradients])
        for a, b in zip(*ends, strict=True):
            assert a.equal(b)


class TestOutOfMemory:
    def loop(self, task, tiny_model, folder, **settings):
        backbone = from_model(*tiny_model("t5", dtype=torch.float64))
        settings = {"steps": 4, "eval_every": 4, "batch_size": 4, "grad_accumulation": 2, "clip": 1.0} | settings
        return loop_of(task, backbone, folder, **settings)

    @pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
    def test_a_run_goes_on_with_the_same_result(self, error, task, tiny_model, tmp_path, monkeypatch, caplog):
        """Accumulation, a reparameterisation's dropout, two regularisers: nothing drawn twice, nobody moved twice."""
        calm = run_quietly(self.loop(task, tiny_model, tmp_path / "calm"))
        disturbed = self.loop(task, tiny_model, tmp_path / "disturbed")
        calls = limit(disturbed.run_data.backbone, monkeypatch, 4, error=error)
        scored = limit(disturbed.run_data.backbone, monkeypatch, 20, "label_scores", error)
        run_quietly(disturbed)
        assert max(calls) == 12
        assert disturbed.memory_budget.rows == 3
        assert max(scored) == 24
        assert [record.message for record in caplog.records if "out of memory" in record.message] == [
            "out of memory: from now on at most 6 rows a pass; results stay the same",
            "out of memory: from now on at most 3 rows a pass; results stay the same",
            "out of memory: from now on at most 12 rows a pass; results stay the same",
        ]
        same_prompts(disturbed.members, calm.members, 1e-12)
        for a, b in zip(disturbed.members, calm.members, strict=True):
            for name, value in a.optimizer.state().items():
                torch.testing.assert_close(value, b.optimizer.state()[name], rtol=0, atol=1e-12)
            rows = [[r for r in read_record(one.record.path) if "loss" in r] for one in (a, b)]
            assert len(rows[0]) == 4
            assert all(x == pytest.approx(y, rel=1e-9) for x, y in zip(*rows, strict=True))

    def test_in_the_middle_of_a_step_what_was_gathered_is_dropped(self, task, tiny_model, tmp_path, monkeypatch):
        loops = [self.loop(task, tiny_model, tmp_path / name) for name in ("calm", "disturbed")]
        original, calls = loops[1].run_data.backbone.logits, []

        def failing(prompt_batch, batch):
            calls.append(len(batch.ids))
            if len(calls) == 4:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
            return original(prompt_batch, batch)

        monkeypatch.setattr(loops[1].run_data.backbone, "logits", failing)
        for loop in loops:
            loop.step = 1
            loop._optimize()
        assert len(calls) > 4
        same_prompts(loops[1].members, loops[0].members, 1e-12)

    def test_where_not_even_one_row_fits_one_line_says_what_to_lower(self, task, tiny_model, tmp_path, monkeypatch):
        loop = self.loop(task, tiny_model, tmp_path / "run")
        limit(loop.run_data.backbone, monkeypatch, 0)
        with pytest.raises(OutOfMemory, match=r"one row of 1\d tokens, .* give a lower `max_length`") as raised:
            run_quietly(loop)
        assert "\n" not in str(raised.value)

    def test_only_errors_of_memory_are_taken_for_one(self):
        with pytest.raises(RuntimeError) as raised:
            torch.empty(2**60)
        assert is_out_of_memory(raised.value)
        assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
        assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
        assert not is_out_of_memory(ValueError("not enough memory"))
        with pytest.raises(RuntimeError, match="shapes"):
            MemoryBudget().within(lambda: torch.zeros(2, 3) @ torch.zeros(2, 3))

    def test_a_resumed_run_keeps_to_fewer_rows(self, task, tiny_t5, save_tiny, tmp_path, monkeypatch):
        folder = save_tiny(tmp_path / "model", *tiny_t5())
        optimize, rows = Loop._optimize, []

        def stopping(loop):
            rows.append(loop.memory_budget.rows)
            loop.memory_budget.rows = 3
            if loop.step == 4 and len(rows) == 4:
                raise KeyboardInterrupt
            return optimize(loop)

        monkeypatch.setattr(Loop, "_optimize", stopping)
        settings = TrainSettings(steps=5, eval_every=3, batch_size=4)
        with pytest.raises(KeyboardInterrupt):
            train(task, str(folder), prompts=FLEET_SIZE[:1], settings=settings, output=tmp_path / "run")
        resume(tmp_path / "run")
        assert rows == [None, 3, 3, 3, 3, 3]


class TestMemory:
    def test_a_fleet_that_would_not_fit_is_split_with_one_line_and_the_same_result(
        self, task, tiny_model, tmp_path, monkeypatch, caplog
    ):
        settings: Any = {"steps": 2, "eval_every": 2, "batch_size": 4}
        backbone = from_model(*tiny_model("t5", dtype=torch.float64))
        calm = run_quietly(loop_of(task, backbone, tmp_path / "calm", **settings))
        assert "would take" not in caplog.text
        monkeypatch.setattr(budget_file, "free_memory", lambda device: 500_000)
        loop = loop_of(task, backbone, tmp_path / "small", **settings)
        assert [text.split(":")[0] for text in caplog.messages if "would take" in text] == [
            "12 rows of up to 15 tokens would take about 0.0 GB, 0.0 GB are free"
        ]
        calls = limit(backbone, monkeypatch, 100)
        run_quietly(loop)
        assert max(calls) < 12
        same_prompts(loop.members, calm.members, 1e-12)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_measured_row_predicts_what_many_keep(self, family, setting):
        backbone, examples = setting(family)
        prompt_batch = leaves(stack_prompts([built(backbone, FLEET_SIZE[0])], [0]))
        row = int(examples.lengths.argmax())
        each = bytes_per_token(backbone, prompt_batch, examples.batch([row], 0, backbone.pad_id))
        many = examples.batch([row] * 9, 0, backbone.pad_id)
        if backbone.engine == "shared":
            # Equal rows would be computed once.
            shift = torch.zeros(9, *prompt_batch.vectors.shape[1:], dtype=torch.float64)
            many = dataclasses.replace(many, prompt_delta=shift)
        one = many.select(torch.tensor([0]))
        predicted = each * 8 * (4 + many.ids.shape[1])
        assert _kept(backbone, prompt_batch, many) - _kept(backbone, prompt_batch, one) == pytest.approx(
            predicted, rel=0.02
        )
        assert each > 100

    def labelled(self, task):
        """The task with twelve labels of several tokens, which a decoder reads behind each text."""
        words = tuple(
            f"{a} {b}" for a in ("not", "very", "so") for b in ("good film", "bad film", "great movie", "plot")
        )
        return dataclasses.replace(task, labels=words, label_values=("bad", "good", *words[2:]))

    @pytest.mark.parametrize("engine", ["shared", "reference"])
    def test_the_longest_row_predicts_what_short_ones_keep_whose_labels_are_longer(self, engine, setting, task):
        backbone, examples = setting("gpt2")
        backbone.engine = engine
        loss: Any = task_loss(TrainSettings(loss="labels"), self.labelled(task), backbone, examples)
        (behind,), plain = loss.read_positions(backbone, torch.tensor([2])).tolist(), Plain(loss)
        assert behind == backbone.read_positions(Reading.of(loss.labels)) == (22 if engine == "shared" else 5)
        prompt_batch = leaves(stack_prompts([built(backbone, FLEET_SIZE[0])], [0]))
        long, short = (int(pick(examples.lengths)) for pick in (torch.argmax, torch.argmin))
        longest = examples.batch([long], 0, backbone.pad_id)
        each = bytes_per_token(backbone, prompt_batch, longest, plain.row_losses, behind)
        kept, width = [], 4 + int(examples.lengths[short])
        for count in (1, 9):
            # Equal rows would be computed once.
            shift = torch.zeros(count, *prompt_batch.vectors.shape[1:], dtype=torch.float64)
            batch = dataclasses.replace(examples.batch([short] * count, 0, backbone.pad_id), prompt_delta=shift)
            kept.append(_kept(backbone, prompt_batch, batch, plain.row_losses))
        assert kept[1] - kept[0] == pytest.approx(8 * each * (width + behind), rel=0.15)
        uncounted = bytes_per_token(backbone, prompt_batch, longest, plain.row_losses)
        assert kept[1] - kept[0] > 1.3 * 8 * uncounted * width

    def test_labels_count_in_the_passes_of_a_run_and_change_none_of_its_numbers(
        self, task, tiny_model, tmp_path, monkeypatch
    ):
        backbone = from_model(*tiny_model("gpt2", dtype=torch.float64))
        settings: Any = {"steps": 2, "eval_every": 2, "batch_size": 8, "loss": "labels", "grad_accumulation": 2}
        calm = run_quietly(loop_of(self.labelled(task), backbone, tmp_path / "calm", FLEET_SIZE[:1], **settings))
        bounded = loop_of(
            self.labelled(task), backbone, tmp_path / "bounded", FLEET_SIZE[:1], tokens_per_batch=140, **settings
        )
        behind = int(bounded.plain.loss.read_positions(backbone, torch.tensor([2])))
        sizes, original = [], backbone.label_scores

        def seen(prompt_batch, batch, labels, **options):
            if torch.is_grad_enabled():
                sizes.append((len(batch.ids), 4 + batch.ids.shape[1] + behind))
            return original(prompt_batch, batch, labels, **options)

        monkeypatch.setattr(backbone, "label_scores", seen)
        run_quietly(bounded)
        assert sum(rows for rows, _ in sizes) == 2 * 2 * 8
        assert all(rows * width <= 140 for rows, width in sizes)
        assert max(rows for rows, _ in sizes) > 1
        same_prompts(bounded.members, calm.members, 1e-12)

    def test_answers_count_in_the_passes_over_tokens_and_change_none_of_its_numbers(
        self, task, tiny_model, tmp_path, monkeypatch
    ):
        backbone = from_model(*tiny_model("gpt2", dtype=torch.float64))
        worded = dataclasses.replace(task, labels=("bad", "good film and a great movie"))
        settings: Any = {"steps": 2, "eval_every": 2, "batch_size": 8, "loss": "tokens"}
        calm = run_quietly(loop_of(worded, backbone, tmp_path / "calm", FLEET_SIZE[:1], **settings))
        bounded = loop_of(worded, backbone, tmp_path / "bounded", FLEET_SIZE[:1], tokens_per_batch=64, **settings)
        sizes, original = [], backbone.logits

        def seen(prompt_batch, batch):
            widths = 4 + batch.mask.sum(1) + (batch.targets >= 0).sum(1) - 1
            sizes.append((len(batch.ids), int(widths.max())))
            return original(prompt_batch, batch)

        monkeypatch.setattr(backbone, "logits", seen)
        run_quietly(bounded)
        assert sum(rows for rows, _ in sizes) == 2 * 8
        assert all(rows * width <= 64 for rows, width in sizes)
        assert max(rows for rows, _ in sizes) > 1
        same_prompts(bounded.members, calm.members, 1e-12)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_only_a_decoder_reads_an_answer_behind_its_row(self, family, setting):
        found = TokenLoss().read_positions(setting(family)[0], torch.tensor([1, 5])).tolist()
        assert found == ([0, 4] if family == "gpt2" else [0, 0])

    def test_what_is_measured_is_the_row_that_is_longest_with_its_answer(self, task, tiny_model, tmp_path, monkeypatch):
        backbone, measured = from_model(*tiny_model("gpt2", dtype=torch.float64)), []
        worded = dataclasses.replace(task, labels=("bad", "good film and a great movie " * 3))
        monkeypatch.setattr(MemoryBudget, "fit", lambda self, *given: measured.append(given))
        loop = loop_of(worded, backbone, tmp_path / "run", FLEET_SIZE[:1], loss="tokens")
        train, (_, _, longest, _, _, _, behind) = loop.run_data.train, measured[0]
        assert behind == (longest.targets >= 0).sum() - 1
        assert longest.ids.shape[1] + behind == (train.lengths + train.answer_lengths).max() - 1

    def test_a_control_group_leaves_what_its_limit_says(self, tmp_path):
        own, groups = tmp_path / "cgroup", tmp_path / "groups"
        for folder, limit_of, used in (("a", "1000", "900"), ("a/b", "max", "800")):
            (groups / folder).mkdir(parents=True)
            (groups / folder / "memory.max").write_text(f"{limit_of}\n")
            (groups / folder / "memory.current").write_text(f"{used}\n")
            (groups / folder / "memory.stat").write_text("anon 5\ninactive_file 50\n")
        own.write_text("0::/a/b\n")
        assert left_in_groups(groups, own) == [150]
        # Version 1, its kinds in folders.
        (groups / "memory" / "c").mkdir(parents=True)
        (groups / "memory" / "c" / "memory.limit_in_bytes").write_text("700\n")
        (groups / "memory" / "c" / "memory.usage_in_bytes").write_text("300\n")
        (groups / "memory" / "c" / "memory.stat").write_text("inactive_file 9\ntotal_inactive_file 20\n")
        own.write_text("4:cpu:/c\n3:memory:/c\n")
        assert left_in_groups(groups, own) == [420]
        assert left_in_groups(groups, tmp_path / "none") == []


class TestScoring:
    @pytest.mark.parametrize(("family", "decode"), [("t5", "scores"), ("t5", "generate"), ("bert", "scores")])
    def test_prompts_that_share_passes_score_as_each_alone(self, family, decode, setting, task):
        backbone, examples = setting(family, **({"head": False} if family == "bert" else {}))
        members = [built(backbone, one) for one in FLEET_SIZE]
        rows = [[4, 9, 2, 7], [], list(range(11))]
        options: Any = {"decode": decode, "max_new_tokens": 3}
        with torch.no_grad():
            prompt_batch = stack_prompts([prompt.eval() for prompt in members], [0, 0, 0])
        found = answer_all(
            backbone, prompt_batch, examples, task, rows, batch_size=5, memory_budget=MemoryBudget(60, 4), **options
        )
        for number, own in enumerate(rows):
            chosen = examples.select(own)
            with torch.no_grad():
                alone = stack_prompts([members[number]], [0])
            expected = answer(backbone, alone, chosen, task, **options)
            assert found[number].values == expected.values
            assert found[number].texts == expected.texts
            if decode == "scores":
                torch.testing.assert_close(found[number].scores, expected.scores, rtol=0, atol=1e-6)

    def test_a_run_scores_its_prompts_in_shared_passes_as_evaluate_does(
        self, task, tiny_t5, save_tiny, tmp_path, monkeypatch
    ):
        folder = save_tiny(tmp_path / "model", *tiny_t5(dtype=torch.float64))
        shared = []
        original = Scorer.answers

        def counted(scorer, prompts, *rest):
            shared.append(len(prompts))
            return original(scorer, prompts, *rest)

        monkeypatch.setattr(Scorer, "answers", counted)
        settings = TrainSettings(steps=4, eval_every=2, batch_size=4, train_score=True, shots=6)
        run = train(task, str(folder), prompts=FLEET_SIZE, settings=settings, output=tmp_path / "run", dtype="float64")
        assert shared == [3, 3, 3, 3]
        for number, result in enumerate(run.results):
            for split in ("validation", "test"):
                score = evaluate(run.prompt(number), split=split, dtype="float64").metrics
                assert {name: result.metrics[split][name] for name in score} == pytest.approx(score, abs=1e-12)


class TestTrajectories:
    def test_clipped_prompts_of_which_one_stops_early_equal_each_alone_also_in_parts(
        self, setting, task, tmp_path, monkeypatch
    ):
        """30 steps in float64 on rows that are split; the prompt whose score does not rise leaves the batch."""

        times = itertools.count(1)

        def scores(scorer, prompts, examples):
            score = next(times) / 100
            rising = [one.provenance.seeds["initialization"] > 0 for one in prompts]
            return [Report({"score": score if up else 0.5}, 16, 0, []) for up in rising]

        monkeypatch.setattr(Scorer, "scores", scores)
        # Not T5, whose norms compute in float32: a last bit of float64 may become one of float32 there.
        backbone, _ = setting("bert")
        members = FLEET_SIZE
        settings: Any = {"steps": 30, "eval_every": 5, "patience": 3, "clip": 0.5, "batch_size": 4, "warmup": 7}
        fleet = loop_of(task, backbone, tmp_path / "fleet", members, **settings)
        fleet.memory_budget = MemoryBudget(tokens=40)
        sizes = []
        original = fleet._batch
        fleet._batch = lambda members: sizes.append(len(members)) or original(members)
        run_quietly(fleet)
        assert fleet.members[0].status == "stopped early at step 20"
        assert sizes == [3] * 20 + [2] * 10
        for number, settings_of in enumerate(members):
            alone = run_quietly(loop_of(task, backbone, tmp_path / str(number), [settings_of], **settings))
            assert alone.members[0].status == fleet.members[number].status
            same_prompts(alone.members, [fleet.members[number]], 1e-9)
