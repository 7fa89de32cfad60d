"""What is seen of runs while they are trained, from their folders alone."""

import json
import math
import subprocess
import sys

import pytest
from softprompt.backbones import load_backbone
from softprompt.cli import main
from softprompt.documents import line_bytes
from softprompt.errors import BadInput
from softprompt.live import look, sparkline
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.study import RunSpec, StoredRun, grid, run_all
from softprompt.study._stored import path_of, to_bytes
from softprompt.training import train

from kit import review_task
from live_kit import made_run


def test_a_run_in_training_shows_how_far_it_is_and_when_it_ends(tmp_path):
    (run,) = look(made_run(tmp_path / "first"))
    assert (run.name, run.task, run.model) == ("first", "lab/color", "lab-t5")
    assert (run.state, run.step, run.steps) == ("in training", 40, 100)
    assert run.seconds_left == pytest.approx(60 * 5 / 10)
    assert [prompt.best for prompt in run.prompts] == pytest.approx([0.66, 0.61])
    assert run.prompts[0].best_step == 40
    assert run.best == run.prompts[0].best


def test_runs_that_ended_or_fell_silent_are_told_from_those_in_training(tmp_path):
    made_run(tmp_path / "a", done=True, step=100, ago=3)
    made_run(tmp_path / "deep" / "b", ago=1000)
    made_run(tmp_path / "c", ago=1)
    assert [(run.name, run.state) for run in look(tmp_path)] == [
        ("c", "in training"), ("a", "finished"), ("deep/b", "stopped")
    ]  # fmt: skip
    assert look(tmp_path / "a")[0].prompts[0].test == 0.81
    assert [run.name for run in look(tmp_path, most=1)] == ["c"]


TORN = b'not a row\n{"step": 41, "loss": NaN}\n{"step": 42, "dropped": "nan"}\n{"st'


def test_what_a_killed_process_left_is_shown_as_far_as_it_is_whole(tmp_path):
    record = made_run(tmp_path / "run") / "prompt-tuning-seed0" / "metrics.jsonl"
    record.write_bytes(record.read_bytes() + TORN)
    prompt = look(tmp_path)[0].prompts[0]
    assert prompt.steps[-1] == 41
    assert math.isnan(prompt.losses[-1])
    assert prompt.note == "dropped at step 42: nan; its record is damaged in line 45, left out here"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text("{")
    assert [run.name for run in look(tmp_path)] == ["run"]


@pytest.mark.parametrize("change", [(b'"loss": 0', b'"loss": 7'), (b"crc32", b"crc33")], ids=["value", "checksum"])
def test_the_number_of_a_damaged_line_is_not_shown_and_the_line_is_named(change, tmp_path, capsys):
    record = made_run(tmp_path / "run", seeds=1) / "prompt-tuning-seed0" / "metrics.jsonl"
    rows = [{"step": step, "loss": 1.0 - step / 10} for step in (1, 2, 3)]
    lines = [line_bytes(row) for row in rows]
    record.write_bytes(lines[0] + lines[1] + lines[2].replace(*change))
    (prompt,) = look(tmp_path)[0].prompts
    assert prompt.losses == (0.9, 0.8)
    assert main(["watch", str(tmp_path), "--once"]) == 0
    assert "prompt-tuning-seed0: its record is damaged in line 3" in " ".join(capsys.readouterr().out.split())


def test_a_trained_run_is_seen_with_what_its_record_holds(tmp_path, tiny_t5, save_tiny):
    backbone = load_backbone(str(save_tiny(tmp_path / "t5", *tiny_t5())))
    settings = TrainSettings(steps=4, eval_every=2, batch_size=4)
    prompts = [PromptSettings(seeds=Seeds.all(seed)) for seed in (0, 1)]
    run = train(review_task(tmp_path / "data"), backbone, prompts=prompts, settings=settings, output=tmp_path / "run")
    (seen,) = look(run.folder)
    assert (seen.state, seen.step, seen.steps, seen.task) == ("finished", 4, 4, "reviews")
    for prompt, result in zip(seen.prompts, run.results, strict=True):
        assert (prompt.name, prompt.best_step) == (result.prompt, result.best_step)
        assert (prompt.best, prompt.test) == (result.metrics["validation"]["score"], result.metrics["test"]["score"])
        assert len(prompt.losses) == 4


