"""Tuning: what is proposed, what is dropped, what is chosen by which rows, and that a killed search ends the same."""

import dataclasses
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from softprompt import tune
from softprompt.backbones import from_model, load_backbone
from softprompt.cli import main
from softprompt.cli._tune import format_search
from softprompt.data import load_rows
from softprompt.errors import BadInput, RunExists, SoftPromptError, UnknownName
from softprompt.prompts.methods import Method
from softprompt.settings import PromptSettings, TrainSettings
from softprompt.tasks import TASKS, Wording, custom_task, with_difficulty
from softprompt.training import Evaluation
from softprompt.training._loop import Loop
from softprompt.tuning import Tuning, _final, _runs
from softprompt.tuning._budget import Budget, timed_steps
from softprompt.tuning._choice import Challenge, challengers, fresh_seeds
from softprompt.tuning._final import Final
from softprompt.tuning._halving import Halving, rungs_of
from softprompt.tuning._kept import kept
from softprompt.tuning._measure import Answers, lead_measure, score_measure
from softprompt.tuning._rows import parted, written
from softprompt.tuning._runs import Fit
from softprompt.tuning._space import METHODS_TRIED, Space, asked_tasks
from softprompt.tuning._trials import Trial, Wave, proposals, read_waves

from kit import review_rows

OPTIONS: dict[str, Any] = {"trials": 5, "seeds": 2, "steps": 5, "batch_size": 4}


def rows(n, seed=0):
    return [{"text": text, "label": label} for text, label in review_rows(n, seed)]


SPLITS = {"train": rows(160), "validation": rows(24, 1), "test": rows(32, 2)}
COLUMNS: dict[str, Any] = {"text_column": "text", "label_column": "label"}


class Killed(BaseException):
    """What a SIGKILL looks like from within: nobody catches it."""


LAB = with_difficulty(TASKS["lab/opinion"], train=160, validation=24, test=32)


@pytest.fixture(scope="module")
def backbone(tiny_t5):
    return from_model(*tiny_t5(), name="tiny")


@pytest.fixture(scope="module")
def small():
    return load_backbone("lab-t5-small")


@pytest.fixture(scope="module")
def search(small):
    def go(folder, data=LAB, **more):
        return tune(data, small, output=folder, **OPTIONS, **more)

    return go


@pytest.fixture(scope="module")
def tuned(search, tmp_path_factory):
    return search(tmp_path_factory.mktemp("whole") / "search")


@pytest.fixture(scope="module")
def space(backbone):
    task = custom_task({"train": SPLITS["train"]}, text_columns=["text"], label_column="label", instruction="say")
    tasks = asked_tasks(task, "encoder-decoder", None, Wording(), ["it is {text}"])
    return Space.of(backbone, tasks, TrainSettings(steps=100), list(METHODS_TRIED), 5, 0, row_tokens=9)


def trial(number: int, value: float, state: Any = "finished", **params: Any) -> Trial:
    return Trial(number=number, params=params, state=state, value=value)


def answers(predictions, gold):
    return Answers(predictions=np.asarray(predictions).tolist(), gold=np.asarray(gold).tolist())


