"""Restarts: equal to single runs compared by hand, alone or in a fleet, killed or not; no validation row decides."""

import dataclasses
import math
import os
import signal

import pytest
import torch
from softprompt.backbones import load_backbone
from softprompt.cli import main
from softprompt.data import load_rows, split_rows
from softprompt.documents import read_sealed
from softprompt.errors import BadInput
from softprompt.prompts.prompt import SoftPrompt
from softprompt.prompts.seeds import stream_seed
from softprompt.settings import ModelSpec, PromptSettings, Seeds, TrainSettings
from softprompt.study import RunSpec, run_all
from softprompt.study._fleets import group
from softprompt.training import Interrupted, Plan, check_request, measure, read_plan, read_results, resume, train
from softprompt.training._built import build_prompts
from softprompt.training._loop import Loop
from softprompt.training._prepare import prepare
from softprompt.training._records import Record, read_record
from softprompt.training._restarts import race_steps
from softprompt.training._scorer import Scorer
from softprompt.training._start import start_members

from kit import review_task, same_files
from tiny import ALL

# What may differ between a run that was killed and one that was not.
TIMED = ("timing.jsonl", "state.json", "manifest.json")


def prompt(method="prompt-tuning", seed=0, **changes):
    return PromptSettings(method=method, seeds=Seeds.all(seed), **changes)


def with_initialization(settings, seed):
    return dataclasses.replace(settings, seeds=dataclasses.replace(settings.seeds, initialization=seed))


SHORT = {"options": {"prompt_length": 4}, "lr": 0.1}
THREE = prompt(restarts=3, restart_steps=10, **SHORT)


@pytest.fixture(scope="session")
def folders(tiny_t5, tiny_bert, save_tiny, tmp_path_factory):
    made = tmp_path_factory.mktemp("models")
    return {
        "t5": save_tiny(made / "t5", *tiny_t5()),
        "bert": save_tiny(made / "bert", *tiny_bert(head=False)),
    }


@pytest.fixture
def task(tmp_path):
    return review_task(tmp_path / "data")


@pytest.fixture
def trained(task, folders, tmp_path):
    """Trains prompts in float64 with the loop alone, so that rounding cannot hide a difference."""
    backbones, records = {}, []

    def run(prompts, *, kind="t5", watch=lambda loop, losses: None, **settings):
        backbone = backbones.setdefault(kind, load_backbone(str(folders[kind]), dtype="float64"))
        told = TrainSettings(**{"steps": 20, "eval_every": 100, "batch_size": 4, **settings})
        plan = Plan(task=task, model=ModelSpec("tiny"), prompts=tuple(prompts), settings=told)
        run_data = prepare(plan, split_rows(task, load_rows(task)), backbone)
        folder = tmp_path / f"run{len(records)}"
        started = list(start_members(run_data, build_prompts(run_data), folder, {}))
        for one in started:
            one.trainable.double()
        records.append(Record(folder / "timing.jsonl"))
        loop = Loop(run_data, started, records[-1])
        loop.run(save=lambda loop: None, is_stopped=lambda: False, watch=watch)
        for one in loop.members:
            one.record.close()
        return loop

    yield run
    for one in records:
        one.close()


def rows_of(prompt):
    return list(read_record(prompt.record.path))


def losses_of(prompt, candidate=None):
    """By step, of the prompt or of one of the candidates for it."""
    path = prompt.record.path if candidate is None else prompt.record.path.parent / "restarts" / f"{candidate}.jsonl"
    return torch.tensor([row["loss"] for row in read_record(path) if "loss" in row], dtype=torch.float64)


def assert_equal(a, b):
    """The same parameters and the same losses at every step."""
    torch.testing.assert_close(losses_of(a), losses_of(b), rtol=0, atol=1e-9)
    for x, y in zip(a.trainable.parameters(), b.trainable.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-9)


