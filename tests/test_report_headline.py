"""What a report concludes: its settings, and the sentence above all others."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from softprompt.documents import json_bytes, sealed_bytes
from softprompt.errors import DamagedFile
from softprompt.reports._answers import kept_answers
from softprompt.reports._headline import _are_of, headline
from softprompt.reports._settings import settings_of
from softprompt.reports._sources import read_sources
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.study import RunSpec, StoredRun
from softprompt.study._stored import path_of, to_bytes

from report_kit import made_answers, made_run, made_store, scored


def found(run: Path):
    sources = read_sources([run])
    return headline(settings_of(sources.entries), sources)


class TestHeadline:
    def test_a_gain_whose_interval_lies_above_zero_is_significant(self, tmp_path):
        line = found(made_run(tmp_path / "run", difference=(0.2, 0.1, 0.3)))
        assert line is not None
        assert line.verdict == "better"
        assert "+0.100 to +0.300" in line.sentence

    def test_a_gain_whose_interval_contains_zero_is_not_shown(self, tmp_path):
        line = found(made_run(tmp_path / "run", difference=(0.02, -0.01, 0.05)))
        assert line is not None
        assert line.verdict == "not shown"

    def test_a_loss_whose_interval_lies_below_zero_is_worse(self, tmp_path):
        line = found(made_run(tmp_path / "run", difference=(-0.2, -0.3, -0.1)))
        assert line is not None
        assert line.verdict == "worse"
        assert "0.200 less" in line.sentence

    def test_three_seeds_without_a_comparison_are_too_few_to_judge(self, tmp_path):
        line = found(made_run(tmp_path / "run"))
        assert line is not None
        assert line.verdict == "unknown"

    def test_many_seeds_are_judged_against_the_majority_class(self, tmp_path):
        line = found(made_store(tmp_path / "store", count=20))
        assert line is not None
        assert line.verdict == "better"
        assert "always the most frequent class" in line.sentence

    def test_numbers_are_judged_against_always_the_mean(self, tmp_path):
        line = found(made_run(tmp_path / "run", task="glue/stsb", seeds=6))
        assert line is not None
        assert line.lines[0].name == "always the mean"
        assert "than “always the mean” over seeds" in line.sentence
        assert "most frequent class" not in line.sentence

    def test_the_setting_is_chosen_by_its_validation_score_and_every_baseline_is_listed(self, tmp_path):
        line = found(made_run(tmp_path / "run", difference=(0.2, 0.1, 0.3)))
        assert line is not None
        assert line.setting.name == "prompt-tuning"
        assert line.score == pytest.approx(0.81)
        names = [each.name for each in line.lines]
        assert len(names) == 5
        assert "4 examples in context, mean of 2 draws (0.520 to 0.560)" in names[3]
        # The mean of draws is no score of rows.
        assert line.lines[3].low is None

    def test_the_seconds_of_a_run_are_shared_by_the_steps_of_its_prompts(self, tmp_path):
        run = made_run(tmp_path / "run", seeds=2, methods=("ept-star",))
        path = run / "ept-star-seed1" / "result.json"
        path.write_bytes(json_bytes({**json.loads(path.read_bytes()), "prompt_steps": 10}))
        assert [entry.run.seconds for entry in read_sources([run]).entries] == pytest.approx([9.6, 2.4])

    def test_no_test_score_has_a_part_in_what_is_chosen(self, tmp_path):
        run = made_run(tmp_path / "run")
        for prompt in ("ept-star-seed0", "prompt-tuning-seed0"):
            scored(run / prompt, 0.99)
        line = found(run)
        assert line is not None
        assert line.setting.name == "prompt-tuning"
        assert line.setting.best is not None
        assert line.setting.best.prompt == "prompt-tuning-seed2"

    @pytest.mark.parametrize(
        ("places", "test_rows", "reference"),
        [
            (range(40), None, "frozen model, no prompt"),
            (range(0, 80, 2), None, "always the most frequent class"),
            (range(40), 40, "always the most frequent class"),
        ],
        ids=["all rows", "drawn rows", "of a run with fewer test rows"],
    )
    def test_seeds_are_judged_against_the_frozen_model_of_another_run_where_it_answered_all_of_their_rows(
        self, tmp_path, places, test_rows, reference
    ):
        made_run(tmp_path / "seeds", seeds=6, methods=("prompt-tuning",))
        run = made_run(tmp_path / "one", seeds=1, methods=("ept-star",), test_rows=test_rows)
        baseline = {"name": "frozen", "score": 0.9, "interval": None, "predictions": [0] * 40, "text": "",
                    "draw": None, "calibrated": None}  # fmt: skip
        values = {"format": 2, "places": list(places), "baselines": [baseline]}
        (run / "frozen.json").write_bytes(sealed_bytes(values))
        line = found(tmp_path)
        assert line is not None
        assert f"than “{reference}” over seeds" in line.sentence

    def test_two_settings_of_one_tag_are_two(self, tmp_path):
        store = tmp_path / "store"
        (store / "runs").mkdir(parents=True)
        for steps in (50, 500):
            for seed in range(3):
                spec = RunSpec(
                    task="lab/opinion", model="lab-t5", prompt=PromptSettings(seeds=Seeds.all(seed)),
                    settings=TrainSettings(steps=steps), tags={"setting": "prompt-tuning"},
                )  # fmt: skip
                run = StoredRun(
                    name=spec.name, spec=spec, metrics={"test": {"score": 0.5 + steps / 1000}}, majority=0.5,
                    best_step=1, trainable=1, head=0, stored=1, seconds=1.0, status="finished", curve={},
                )  # fmt: skip
                path_of(store, spec.name).write_bytes(to_bytes(run))
        settings = settings_of(read_sources([store]).entries)
        assert [(setting.name, setting.numbers["n"]) for setting in settings] == [
            ("prompt-tuning, steps 50", 3), ("prompt-tuning, steps 500", 3)
        ]  # fmt: skip

    @pytest.mark.parametrize("tags", [{}, {"ept-star": "short", "prompt-tuning": "long"}])
    def test_scores_on_other_test_rows_say_so_also_where_the_method_or_a_name_tells_them_apart(self, tags, tmp_path):
        for method, test_rows in (("ept-star", 40), ("prompt-tuning", 100)):
            made_run(tmp_path / method, methods=(method,), seeds=1, test_rows=test_rows, steps=test_rows)

        def tagged(entry):
            spec = dataclasses.replace(entry.run.spec, tags={"setting": tags[entry.run.spec.prompt.method]})
            return dataclasses.replace(entry, run=dataclasses.replace(entry.run, spec=spec))

        entries = read_sources([tmp_path]).entries
        names = [setting.name for setting in settings_of([tagged(e) for e in entries] if tags else entries)]
        first, second = (tags.get(method, method) for method in ("ept-star", "prompt-tuning"))
        assert names == [f"{first}, test_rows 40", f"{second}, test_rows 100"]

    def test_runs_that_call_their_prompts_alike_all_count_and_a_copy_once(self, tmp_path):
        runs = [made_run(tmp_path / f"draw{draw}", methods=("ept-star",), seeds=1, draw=draw) for draw in (1, 2, 3)]
        scores = (0.8, 0.4, 0.3)
        for run, score in zip(runs, scores, strict=True):
            scored(run / "ept-star-seed0", score)
        shutil.copytree(runs[0], tmp_path / "copy")
        for order in ((0, 1, 2), (2, 0, 1)):
            sources = read_sources([*(runs[place] for place in order), tmp_path / "copy"])
            (setting,) = settings_of(sources.entries)
            assert (setting.numbers["n"], setting.numbers["mean"]) == (3, pytest.approx(0.5))
            assert any("copy/ept-star-seed0" in note for note in sources.notes)

    def test_two_runs_of_the_same_settings_with_other_scores_both_count_and_that_is_told(self, tmp_path):
        runs = [made_run(tmp_path / name, methods=("ept-star",), seeds=1) for name in ("cpu", "gpu")]
        scored(runs[1] / "ept-star-seed0", 0.9)
        sources = read_sources(runs)
        (setting,) = settings_of(sources.entries)
        assert (setting.numbers["n"], setting.numbers["mean"]) == (2, pytest.approx(0.8))
        (note,) = sources.notes
        assert "gpu/ept-star-seed0 has the settings and seeds of cpu/ept-star-seed0, other scores; both count" in note

    def test_answers_that_are_nested_without_end_are_named(self, tmp_path):
        run = made_run(tmp_path / "run", methods=("ept-star",), seeds=1)
        made_answers(run / "ept-star-seed0")
        for path in run.rglob("predictions.jsonl"):
            path.write_text("[" * 100_000)
        with pytest.raises(DamagedFile, match="is not as it was written"):
            kept_answers(read_sources([run]).entries[0])

    @pytest.mark.parametrize("prompt", ["prompt-tuning-seed2", "ept-star-seed0"])
    def test_an_interval_is_that_of_the_best_prompts_own_answers_to_the_test_rows(self, prompt, tmp_path):
        run = made_run(tmp_path / "run", seeds=3)
        made_answers(run / prompt)
        (best,) = [entry for entry in read_sources([run]).entries if entry.prompt == "prompt-tuning-seed2"]
        answered = kept_answers(next(e for e in read_sources([run]).entries if e.prompt == prompt))
        assert _are_of(best, answered) == (prompt == best.prompt)
        # Answers to other rows have another score than the run recorded.
        scored(run / prompt, 0.8)
        (best,) = [entry for entry in read_sources([run]).entries if entry.prompt == "prompt-tuning-seed2"]
        assert not _are_of(best, answered)
