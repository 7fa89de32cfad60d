"""Run folders, stored prompts and study stores that were written before names changed still load; files of each kind
are in tests/formats, by the format of run.json.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import softprompt
import torch
from safetensors.torch import load_file
from softprompt import PromptSettings, Seeds, TrainSettings, load_backbone, resume
from softprompt.documents import json_bytes
from softprompt.errors import BadInput
from softprompt.legacy import as_before, renamed
from softprompt.regularizers import regularizers
from softprompt.store import load_tuned, tensor_bytes, write_folder
from softprompt.study import RunSpec, load, read, stored_names
from softprompt.training import Plan, damage, read_comparison, read_plan, read_results

from kit import rewrite
from report_kit import made_run, made_store

OLD = Path(__file__).parent / "formats" / "1"
PROMPT = PromptSettings(
    method="prompt-tuning",
    options={"prompt_length": 2},
    init="uniform",
    max_norm=10.0,
    restarts=2,
    restart_steps=3,
    seeds=Seeds.all(3),
)
# The loss over tokens is what runs mean that name none.
SETTINGS = TrainSettings(steps=4, eval_every=2, batch_size=4, loss="tokens")


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The old run, which was stopped after step 2 of 4, taken to its end."""
    folder = tmp_path_factory.mktemp("old") / "run"
    shutil.copytree(OLD / "run", folder)
    return resume(folder, model=load_backbone("lab-t5-small", device="cpu", engine="reference"))


def test_the_plan_of_an_old_run_has_the_names_of_today():
    plan = read_plan(OLD / "run")
    assert plan.prompts[0] == dataclasses.replace(PROMPT, lr=0.3, units="rms")
    assert plan.settings == SETTINGS
    assert plan.prompt_names() == ["prompt-tuning-seed3", "ept-seed4"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("adv-emb", "adv-emb:alpha=1.0"),
        ("rn-emb + adv-emb:radius=0.5", "rn-emb + adv-emb:radius=0.5,alpha=1.0"),
        ("adv-emb:alpha=0.3+ptp-adv", "adv-emb:alpha=0.3+ptp-adv"),
    ],
)
def test_a_run_goes_on_with_the_alpha_that_it_began_with(given, meant):
    values = read_plan(OLD / "run").to_json()
    values["prompts"][0]["regularizer"] = given
    assert Plan.from_json({**values, "format": 3}).prompts[0].regularizer == meant
    assert Plan.from_json(values).prompts[0].regularizer == given
    assert [each.alpha for each in regularizers(meant)] != []


def test_an_old_run_is_gone_on_with_as_it_would_have_been(resumed):
    # Close, not equal: another processor rounds in another way.
    expected = load_file(OLD / "prompt" / "prompt.safetensors")["vectors"]
    torch.testing.assert_close(resumed.prompt(0).vectors, expected, rtol=1e-3, atol=1e-3)
    expected = load_file(OLD / "ept-seed4.safetensors")["vectors"]
    torch.testing.assert_close(resumed.prompt(1).vectors, expected, rtol=1e-3, atol=1e-3)
    was = json.loads((OLD / "result.json").read_text())
    assert (resumed.results[0].prompt, resumed.results[0].prompt_steps) == (was["lane"], was["lane_steps"])


def test_the_result_of_an_old_run_is_read(resumed, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(resumed.folder, folder)
    shutil.copy(OLD / "result.json", folder / "prompt-tuning-seed3" / "result.json")
    first, _ = read_results(folder)
    assert (first.prompt, first.prompt_steps, first.method) == ("prompt-tuning-seed3", 7, "prompt-tuning")


def test_an_old_prompt_is_loaded_with_what_it_records():
    prompt = softprompt.load_prompt(OLD / "prompt")
    assert prompt.provenance.training["max_norm"] == 10.0
    assert prompt.provenance.method == "prompt-tuning"


def test_an_old_store_has_its_runs_under_the_names_that_they_have_today():
    task = softprompt.with_difficulty(softprompt.task("lab/color"), train=24, validation=8, test=8)
    spec = RunSpec(
        task=task,
        model="lab-t5-small",
        prompt=dataclasses.replace(PROMPT, init="auto"),
        settings=SETTINGS,
        engine="reference",
    )
    (run,) = read(OLD / "store", [spec])
    assert run is not None
    assert run.spec.prompt == PROMPT
    assert run.prompt_steps == 7


def test_names_change_where_they_are_ours_and_not_where_they_are_the_users():
    old = {"lanes": [{"method": "head-only", "norm_guard": 1}], "task": {"columns": ["lane"], "lane": 1}, "room": {}}
    new = {
        "prompts": [{"method": "linear-probe", "max_norm": 1}],
        "task": {"columns": ["lane"], "lane": 1},
        "memory_budget": {},
    }
    assert renamed(old) == new == renamed(new)
    assert as_before(new) == old


def test_a_run_from_before_there_were_checksums_loads_and_nothing_of_it_is_called_damaged(caplog):
    folder = OLD.parent / "2" / "run"
    plan, (result,) = read_plan(folder), read_results(folder)
    assert (plan.prompts[0].method, result.prompt, result.best_step) == ("ept-star", "ept-star-seed3", 2)
    assert resume(folder).results[0].metrics == result.metrics
    assert softprompt.load_prompt(folder).provenance.seeds["initialization"] == 3
    comparison = read_comparison(folder)
    assert comparison is not None
    assert comparison.reference == "instruction"
    assert (list(damage(folder)), caplog.messages) == ([], [])


class TestFilesOfALaterVersion:
    """They are refused with what this version reads, and nobody is told to delete them."""

    def test_a_run(self, tmp_path):
        run = made_run(tmp_path / "run", seeds=1)
        rewrite(run / "run.json", lambda values: values.update(format=5))
        with pytest.raises(BadInput, match=r"run\.json is of format 5, this softprompt reads 1 to 4; upgrade it$"):
            read_plan(run)

    def test_a_run_of_a_study(self, tmp_path, monkeypatch):
        with monkeypatch.context() as later:
            later.setattr("softprompt.study._stored.FORMAT", 3)
            store = made_store(tmp_path / "store", count=1)
        (name,) = stored_names(store)
        with pytest.raises(BadInput, match="is of format 3, this softprompt reads 1 to 2; upgrade it, or name another"):
            load(store, name)

    def test_trained_weights(self, tmp_path):
        contents = {"weights.json": json_bytes({"format": 2}), "weights.safetensors": tensor_bytes({})}
        folder = write_folder(tmp_path / "weights", contents, what="the weights")
        with pytest.raises(BadInput, match=r"is of format 2, this softprompt reads 1; upgrade it$"):
            load_tuned(folder)