class TestASearch:
    def test_reports_winner_default_and_what_was_not_trained_on_the_same_rows(self, tuned):
        assert [line.name for line in tuned.lines] == ["winner", "default", "majority", "frozen", "instruction"]
        assert tuned.rows == {"train": 160, "choosing": 24, "report": 32, "folds": 1}
        winner = tuned.line("winner")
        assert len(winner.each) == 2
        assert (winner.worst, winner.score) == (min(winner.each), pytest.approx(np.mean(winner.each)))
        assert winner.low <= winner.score <= winner.high
        assert sum(tuned.trials.values()) == 5
        assert tuned.cost["prompt_steps"] > 0 < tuned.cost["seconds"]

    def test_holds_calibrated_prompts_against_what_is_calibrated_on_the_same_rows(self, search, tmp_path, monkeypatch):
        given, plain = [], _final.baselines

        def recorded(*words, validation, **more):
            given.append(None if validation is None else len(validation))
            return plain(*words, validation=validation, **more)

        monkeypatch.setattr(_final, "baselines", recorded)
        found = search(tmp_path / "search", calibrate=True, decode="scores")
        assert given == [found.rows["choosing"]]
        assert json.loads((found.folder / "frozen.json").read_text())["calibrated_on"] == found.rows["choosing"]

    def test_leaves_a_prompt_that_answers(self, tuned, small):
        assert tuned.prompt().predict(["a good trip"], model=small)[0]["label"] in LAB.labels
        assert tuned.stored().vectors.equal(tuned.prompt().vectors)

    def test_never_shows_a_report_row_to_a_run_before_the_report(self, tuned):
        report = set(load_rows(LAB)["test"].columns["passage"])
        plans = [*tuned.folder.glob("waves/**/run.json"), *tuned.folder.glob("choice/**/run.json")]
        assert plans
        for path in plans:
            files = json.loads(path.read_text())["task"]["source"]["files"]
            assert set(files) == {"train", "validation", "test"}
            for file in files.values():
                assert not report & {json.loads(line)["passage"] for line in Path(file).read_text().splitlines()}

    def test_that_has_ended_is_read_and_not_repeated(self, tuned, search, monkeypatch):
        monkeypatch.setattr(_runs, "train", None)
        assert search(tuned.folder) == tuned

    def test_that_was_killed_again_and_again_ends_with_the_same_and_trains_nothing_twice(
        self, tuned, search, tmp_path, monkeypatch
    ):
        count, optimize = [0], Loop._optimize

        def killed(loop):
            count[0] += 1
            if count[0] in (3, 12, 24):
                raise Killed
            return optimize(loop)

        monkeypatch.setattr(Loop, "_optimize", killed)
        done = {}
        for _ in range(3):
            with pytest.raises(Killed):
                search(tmp_path / "search")
            done |= {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json") if path not in done}
        assert without_seconds(search(tmp_path / "search")) == without_seconds(tuned)
        assert done == {path: path.stat().st_mtime_ns for path in done}
        assert 3 < len(done) < len([*tmp_path.rglob("result.json")])

    def test_spares_the_default_under_the_name_that_it_has_in_its_run(self, search, tmp_path, monkeypatch):
        seen = []

        def killed(halving, evaluation):
            seen.append((halving.spared, evaluation.scores))
            raise Killed

        monkeypatch.setattr(Halving, "on_evaluation", killed)
        with pytest.raises(Killed):
            search(tmp_path / "search")
        ((spared, scores),) = seen
        assert spared == {next(iter(scores))}

    def test_computes_what_it_has_kept_only_once(self, tmp_path):
        path = tmp_path / "step-seconds.json"
        assert [kept(path, lambda value=value: value) for value in (0.5, 0.7)] == [0.5, 0.5]

    def test_of_other_settings_is_refused_in_its_folder(self, tuned, search):
        with pytest.raises(RunExists, match="holds a search with other seed; give what it was started with"):
            search(tuned.folder, seed=1)
        with pytest.raises(RunExists, match="other rows, task"):
            search(tuned.folder, with_difficulty(LAB, train=200))

    def test_that_finds_a_better_candidate_tells_its_lead_on_the_report_rows(
        self, tuned, search, tmp_path, monkeypatch
    ):
        shutil.copytree(tuned.folder, tmp_path / "search")
        (tmp_path / "search" / "report.json").unlink()
        monkeypatch.setattr(Challenge, "is_convincing", property(lambda self: True))
        found = search(tmp_path / "search")
        assert not found.is_default
        assert found.settings != tuned.settings
        assert found.line("default").each == tuned.line("default").each
        assert found.lead.difference == pytest.approx(found.score - found.line("default").score)
        assert f"Its lead over the default is {found.lead.difference:+.3f}" in format_search(found)[-1]
        choice, report = (
            {json.loads(path.read_text())["seed"] for path in (tmp_path / "search" / part).rglob("result.json")}
            for part in ("choice", "report")
        )
        assert len(choice) == 3
        assert len(report) == 2
        assert not choice & report

    def test_reports_on_the_seeds_that_were_not_dropped(self, tuned, search, tmp_path, monkeypatch, caplog):
        shutil.copytree(tuned.folder, tmp_path / "search")
        (tmp_path / "search" / "report.json").unlink()
        lost, score = [next((tuned.folder / "report").rglob("result.json")).parent.name], Fit.score
        monkeypatch.setattr(
            Fit, "score", property(lambda fit: None if fit.result.prompt in lost else score.__get__(fit))
        )
        with caplog.at_level("WARNING", logger="softprompt"):
            found = search(tmp_path / "search")
        assert f"{lost[0]} was finished; the report is without it" in caplog.text
        assert len(found.line("winner").each) == len(found.line("default").each) == 1
        assert found.best.name not in lost
        assert found.cost["prompt_steps"] == tuned.cost["prompt_steps"]
        lost += [path.parent.name for path in (tuned.folder / "report").rglob("result.json")]
        (tmp_path / "search" / "report.json").unlink()
        with pytest.raises(SoftPromptError, match="every prompt of the winner was dropped before it had a score"):
            search(tmp_path / "search")

    def test_pairs_a_lead_by_the_seeds_that_both_sides_have(self, tuned, small, space):
        final = Final(folder=tuned.folder, space=space, parts=parted(LAB, load_rows(LAB)), backbone=small, seeds=3)
        ours, theirs = (answers([0, 1, 1, 0], [0, 1, 1, right]) for right in (0, 1))
        lead = final._lead({0: ours, 2: ours}, {1: ours, 2: theirs})
        assert lead is not None
        assert lead.difference == pytest.approx(0.25)
        assert final._lead({0: ours}, {1: theirs}) is None
        assert final._lines("lora", {}) == []
        told = dataclasses.replace(tuned, is_default=False, lead=None)
        assert format_search(told)[-1].endswith("no seed has a score with both settings.")

    def test_reports_on_no_more_than_the_test_rows_asked_for_and_every_score_is_on_them(self, small, tmp_path):
        options = {**OPTIONS, "trials": 1, "seeds": 1, "steps": 2, "test_rows": 10}
        found = tune(LAB, small, output=tmp_path / "search", **options)
        assert found.rows["report"] == 10
        of_run = json.loads((found.best / "result.json").read_text())["metrics"]["test"]["score"]
        kept_answers = json.loads((found.best / "answers-test.json").read_text())["values"]
        assert len(kept_answers["gold"]) == 10
        assert found.score == of_run

    @pytest.mark.parametrize("way", ["keyword", "command"])
    def test_evaluates_as_often_as_the_user_says_also_where_that_is_the_default(
        self, way, save_tiny, tiny_t5, tmp_path
    ):
        default = TrainSettings().eval_every
        if way == "keyword":
            tune(
                LAB, from_model(*tiny_t5(), name="tiny"), output=tmp_path / "out", eval_every=default,
                **{**OPTIONS, "trials": 1, "seeds": 1, "steps": 2},
            )  # fmt: skip
        else:
            model = save_tiny(tmp_path / "model", *tiny_t5())
            command = ["tune", "lab/opinion", "--model", str(model), "--output", str(tmp_path / "out")]
            command += [word for split in ("train=60", "validation=24", "test=24") for word in ("--task-option", split)]
            command += [
                "--trials",
                "1",
                "--seeds",
                "1",
                "--steps",
                "2",
                "--batch-size",
                "4",
                "--quiet",
                "--eval-every",
                str(default),
            ]
            assert main(command) == 0
        plans = list((tmp_path / "out").rglob("run.json"))
        assert {json.loads(path.read_text())["settings"]["eval_every"] for path in plans} == {default}
        assert json.loads((tmp_path / "out" / "tune.json").read_text())["is_paced"] is True

    def test_from_the_command_line_prints_its_best_prompt(self, save_tiny, tiny_t5, tmp_path, capsys):
        model = save_tiny(tmp_path / "model", *tiny_t5())
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(60)))
        command = ["tune", str(tmp_path / "rows.jsonl"), "--model", str(model), "--output", str(tmp_path / "out")]
        command += ["--text-column", "text", "--label-column", "label", "--trials", "1", "--seeds", "1"]
        command += ["--steps", "2", "--batch-size", "4", "--quiet", "--ceiling"]
        assert main(command) == 0
        out, err = capsys.readouterr()
        assert (tmp_path / "out" / "report.json").is_file()
        assert main(["show", out.strip()]) == 0
        assert "on 18 report rows" in err
        assert re.search(r"^lora +0\.", err, re.MULTILINE)
        assert "chosen on 11 rows of each of 4 folds." in err
        assert "so the default won" in err
        capsys.readouterr()
        assert main([*command, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["is_default"] is True


def without_seconds(tuned: Tuning):
    values = {**tuned.to_json(), "folder": "", "cost": tuned.cost["prompt_steps"]}
    return values


class TestWhatCannotBeSearched:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"lr": 0.1}, "lr is one of the settings that tune searches"),
            ({"prompt_length": 5}, "prompt_length is one of"),
            ({"minutes": 1.0, "trials": 2}, "give `minutes` or `trials`, not both"),
            ({"minutes": -1.0}, "`minutes` must be positive"),
            ({"trials": 0}, "`trials` must be positive"),
            ({"epochs": 2.0}, "give `steps` in the place of `epochs`"),
            ({"method": ["linear-probe"]}, "'linear-probe' trains no prompt"),
            ({"method": "lora"}, "'lora' trains no prompt"),
            ({"method": ["scaled", "scaled"]}, "`method` is given 'scaled' twice"),
            # Its name in earlier versions.
            ({"methods": ["lora"]}, "'lora' trains no prompt"),
        ],
    )
    def test_is_refused_before_anything_is_written(self, backbone, options, message, tmp_path):
        with pytest.raises(BadInput, match=message):
            tune(SPLITS, backbone, output=tmp_path / "out", **COLUMNS, **options)
        assert not (tmp_path / "out").exists()

    def test_is_named_with_the_nearest(self, backbone, tmp_path):
        with pytest.raises(UnknownName, match=r"unknown keyword of tune 'step'.*Did you mean 'steps'"):
            tune(SPLITS, backbone, output=tmp_path / "out", **COLUMNS, step=3)

    def test_for_lack_of_rows_says_how_many_are_needed(self, backbone, tmp_path):
        with pytest.raises(BadInput, match="12 rows are too few to search with; give at least 20"):
            tune(rows(12), backbone, output=tmp_path / "out", **COLUMNS)

    def test_without_optuna_names_the_extra(self, backbone, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "optuna", None)
        with pytest.raises(BadInput, match=r"pip install 'softprompt\[tune\]'"):
            tune(SPLITS, backbone, output=tmp_path / "out", **COLUMNS)

    def test_in_a_folder_of_something_else(self, search, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(RunExists, match="is not empty and holds no search"):
            search(tmp_path)

    def test_in_too_few_minutes_says_how_many_are_needed(self, backbone, space, tmp_path):
        (tmp_path / "step-seconds.json").write_text("1.0")
        default = space.candidate(space.default)
        with pytest.raises(BadInput, match=r"`minutes` 1 is too short: 8 candidates of 30 steps .* about 13 here"):
            timed_steps(1.0, None, tmp_path, default, 24, backbone, folds=1, last=19, scored=0)

    def test_what_the_report_takes_is_left_out_of_the_search(self, backbone, space, tmp_path):
        (tmp_path / "step-seconds.json").write_text("1.0")
        default = space.candidate(space.default)
        found = [
            timed_steps(60.0, None, tmp_path, default, 48, backbone, folds=1, last=19, scored=rows)
            for rows in (0, 4800)
        ]
        # 4,800 rows are 100 passes of three times 16 rows, and 24 candidates with 19 runs more are 33.4 whole runs.
        assert found == [(int(3600 / 33.4 - 5), 0.0), (int(3500 / 33.4 - 5), 100.0)]


class TestRows:
    def test_of_few_are_each_chosen_by_once_and_reported_never(self):
        given = [{**row, "text": f"{n} {row['text']}"} for n, row in enumerate(rows(100))]
        task = custom_task(given, text_columns=["text"], label_column="label")
        parts = parted(task, load_rows(task))
        report = set(parts.report.columns["text"])
        choosing = [text for _, rows in parts.folds for text in rows.columns["text"]]
        assert (len(report), len(parts.folds)) == (30, 4)
        assert sorted([*choosing, *report]) == sorted(row["text"] for row in given)
        for train, rows_ in parts.folds:
            assert not set(train.columns["text"]) & ({*rows_.columns["text"]} | report)

    def test_given_for_the_report_do_not_make_few_rows_many(self):
        task = custom_task({"train": rows(64), "test": rows(200)}, text_columns=["text"], label_column="label")
        parts = parted(task, load_rows(task))
        assert len(parts.report) == 200
        assert [(len(train), len(choosing)) for train, choosing in parts.folds] == [(48, 16)] * 4

    def test_of_many_are_held_out_and_the_users_own_splits_stay(self):
        task = custom_task({"train": rows(240)}, text_columns=["text"], label_column="label")
        parts = parted(task, load_rows(task))
        assert [len(part) for part in (*parts.folds[0], parts.report)] == [153, 39, 48]
        task = custom_task(SPLITS, text_columns=["text"], label_column="label")
        parts = parted(task, load_rows(task))
        assert [len(part) for part in (*parts.folds[0], parts.report)] == [160, 24, 32]

    def test_copies_of_a_published_set_may_hold_its_blank_texts(self, tmp_path):
        for split in ("train", "validation"):
            path = tmp_path / "glue" / "qqp" / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            made = [{"question1": f"q {n}?", "question2": "" if n == 3 else "r?", "label": n % 2} for n in range(60)]
            path.write_text("".join(json.dumps(row) + "\n" for row in made))
        task = TASKS["glue/qqp"]
        parts = parted(task, load_rows(task, tmp_path))
        copies = written(task, parts, tmp_path / "search")
        assert sum("" in load_rows(copy)["train"].columns["question2"] for copy in copies) >= 1
        # Rows of a user may hold none.
        with pytest.raises(BadInput, match="column 'question2' is empty"):
            load_rows(dataclasses.replace(copies[0], source=dataclasses.replace(copies[0].source, blanks=False)))


class TestProposals:
    def test_begin_with_the_default_settings_of_train(self, space):
        first = space.candidate(proposals(space, [], 0, 4)[0])
        assert first.prompt == PromptSettings()
        assert first.settings == TrainSettings(steps=100)

    @pytest.mark.parametrize(
        ("family", "instruction", "row_tokens", "is_tried"),
        [("gpt", "say", 64, True), ("gpt", "say", 65, False), ("gpt", "", 9, False), ("t5", "say", 9, False)],
    )
    def test_show_examples_where_a_decoder_reads_an_instruction_and_rows_are_short(
        self, family, instruction, row_tokens, is_tried, backbone, tiny_gpt
    ):
        decoder = backbone if family == "t5" else from_model(*tiny_gpt(n_positions=512), name="tiny-gpt")
        task = custom_task(SPLITS, text_columns=["text"], label_column="label", instruction=instruction)
        tasks = asked_tasks(task, decoder.kind, None, Wording(), [])
        settings = TrainSettings(steps=9)
        space = Space.of(decoder, tasks, settings, METHODS_TRIED, 5, 0, row_tokens=row_tokens)
        shown = [space.candidate(params).prompt for params in space.first() if params["beginning"] == "examples:4"]
        assert [prompt.init for prompt in shown] == ["examples:4"] * is_tried
        assert ("examples:4" in space.choices["beginning"]) is is_tried

    def test_with_examples_are_trained_by_a_search_on_a_decoder(self, tiny_gpt, tmp_path):
        decoder = from_model(*tiny_gpt(n_positions=256), name="tiny-gpt")
        asked = {**COLUMNS, "instruction": "good or bad ?"}
        tuned = tune(SPLITS, decoder, output=tmp_path / "out", method="prompt-tuning", **asked, **OPTIONS)
        trials = [trial for wave in read_waves(tuned.folder) for trial in wave.trials]
        (shown,) = [trial for trial in trials if trial.params["beginning"] == "examples:4"]
        assert shown.state in ("finished", "dropped"), shown.note

    def test_share_a_shape_and_follow_from_what_is_known(self, space):
        before = [trial(n, n / 10, **{**space.default, "rate": 0.1 + n / 5}) for n in range(12)]
        asked = proposals(space, before, 3, 4)
        assert len({(params["template"], params["length"], params["loss"]) for params in asked}) == 1
        assert asked == proposals(space, before, 3, 4)
        assert asked != proposals(space, before, 4, 4)
        assert asked[1:] != proposals(space, before[:-1], 3, 4)[1:]

    def test_are_settings_that_every_method_can_have(self, space):
        drawn = np.random.default_rng(0)
        for _ in range(40):
            params = {name: values[drawn.integers(len(values))] for name, values in space.choices.items()}
            candidate = space.candidate({**params, "rate": 0.5})
            method = Method.of(candidate.prompt)
            if candidate.prompt.init != "instruction":
                assert method.prompt_length == params["length"]
            own = method.resolved(dataclasses.replace(candidate.prompt, lr=None)).lr or 0
            assert candidate.prompt.lr == pytest.approx(own / 2, rel=0.01)


class TestHalving:
    def evaluation(self, step, scores, best=None):
        return Evaluation(
            step=step, steps=10, scores=scores, best=best or scores, _records={}, _stored=lambda name: pytest.fail(name)
        )  # fmt: skip

    def test_stops_the_worse_half_of_all_so_far_but_no_spared_one(self):
        halving = Halving(rungs=(2,), earlier={2: [0.5, 0.6]}, spared=frozenset("d"))
        evaluation = self.evaluation(2, {"a": 0.9, "b": 0.4, "c": 0.6, "d": 0.1})
        halving.on_evaluation(evaluation)
        assert set(evaluation._stopped) == {"b"}

    def test_keeps_equals_and_looks_at_rungs_only(self):
        halving = Halving(rungs=(2,), earlier={})
        for evaluation in (self.evaluation(2, dict.fromkeys("abcd", 0.5)), self.evaluation(3, {"a": 1.0, "b": 0.0})):
            halving.on_evaluation(evaluation)
            assert not evaluation._stopped

    def test_looks_at_evaluations_at_two_and_four_tenths(self):
        assert rungs_of(TrainSettings(eval_every=20), 100) == (20, 40)
        assert rungs_of(TrainSettings(eval_every=30), 100) == (30, 60)
        assert rungs_of(TrainSettings(eval_every=100), 100) == ()


class TestTheChoice:
    def lead(self, mean, error):
        measure = score_measure(["accuracy"], [answers([0] * 10, [0] * 10)])
        return dataclasses.replace(measure, mean=mean, error=error)

    def test_needs_a_lead_of_more_than_its_standard_error(self):
        wins = [Challenge(trial=trial(1, 0.9), lead=self.lead(*pair)).is_convincing for pair in
                [(0.03, 0.02), (0.02, 0.03), (-0.03, 0.02), (0.0, 0.0)]]  # fmt: skip
        assert wins == [True, False, False, False]
        assert not Challenge(trial=trial(1, 0.9), lead=None).is_convincing

    def test_is_among_finished_trials_that_are_above_the_default(self):
        trials = [trial(0, 0.6), trial(1, 0.7), trial(2, 0.9, "dropped"), trial(3, 0.6), trial(4, 0.8), trial(5, 0.65)]
        assert [one.number for one in challengers(trials)] == [4, 1]
        assert [one.number for one in challengers([trial(0, 0.75), *trials[1:]])] == [4]

    def test_and_the_report_have_seeds_that_nothing_else_had(self):
        seeds = [0, *fresh_seeds(0, "choice", 4), *fresh_seeds(0, "report", 5)]
        assert len({*seeds}) == len(seeds)


class TestAMeasure:
    def test_is_significant_if_its_interval_leaves_out_zero(self):
        lead = score_measure(["accuracy"], [answers([0] * 10, [0] * 10)])
        ends = [(0.1, -0.1, 0.3), (0.1, 0.0, 0.2), (0.2, 0.1, 0.3), (-0.2, -0.3, -0.1)]
        leads = [dataclasses.replace(lead, mean=mean, low=low, high=high) for mean, low, high in ends]
        assert [each.is_significant for each in leads] == [False, False, True, True]

    def test_of_one_repeat_has_the_error_of_a_share(self):
        gold = np.array([0, 1] * 200)
        given = np.where(np.arange(400) < 100, 1 - gold, gold)
        measure = score_measure(["accuracy"], [answers(given, gold)])
        assert measure.mean == 0.75
        assert measure.error == pytest.approx((0.75 * 0.25 / 400) ** 0.5, rel=0.1)
        assert measure.deviation is None

    def test_adds_the_variance_over_repeats(self):
        gold = np.zeros(10_000, int)
        repeats = [answers(1 * (np.arange(10_000) < share * 10_000), gold) for share in (0.1, 0.3, 0.2)]
        measure = score_measure(["accuracy"], repeats)
        assert measure.each == pytest.approx([0.9, 0.7, 0.8])
        assert measure.deviation == pytest.approx(0.1)
        assert measure.error == pytest.approx(0.1 / 3**0.5, rel=0.01)

    def test_of_a_lead_is_paired_by_row(self):
        draw = np.random.default_rng(0)
        gold = draw.integers(0, 2, 400)
        theirs = np.where(draw.random(400) < 0.5, gold, 1 - gold)
        ours = theirs.copy()
        ours[:40] = gold[:40]
        pair = [answers(one, gold) for one in (ours, theirs)]
        lead = lead_measure(["accuracy"], pair[:1], pair[1:])
        gained = (ours != theirs).mean()
        assert lead.mean == pytest.approx(gained)
        assert lead.error == pytest.approx((gained * (1 - gained) / 400) ** 0.5, rel=0.1)
        assert lead.is_significant
        assert (lead.p or 1) < 0.001

    def test_of_folds_has_the_error_of_all_their_rows(self):
        gold = np.zeros(100, int)
        half = answers(np.arange(100) % 2, gold)
        one = score_measure(["accuracy"], [half])
        none = answers(np.ones(100, int), gold)
        folds = lead_measure(["accuracy"], [half] * 4, [none] * 4, are_same_rows=False)
        assert folds.rows == 400
        assert folds.error == pytest.approx(one.error / 2, rel=0.01)

    def test_of_equal_answers_has_no_error_and_no_p(self):
        same = [answers([0, 1], [0, 0])] * 2
        lead = lead_measure(["accuracy"], same, same)
        assert (lead.mean, lead.error, lead.p, lead.is_significant) == (0, 0, None, False)


def test_a_budget_of_minutes_leaves_time_for_the_runs_that_decide():
    budget = Budget(minutes=10.0, trials=None, folds=1, last=20, steps=100)
    wave = Wave(trials=[Trial(number=n, params={}, state="finished", steps=100) for n in range(4)], seconds=60.0)
    # 20 runs of 15 seconds are left for the end, so that 300 of 600 seconds are for waves.
    assert [budget.is_spent([wave] * count) for count in (3, 4, 5)] == [False, False, True]
    # With 60 seconds of scoring one wave less.
    assert dataclasses.replace(budget, scoring=60.0).is_spent([wave] * 4)
    counted = Budget(minutes=None, trials=7, folds=1, last=20, steps=100)
    assert not counted.is_spent([wave] * 99)
    assert counted.most == 7


def test_the_benchmark_says_whether_its_bar_is_met():
    path = Path(__file__).parent.parent / "benchmarks" / "tune.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_tuning", path)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    cells = [
        {"task": task, "repeat": repeat, "default": 0.5, "winner": 0.5 if number < 2 else 0.6}
        for number, task in enumerate(benchmark.TASKS)
        for repeat in range(2)
    ]
    assert benchmark.is_met(benchmark.summary(cells[:-1]), 2) is None
    assert benchmark.is_met(benchmark.summary(cells), 2) is True
    assert benchmark.is_met(benchmark.summary([{**cells[0], "winner": 0.47}, *cells[1:]]), 2) is False
    assert benchmark.is_met(benchmark.summary([*cells[:4], *[{**c, "winner": 0.5} for c in cells[4:]]]), 2) is False