class TestRule:
    @pytest.mark.parametrize(
        ("kind", "settings", "chosen"),
        [
            ("t5", THREE, 2),
            ("t5", prompt("p-tuning", 3, restarts=3, restart_steps=10, lr=0.01, options={"prompt_length": 2}), 1),
            ("t5", dataclasses.replace(THREE, regularizer="rn-emb:sigma=0.3,alpha=1"), 2),
            ("bert", prompt("linear-probe", 4, restarts=4, restart_steps=10), 2),
        ],
        ids=["prompt-tuning", "p-tuning", "regularized", "linear-probe"],
    )
    def test_the_prompt_equals_the_best_of_single_runs_compared_by_hand(self, kind, settings, chosen, trained):
        """Vectors, a network and a head, which the initialisation seed draws; and with a regulariser's noise."""
        whole = trained([settings], kind=kind).members[0]
        own = settings.seeds.initialization
        seeds = [own, *(stream_seed(own, f"restart/{number}") for number in range(1, settings.restarts))]
        plain = dataclasses.replace(settings, restarts=1, restart_steps=None)
        singles = [trained([with_initialization(plain, seed)], kind=kind).members[0] for seed in seeds]
        means = [float(losses_of(one)[8:10].mean()) for one in singles]
        assert means.index(min(means)) == chosen
        assert_equal(whole, singles[chosen])
        assert whole.restarts is not None
        assert whole.restarts["losses"] == pytest.approx(means, abs=1e-9)
        assert (whole.restarts["chosen"], whole.restarts["initialization"]) == (chosen, seeds[chosen])
        for number, one in enumerate(singles):
            torch.testing.assert_close(losses_of(whole, number), losses_of(one)[:10], rtol=0, atol=1e-9)

    def test_prompts_with_other_restarts_in_one_fleet_equal_each_alone(self, trained):
        prompts = [
            prompt("ept-star", 1, lr=0.3),
            THREE,
            prompt("prompt-tuning", 2, restarts=2, restart_steps=4, **SHORT),
            prompt("prompt-tuning", 0, restarts=2, restart_steps=20, **SHORT),
        ]
        together = trained(prompts)
        assert [one.name[:2] for one in together.members] == ["00", "01", "02", "03"]
        assert not any("#" in one.name for one in together.members)
        for number, settings in enumerate(prompts):
            alone = trained([settings]).members[0]
            assert_equal(together.members[number], alone)
            assert (together.members[number].restarts or {}).get("chosen") == (alone.restarts or {}).get("chosen")

    def test_the_first_candidate_is_the_prompt_without_restarts(self, trained):
        """At a race over the whole run, with its own seed and every step of it."""
        one = trained([prompt(**SHORT)]).members[0]
        three = trained([dataclasses.replace(THREE, restart_steps=20)]).members[0]
        torch.testing.assert_close(losses_of(three, 0), losses_of(one), rtol=0, atol=1e-9)
        assert one.restarts is None
        assert not (one.record.path.parent / "restarts").exists()

    @pytest.mark.parametrize(
        ("given", "steps", "expected"), [(None, 1000, 100), (None, 100, 40), (None, 2, 1), (7, 7, 7), (7, 1000, 7)]
    )
    def test_the_stretch_is_two_fifths_of_the_run_and_100_steps_at_the_most(self, given, steps, expected):
        assert race_steps(prompt(restarts=2, restart_steps=given), steps) == expected

    def test_no_candidate_is_scored_and_the_prompt_is_from_the_choice_on(self, trained, monkeypatch):
        scored = []

        def scores(scorer, prompts, *a):
            scored.append(len(prompts))
            return real(scorer, prompts, *a)

        real = Scorer.scores
        monkeypatch.setattr(Scorer, "scores", scores)
        whole = trained([THREE], eval_every=5, patience=1).members[0]
        steps = [row["step"] for row in rows_of(whole) if "split" in row]
        assert steps[0] == 10
        assert sum(scored) == len(steps)


def poisoned(at):
    """Makes the parameters of some candidates of the first prompt NaN: candidate -> step after which."""

    def watch(loop, losses):
        for number, step in at.items():
            if loop.step == step:
                with torch.no_grad():
                    loop.members[number].trainable.initial[0, 0] = math.nan

    return watch


class TestDropped:
    def test_a_candidate_that_turns_nan_loses_and_the_others_go_on_as_if_alone(self, trained):
        clean = trained([THREE]).members[0]
        best = clean.restarts["chosen"]
        whole = trained([THREE], watch=poisoned({best: 3})).members[0]
        expected = [None if number == best else loss for number, loss in enumerate(clean.restarts["losses"])]
        assert whole.restarts["losses"] == pytest.approx(expected, abs=1e-9)
        left = [loss for loss in expected if loss is not None]
        assert whole.restarts["chosen"] == expected.index(min(left))
        assert whole.status == "training"
        dropped = list(read_record(whole.record.path.parent / "restarts" / f"{best}.jsonl"))[-1]
        assert (dropped["step"], dropped["dropped"]) == (4, "loss nan, gradient norm nan")

    def test_one_that_turns_nan_by_the_last_step_of_the_stretch_loses(self, trained):
        """Its losses are all finite, and the lowest."""
        best = trained([THREE]).members[0].restarts["chosen"]
        whole = trained([THREE], watch=poisoned({best: 10})).members[0]
        assert whole.restarts["losses"][best] is None
        assert whole.status == "training"
        assert math.isfinite(losses_of(whole)[-1])

    def test_a_prompt_is_dropped_when_all_are_and_the_other_prompts_go_on(self, trained):
        other = prompt("ept-star", 1, lr=0.3)
        loop = trained([THREE, other], watch=poisoned({0: 2, 1: 5, 2: 3}))
        first, second = loop.members
        assert first.status.startswith("dropped at step 6")
        assert first.restarts["losses"] == [None] * 3
        assert first.restarts["chosen"] == 1
        assert [row["step"] for row in rows_of(first)] == [1, 2, 3, 4, 5, 6]
        assert_equal(second, trained([other]).members[0])