def test_a_run_that_was_followed_shows_its_result_once_it_is_written(tmp_path):
    run = made_run(tmp_path / "run")
    (before,) = look(run)
    record = next(run.glob("*/metrics.jsonl"))
    assert before.prompts[0].test is None
    (record.parent / "result.json").write_text(json.dumps({"metrics": {"test": {"score": 0.81}}, "status": "finished"}))
    (after,) = look(run)
    assert after.prompts[0].test == 0.81


def stored(store, seed: int, score: float) -> None:
    spec = RunSpec(task="lab/color", model="lab-t5", prompt=PromptSettings(seeds=Seeds.all(seed)))
    metrics = {"validation": {"score": score}, "test": {"score": score - 0.1}}
    run = StoredRun(
        name=spec.name, spec=spec, metrics=metrics, majority=0.5, best_step=2, trainable=1, head=0, stored=1,
        seconds=1.0, status="finished", curve={"step": [1, 2], "loss": [2.0, None]},
        validation={"step": [2], "score": [score]},
    )  # fmt: skip
    path = path_of(store, spec.name)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(to_bytes(run))


def test_the_store_of_a_study_shows_its_stored_runs_beside_the_fleet_in_training(tmp_path, capsys):
    for seed in range(3):
        stored(tmp_path, seed, 0.7 + seed / 10)
    made_run(tmp_path / "fleets" / "0123" / "run")
    assert main(["watch", str(tmp_path), "--once"]) == 0
    # A terminal breaks lines where it is narrow.
    said = " ".join(capsys.readouterr().out.split())
    assert "4 runs, " in said
    assert "1 in training" in said
    assert "3 finished" in said
    assert "best so far: 0.900 on validation, test 0.800: prompt-tuning-seed2 on lab/color" in said
    assert said.index("in training, step 40 of 100, about 30 s left") < said.index("finished, step 2")


def test_the_kept_fleets_of_a_store_are_not_counted_beside_their_stored_runs(tmp_path, tiny_t5, save_tiny):
    model = str(save_tiny(tmp_path / "model", *tiny_t5()))
    store = tmp_path / "store"
    specs = grid(task=review_task(tmp_path / "data"), model=model, steps=2, batch_size=2, seed=[0, 1])
    run_all(specs, store, keep=True, progress=False, device="cpu")
    assert sorted(view.name for view in look(store)) == sorted(f"runs/{spec.name}" for spec in specs)
    (kept,) = store.glob("fleets/*/run")
    assert [len(view.prompts) for view in look(kept)] == [2]
    path_of(store, specs[0].name).unlink()
    assert len(look(tmp_path)) == 2


def test_watch_ends_by_itself_when_nothing_is_in_training(tmp_path, capsys):
    made_run(tmp_path / "[bold]", done=True, step=100)
    assert main(["watch", str(tmp_path / "[bold]"), "--every", "0.1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "[bold]" in said
    assert "▁" in said
    assert "0.900 @ 100" in said


def test_watch_writes_out_what_a_terminal_obeys(tmp_path, capsys):
    made_run(tmp_path / "\x1b[2Jone", task="\x9b31mred", done=True, step=100)
    run = made_run(tmp_path / "two", done=True, step=100)
    (run / "prompt-tuning-seed0").rename(run / "\u202eolleh")
    plan = json.loads((run / "run.json").read_text())
    plan["prompts"][0]["method"], plan["model"] = "\u202eolleh", "\x1b]0;title\x07"
    (run / "run.json").write_text(json.dumps(plan))
    assert main(["watch", str(tmp_path), "--once"]) == 0
    said = capsys.readouterr().out
    assert not set(said) & set("\x1b\x9b\u202e\x07")
    assert "\\x1b[2Jone" in said


def test_folders_without_runs_are_refused_in_one_line(tmp_path, capsys):
    assert main(["watch", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    with pytest.raises(BadInput, match="is no folder"):
        look(tmp_path / "nowhere")


def test_a_sparkline_has_the_form_of_its_values():
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert sparkline([3, 3, 3]) == "▁▁▁"
    assert sparkline([0, math.nan, 7]) == "▁ █"
    assert sparkline([0, 0, 7, 7], width=2) == "▁█"
    assert sparkline([]) == ""


def test_a_look_imports_no_torch(tmp_path):
    made_run(tmp_path / "run")
    stored(tmp_path, 0, 0.5)
    code = f"import sys, softprompt.live as live; print(len(live.look({str(tmp_path)!r})), 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["2", "False"], json.dumps(said)
