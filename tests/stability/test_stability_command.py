"""softprompt stability: trained, stored, judged, interrupted and refused."""

import contextlib
import io
import json
import signal

import pytest
from softprompt.backbones import load_backbone
from softprompt.cli import main
from softprompt.data import load_rows, split_rows
from softprompt.inference.frozen import Baseline, baselines
from softprompt.settings import Seeds, TrainSettings
from softprompt.study import _work, load_specs, read, stability
from softprompt.study._stored import path_of
from softprompt.tasks import TASKS, with_difficulty
from softprompt.training import Interrupted
from softprompt.training._loop import Loop

WORDS = ["stability", "--task", "lab/opinion", "--task-option", "train=64", "--task-option", "validation=8",
         "--task-option", "test=24", "--model", "lab-t5-small", "--steps", "4", "--eval-every", "2", "--batch-size",
         "4", "--device", "cpu", "--quiet"]  # fmt: skip


SETTINGS = ["--method", "prompt-tuning", "--setting", "none", "--setting", "small: --prompt-length 2"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Two settings of three seeds, and what was printed."""
    store, printed = tmp_path_factory.mktemp("stability") / "store", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main([*WORDS, *SETTINGS, "--seeds", "3", "--store", str(store)]) == 0
    return store, printed.getvalue()


class TestCommand:
    def test_the_report_is_of_the_stored_runs(self, done):
        store, printed = done
        (folder,) = (store / "reports").iterdir()
        assert printed == (folder / "report.md").read_text() + "\n"
        values = json.loads((folder / "report.json").read_text())
        assert (values["about"]["task"], values["about"]["seeds"]) == ("lab/opinion", 3)
        for setting, scores in ((one, values["arms"][one]["scores"]) for one in ("none", "small")):
            names = values["about"]["runs"]["all"][setting]
            runs = [json.loads(path_of(store, name).read_text())["run"] for name in names]
            assert [run["metrics"]["test"]["score"] for run in runs] == scores
            assert [run["spec"]["prompt"]["seeds"] for run in runs] == [vars(Seeds.all(i)) for i in range(3)]
            assert [run["metrics"]["train"]["score"] for run in runs] == values["arms"][setting]["train_scores"]
            assert all(0 <= run["metrics"]["train"]["score"] <= 1 for run in runs)
        assert [one["setting"] for one in values["comparisons"]] == ["small"]

    def test_what_was_not_trained_stands_above_the_settings_on_the_same_rows(self, done):
        store, printed = done
        (folder,) = (store / "reports").iterdir()
        values = json.loads((folder / "report.json").read_text())
        by_name = {one["name"]: one for one in values["untrained"]}
        assert list(by_name) == ["majority", "frozen", "instruction"]
        assert by_name["majority"]["score"] == pytest.approx(values["chance"])
        for scored, gain in zip(values["spreads"], values["gains"], strict=True):
            assert (gain["setting"], gain["reference"]) == (scored["setting"], "instruction")
            for name, end in (("difference", "mean"), ("low", "low"), ("high", "high")):
                assert gain[name] == pytest.approx(scored[end] - by_name["instruction"]["score"])
        shown = printed[printed.index("## Without training") : printed.index("## Test scores")]
        rows = [line.split("|")[1].strip() for line in shown.splitlines() if line.startswith("|")]
        assert rows[2:] == ["majority", "frozen", "instruction", "none", "small"]

    def test_they_answer_as_the_command_frozen_does_and_are_computed_once(self, done, monkeypatch, capsys):
        store, printed = done
        (kept,) = (store / "baselines").iterdir()
        lines = json.loads(kept.read_text())["baselines"]
        task = with_difficulty(TASKS["lab/opinion"], train=64, validation=8, test=24)
        splits = split_rows(task, load_rows(task))
        expected = baselines(load_backbone("lab-t5-small"), task, splits.test, splits.train)
        assert [Baseline.from_json(line) for line in lines] == expected
        assert {len(line.predictions) for line in expected} == {24}
        monkeypatch.setattr(_work.Models, "of", lambda *_: pytest.fail("a model was loaded"))
        assert main([*WORDS, *SETTINGS, "--seeds", "3", "--store", str(store)]) == 0
        assert capsys.readouterr().out == printed

    def test_they_are_calibrated_on_the_rows_on_which_calibrated_prompts_are(self, done, tmp_path):
        words = [*WORDS, "--method", "prompt-tuning", "--setting", "none", "--seeds", "2", "--store", str(tmp_path)]
        words += ["--decode", "scores", "--eval-rows", "6"]
        assert main(words) == 0
        assert main([*words, "--calibrate"]) == 0
        plain, calibrated = sorted((tmp_path / "baselines").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        task = with_difficulty(TASKS["lab/opinion"], train=64, validation=8, test=24)
        splits = split_rows(task, load_rows(task))
        backbone, settings = load_backbone("lab-t5-small"), TrainSettings(decode="scores")
        for path, rows in ((plain, None), (calibrated, splits.validation.select(range(6)))):
            expected = baselines(backbone, task, splits.test, splits.train, settings=settings, validation=rows)
            assert [Baseline.from_json(line) for line in json.loads(path.read_text())["baselines"]] == expected

    def test_they_can_be_left_out(self, done, tmp_path, capsys):
        store, printed = done
        words = [*WORDS, *SETTINGS, "--seeds", "3", "--store", str(store), "--output", str(tmp_path), "--no-frozen"]
        assert main(words) == 0
        without = capsys.readouterr().out
        assert "Without training" not in without
        assert without.splitlines()[-1] == printed.splitlines()[-1]

    def test_each_setting_is_one_fleet(self, done):
        store, _ = done
        fleets = {tuple(json.loads(p.read_text())["run"]["fleet"]) for p in (store / "runs").iterdir()}
        assert [len(fleet) for fleet in fleets] == [3, 3]

    def test_the_same_command_trains_nothing_again(self, done, monkeypatch, capsys):
        store, printed = done
        monkeypatch.setattr(Loop, "run", lambda *_, **__: pytest.fail("trained"))
        assert main([*WORDS, *SETTINGS, "--seeds", "3", "--store", str(store)]) == 0
        assert capsys.readouterr().out == printed

    def test_json_is_the_report_in_one_line(self, done, capsys, tmp_path):
        store, _ = done
        words = [*WORDS, *SETTINGS, "--seeds", "3", "--store", str(store), "--output", str(tmp_path / "r"), "--json"]
        assert main(words) == 0
        values = json.loads(capsys.readouterr().out)
        assert values == json.loads((tmp_path / "r" / "report.json").read_text())

    @pytest.mark.parametrize(
        "content",
        ['{"metrics": {}}', '{"spreads": [], "about": {"task": "lab/color", "model": "lab-t5-small"}}', "[", "3"],
    )
    def test_the_report_of_another_command_or_task_is_not_replaced(self, content, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("softprompt.study.stability.measure", lambda *_, **__: pytest.fail("trained"))
        (tmp_path / "report.json").write_text(content)
        words = [*WORDS, *SETTINGS, "--seeds", "3", "--store", str(tmp_path / "s"), "--output", str(tmp_path)]
        assert main(words) == 2
        assert "choose another place for the report" in capsys.readouterr().err
        assert (tmp_path / "report.json").read_text() == content

    def test_an_interrupted_command_goes_on(self, done, tmp_path, monkeypatch, capsys):
        original, steps = Loop._optimize, []

        def stopped(loop):
            steps.append(loop.step)
            if len(steps) == 6:
                signal.raise_signal(signal.SIGINT)
            return original(loop)

        monkeypatch.setattr(Loop, "_optimize", stopped)
        words = [*WORDS, *SETTINGS, "--seeds", "3", "--store", str(tmp_path)]
        assert main(words) == Interrupted.exit_code
        assert "stopped with 3 of 6 runs stored" in capsys.readouterr().err
        assert main(words) == 0
        # Two fleets of four steps: none of them was made twice.
        assert len(steps) == 8
        _, printed = done
        assert capsys.readouterr().out == printed

    def test_sources_of_variance_are_taken_apart(self, tmp_path, capsys):
        words = [*WORDS, "--method", "scaled", "--shots", "16", "--vary", "init,draw", "--base-seed", "5"]
        assert main([*words, "--seeds", "2", "--store", str(tmp_path), "--json"]) == 0
        values = json.loads(capsys.readouterr().out)
        assert list(values["causes"]) == ["init", "draw", "together"]
        seeds = {name: arms["scaled"]["seeds"] for name, arms in values["cause_arms"].items()}
        assert seeds == {
            "init": [[5, 5, 5, 5], [6, 5, 5, 5]],
            "draw": [[5, 5, 5, 5], [5, 5, 6, 5]],
            "together": [[5, 5, 5, 5], [6, 5, 6, 5]],
        }
        assert values["arms"] == values["cause_arms"]["together"]
        assert len(list((tmp_path / "runs").iterdir())) == 4
        (folder,) = (tmp_path / "reports").iterdir()
        assert "Standard deviations by what varies" in (folder / "report.md").read_text()

    def file(self, tmp_path, seeds=""):
        path = tmp_path / "study.toml"
        path.write_text(
            f"""
            [defaults]
            model = "lab-t5-small"
            steps = 4
            eval_every = 2
            batch_size = 4
            {seeds}
            [tasks.small]
            lab = "lab/opinion"
            train = 64
            validation = 8
            test = 24
            [[runs]]
            task = "small"
            method = ["prompt-tuning", "scaled"]
            """
        )
        return path

    def test_a_study_file_without_seeds_has_those_of_the_command(self, tmp_path, capsys):
        path = self.file(tmp_path)
        words = ["--store", str(tmp_path / "s"), "--seeds", "2", "--device", "cpu", "--quiet", "--json"]
        assert main(["stability", "--study", str(path), *words]) == 0
        values = json.loads(capsys.readouterr().out)
        assert list(values["arms"]) == ["prompt-tuning", "scaled"]
        assert values["arms"]["scaled"]["seeds"] == [[0] * 4, [1] * 4]
        assert values["spreads"][0]["train_score"] is not None

    def test_a_study_file_with_seeds_is_judged_from_the_runs_it_has(self, tmp_path, capsys, monkeypatch):
        path = self.file(tmp_path, "seed = [3, 4]")
        store = tmp_path / "s"
        assert main(["study", "run", str(path), "--store", str(store), "--device", "cpu", "--quiet"]) == 0
        monkeypatch.setattr(Loop, "run", lambda *_, **__: pytest.fail("trained"))
        words = ["stability", "--study", str(path), "--store", str(store), "--quiet"]
        assert main([*words, "--json"]) == 0
        values = json.loads(capsys.readouterr().out.splitlines()[-1])
        runs = read(store, load_specs(path))
        assert values["arms"]["scaled"]["scores"] == [
            run.score for run in runs if run and run.spec.prompt.method == "scaled"
        ]
        assert main([*words, "--seeds", "3"]) == 2
        assert "has seeds of its own; drop --seeds" in capsys.readouterr().err

    def test_a_run_that_a_study_file_has_under_two_tags_is_a_row_of_each(self, tmp_path, capsys):
        path = self.file(tmp_path)
        run = '[[runs]]\ntask = "small"\nmethod = "scaled"\n'
        tagged = (f'{run}tags = {{setting = "{name}"}}' for name in "ab")
        path.write_text("\n".join((path.read_text().partition("[[runs]]")[0], *tagged)))
        words = ["--store", str(tmp_path / "s"), "--seeds", "2", "--device", "cpu", "--quiet", "--json", "--no-frozen"]
        assert main(["stability", "--study", str(path), *words]) == 0
        values = json.loads(capsys.readouterr().out)
        assert {one["setting"]: one["n"] for one in values["spreads"]} == {"a": 2, "b": 2}
        assert values["warnings"][-1].startswith("b: every score equals that of a")
        assert len(list((tmp_path / "s" / "runs").iterdir())) == 2

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            ([*WORDS, "--seeds", "1"], "1 seeds have no spread; at least 2 are needed, and 20 to see anything"),
            ([*WORDS, "--vary", "init,ordr"], "unknown source of variance 'ordr'. Did you mean 'order'?"),
            ([*WORDS, "--vary", "draw"], "setting 'prompt-tuning' is trained on all rows, so no draw varies"),
            ([*WORDS, "--setting", "a: --alhpa 1"], "setting 'a': No such option: --alhpa"),
            ([*WORDS, "--setting", "a", "--setting", "b: --steps 4"], "settings 'a' and 'b' are the same runs"),
            ([*WORDS, "--method", "ept-str"], "unknown method 'ept-str'. Did you mean 'ept-star'?"),
            ([*WORDS, "--seed", "3"], "No such option: --seed"),
            (["stability", "--task", "lab/opinion"], "no model; give --model"),
            (["stability", "--model", "lab-t5-small"], "nothing to train on; give --task NAME"),
            (["stability", "--study", "x.toml", "--steps", "3"], "--study FILE holds what is trained; drop --steps"),
            (["stability", "--study", "x.toml"], "cannot read x.toml: No such file or directory"),
        ],
    )
    def test_mistakes_are_one_line_and_exit_code_2_and_nothing_is_written(
        self, words, line, tmp_path, capsys, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        assert main(words) == 2
        (found,) = capsys.readouterr().err.splitlines()
        assert line in found
        assert list(tmp_path.iterdir()) == []


def test_judging_needs_no_torch_until_runs_are_read():
    assert "torch" not in vars(stability)