@pytest.fixture(scope="module")
def whole(kept_task, folders, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("kept") / "whole"
    TestRun().train(kept_task, folders, folder)
    return folder


@pytest.fixture(scope="module")
def sparse(kept_task, folders, tmp_path_factory):
    """The same with one evaluation, and so one checkpoint."""
    folder = tmp_path_factory.mktemp("kept") / "sparse"
    TestRun().train(kept_task, folders, folder, eval_every=12)
    return folder


class TestRun:
    SETTINGS = TrainSettings(steps=12, eval_every=2, batch_size=4, backbone_dropout=True, clip=1.0)
    FLEET_SIZE = (prompt("prompt-tuning", 0, restarts=3, restart_steps=5, **SHORT), prompt("ept-star", 1, lr=0.3))

    def train(self, task, folders, folder, **changes):
        settings = dataclasses.replace(self.SETTINGS, **changes)
        return train(task, str(folders["t5"]), prompts=self.FLEET_SIZE, settings=settings, output=folder)

    def test_what_was_chosen_and_what_it_cost_is_recorded_everywhere(self, task, folders, tmp_path, capsys):
        run = self.train(task, folders, tmp_path / "run")
        result, plain = run.results
        folder = tmp_path / "run" / result.prompt
        assert result.restarts is not None
        chosen = read_sealed(folder / "restarts" / "chosen.json")
        assert chosen.pop("format") == 2
        assert sorted(chosen.pop("files")) == ["0.jsonl", "1.jsonl", "2.jsonl"]
        assert chosen == result.restarts
        assert SoftPrompt.load(folder / "prompt").provenance.training["restarts"] == result.restarts
        assert read_results(tmp_path / "run")[0].restarts == result.restarts
        assert SoftPrompt.load(folder / "prompt").provenance.seeds["initialization"] == result.seed == 0
        steps = [[row["step"] for row in read_record(folder / "restarts" / f"{r}.jsonl")] for r in range(3)]
        assert steps == [[1, 2, 3, 4, 5]] * 3
        assert [row["step"] for row in read_record(folder / "metrics.jsonl") if "loss" in row] == list(range(1, 13))
        assert (result.prompt_steps, plain.prompt_steps) == (3 * 5 + 7, 12)
        assert plain.restarts is None
        assert "restarts" not in SoftPrompt.load(tmp_path / "run" / plain.prompt / "prompt").provenance.training
        assert main(["show", str(tmp_path / "run")]) == 0
        chosen, losses = result.restarts["chosen"], ", ".join(f"{loss:.4f}" for loss in result.restarts["losses"])
        line = f"{result.prompt}: restart {chosen} (of 0 to 2) went on after step 5; training losses over the "
        assert f"{line}last 1 steps: {losses}\n" in capsys.readouterr().out

    @pytest.mark.parametrize("crash", [1, 3, 4, 5, 6, 11] if ALL else [3, 5, 11])
    def test_a_run_that_died_and_was_resumed_leaves_the_same_bytes(
        self, crash, kept_task, folders, whole, tmp_path, monkeypatch
    ):
        """Within the race (1 to 4), after the choice and before it is saved (5), and later."""
        choose = Loop._choose

        def dying(loop):
            choose(loop)
            if loop.step == crash:
                raise MemoryError("killed")

        monkeypatch.setattr(Loop, "_choose", dying)
        with pytest.raises(MemoryError):
            self.train(kept_task, folders, tmp_path / "killed")
        monkeypatch.setattr(Loop, "_choose", choose)
        resume(tmp_path / "killed")
        assert same_files(whole, tmp_path / "killed", ignore=TIMED)

    @pytest.mark.parametrize("step", [3, 5, 9] if ALL else [3, 9])
    def test_an_interrupted_run_goes_on_to_the_same_bytes(
        self, step, kept_task, folders, sparse, tmp_path, monkeypatch
    ):
        """Without an evaluation, and so without another checkpoint, before it."""
        optimize = Loop._optimize

        def interrupted(loop):
            if loop.step == step:
                os.kill(os.getpid(), signal.SIGINT)
            return optimize(loop)

        monkeypatch.setattr(Loop, "_optimize", interrupted)
        with pytest.raises(Interrupted, match=f"after step {step} of 12"):
            self.train(kept_task, folders, tmp_path / "stopped", eval_every=12)
        monkeypatch.setattr(Loop, "_optimize", optimize)
        resume(tmp_path / "stopped")
        # The interrupted one has a checkpoint more.
        for name in read_plan(sparse).prompt_names():
            assert same_files(sparse / name, tmp_path / "stopped" / name, ignore=TIMED)

    def test_a_damaged_checkpoint_after_the_choice_falls_back_to_one_before_it(
        self, task, folders, tmp_path, monkeypatch
    ):
        self.train(task, folders, tmp_path / "whole", eval_every=4)
        optimize = Loop._optimize

        def dying(loop):
            if loop.step == 9:
                raise MemoryError("killed")
            return optimize(loop)

        monkeypatch.setattr(Loop, "_optimize", dying)
        with pytest.raises(MemoryError):
            self.train(task, folders, tmp_path / "damaged", eval_every=4)
        monkeypatch.setattr(Loop, "_optimize", optimize)
        (tmp_path / "damaged" / "checkpoints" / "step-000008" / "state.safetensors").write_bytes(b"")
        resume(tmp_path / "damaged")
        assert same_files(tmp_path / "whole", tmp_path / "damaged", ignore=TIMED)

    def test_a_run_whose_candidates_were_all_dropped_ends_with_a_warning(self, task, folders, tmp_path, monkeypatch):
        optimize = Loop._optimize
        watch = poisoned({0: 2, 1: 2, 2: 2})

        def poisoning(loop):
            losses = optimize(loop)
            watch(loop, losses)
            return losses

        monkeypatch.setattr(Loop, "_optimize", poisoning)
        dropped, other = self.train(task, folders, tmp_path / "run").results
        assert dropped.status.startswith("dropped at step 3")
        assert dropped.metrics == {}
        assert dropped.prompt_steps == 3 * 2
        assert "the other prompts went on" in dropped.warnings[-1]
        assert other.status == "finished"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"restart_steps": 13}, "restart_steps=13 is longer than the run of 12 steps; give 12 or fewer"),
            ({"restarts": 1}, "restart_steps=5 is how long restarts are compared, and there are none"),
            ({"init": "text:good"}, "restarts=3 of 'prompt-tuning' with init='text:good' all begin with the same"),
        ],
    )
    def test_what_cannot_be_compared_is_refused_before_anything_is_written(
        self, changes, message, task, folders, tmp_path
    ):
        prompts = [dataclasses.replace(self.FLEET_SIZE[0], **changes)]
        with pytest.raises(BadInput, match=message):
            train(task, str(folders["t5"]), prompts=prompts, settings=self.SETTINGS, output=tmp_path / "run")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("options", [{"method": "full"}, {"method": "cartridge", "options": {"text": "good"}}])
    def test_weights_of_which_nothing_is_random_are_refused_before_the_model_is_loaded(self, options, task, folders):
        splits = split_rows(task, load_rows(task, None))
        again = [PromptSettings(**options, restarts=3)]
        t5, bert = (ModelSpec(str(folders[kind])) for kind in ("t5", "bert"))
        message = f"restarts=3 of '{options['method']}' all begin with the same numbers, because nothing of that method"
        with pytest.raises(BadInput, match=message):
            check_request(task, splits, again, self.SETTINGS, t5)
        for fine, model in (([prompt("lora", restarts=3)], t5), ([prompt("full")], t5), (again, bert)):
            check_request(task, splits, fine, self.SETTINGS, model)

    def test_a_network_or_a_head_makes_restarts_from_given_vectors_differ(self, task, folders, tmp_path):
        one = prompt("p-tuning", init="text:good", restarts=2, lr=0.01, options={"prompt_length": 2})
        settings = TrainSettings(steps=2, eval_every=2, batch_size=4)
        run = train(task, str(folders["t5"]), prompts=[one], settings=settings, output=tmp_path / "run")
        restarts = run.results[0].restarts
        assert restarts is not None
        assert restarts["losses"][0] != restarts["losses"][1]

    def test_numbers_below_one_are_refused_by_the_name_of_their_option(self):
        with pytest.raises(BadInput, match="`restarts` must be positive, not 0"):
            PromptSettings(restarts=0)
        with pytest.raises(BadInput, match="`restart_steps` must be positive, not -1"):
            PromptSettings(restarts=2, restart_steps=-1)


class TestStudy:
    @pytest.fixture
    def specs(self, task, folders):
        quick = TrainSettings(steps=6, eval_every=6, batch_size=4)
        prompts = [prompt(seed=seed, restarts=r, **SHORT) for seed in (0, 1) for r in (1, 3)]
        return [RunSpec(task=task, model=str(folders["t5"]), prompt=one, settings=quick) for one in prompts]

    def test_runs_with_and_without_restarts_share_passes_and_keep_what_they_cost(self, specs, tmp_path):
        found = run_all(specs, tmp_path / "store", fleet_size=8, progress=False, device="cpu")
        assert {run.fleet for run in found} == {tuple(spec.name for spec in specs)}
        assert [run.prompt_steps for run in found] == [6, 2 * 3 + 4, 6, 2 * 3 + 4]
        assert [run.restarts and run.restarts["count"] for run in found] == [None, 3, None, 3]
        assert all(len(run.curve["loss"]) == 6 for run in found)
        assert found[1].seconds / found[0].seconds == pytest.approx(10 / 6, rel=0.1)
        again = run_all(specs, tmp_path / "store", fleet_size=8, progress=False, device="cpu")
        assert [run.restarts for run in again] == [run.restarts for run in found]

    def test_a_run_counts_as_many_prompts_as_it_has_restarts(self, specs):
        one, three, other, last = specs
        assert group(specs, 8) == [(one, three, other, last)]
        assert group(specs, 5) == [(one, three, other), (last,)]
        assert group(specs, 4) == [(one, three), (other, last)]
        assert group(specs, 2) == [(one,), (three,), (other,), (last,)]
        assert group([one, other], 1) == [(one,), (other,)]

    def test_runs_without_restarts_have_the_names_that_they_had_before_there_were_any(self):
        """Golden, for a prompt that is told little and for one that is told much: what is off may not rename runs."""
        told = PromptSettings(method="residual", lr=0.3, seeds=Seeds.all(5))
        tokens = TrainSettings(loss="tokens")
        default = RunSpec(task="glue/rte", model="m", prompt=PromptSettings(method="ept-star"), settings=tokens)
        settings = dataclasses.replace(tokens, steps=250, shots=32)
        other = RunSpec(task="glue/rte", model="m", prompt=told, settings=settings)
        assert (default.name, other.name) == ("dd7beb9fd403d14b", "021629577cf1ef33")
        # The loss that nobody chose is another one on decoders since, and "m" may be one; "lab-t5" is none.
        auto = [dataclasses.replace(default, model=model, settings=TrainSettings()) for model in ("m", "lab-t5")]
        assert auto[0].name != default.name
        assert auto[1].name == dataclasses.replace(default, model="lab-t5").name
        assert dataclasses.replace(default, prompt=PromptSettings(method="ept-star", restarts=2)).name != default.name

    def test_a_run_with_restarts_is_called_so(self, specs):
        assert "3 restarts, seed 0" in specs[1].describe()
        assert "restarts" not in specs[0].describe()


class TestCost:
    def test_candidates_are_counted_for_their_race_alone_and_are_not_scored(self, task, folders, monkeypatch):
        backbone = load_backbone(str(folders["t5"]))
        settings = TrainSettings(steps=20, eval_every=20, batch_size=4)
        scored = []
        scores = Scorer.scores
        monkeypatch.setattr(Scorer, "scores", lambda *given: scored.append(len(given[1])) or scores(*given))
        # A step of all that are measured together takes a second, an evaluation no time.
        monkeypatch.setattr(
            "softprompt.training._measure.seconds_of_step", lambda take_step, *limits: take_step() and 1
        )
        monkeypatch.setattr("softprompt.training._measure.time.perf_counter", lambda: 0.0)
        plain, racing, both = (
            measure(task, backbone, prompts, settings)
            for prompts in ([prompt(**SHORT)], [THREE], [prompt(**SHORT), THREE])
        )
        # Three candidates race for ten of the twenty steps.
        assert [racing.tokens / plain.tokens, both.tokens / plain.tokens] == [2, 3]
        assert [plain.seconds, racing.seconds, both.seconds] == pytest.approx([20, 20 * 40 / 60, 20 * 60 / 80])
        assert scored == [1, 1, 2]
