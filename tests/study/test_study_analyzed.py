"""`softprompt analyze` of a study's store: its records, and the prompts that it keeps."""

import dataclasses
import json
import shutil

import pytest
from softprompt.analysis.analyses import ANALYSES, Bench
from softprompt.cli import main
from softprompt.errors import BadInput
from softprompt.study import kept_prompts, recorded
from softprompt.study._stored import path_of, to_bytes
from softprompt.training import read_record

from study_kit import quietly, stored


@pytest.fixture
def store(specs, tmp_path):
    quietly(specs, tmp_path / "store", keep=True)
    return tmp_path / "store"


def analyzed(name, store, *words):
    """The numbers that the command writes."""
    folder = store.parent / f"{name}-out"
    assert main(["analyze", name, str(store), *words, "--output", str(folder)]) == 0
    return json.loads((folder / f"{name}.json").read_text())


def written(folder, *runs):
    """A store of these runs, without prompts."""
    (folder / "runs").mkdir(parents=True)
    for run in runs:
        path_of(folder, run.name).write_bytes(to_bytes(run))
    return folder


class TestRecords:
    def test_a_store_says_what_the_run_folders_of_its_fleets_say(self, store):
        folders = [str(path) for path in sorted(store.glob("fleets/*/run"))]
        of_store, of_runs = analyzed("rates", store), ANALYSES["rates"].compute(Bench(paths=folders))
        assert len(folders) == 2
        by_method = {cell["method"]: cell for cell in of_runs["methods"]}
        assert {cell["method"]: cell["rates"] for cell in of_store["methods"]} == {
            name: [0.1, 0.3] for name in by_method
        }
        for cell in of_store["methods"]:
            expected = by_method[cell["method"]]
            assert cell["units"] == expected["units"]
            assert [score["mean"] for score in cell["scores"]] == pytest.approx(
                [score["mean"] for score in expected["scores"]]
            )
        ablated = analyzed("ablation", store, "--by", "method")
        assert [(cell["value"], cell["n"]) for cell in ablated["values"]] == [("ept-star", 4), ("prompt-tuning", 4)]
        by_folder = ANALYSES["ablation"].compute(Bench(paths=folders, by="method"))
        assert ablated["also_varied"] == by_folder["also_varied"]

    def test_the_norms_of_a_store_are_those_of_its_records(self, store):
        (run,) = [run for run in recorded(store) if run.label.startswith("store/ept-star-seed1")][:1]
        found = analyzed("norm", store)["prompts"]
        assert len(found) == 8
        (shown,) = [prompt for prompt in found if prompt["prompt"] == run.label]
        (kept,) = kept_prompts(store, [run.label.partition("/")[2]])
        rows = list(read_record(kept.parent / "metrics.jsonl"))
        assert shown["raw"] == pytest.approx([row["prompt_norm"] for row in rows if "prompt_norm" in row], rel=1e-5)
        assert shown["score"] == [row["score"] for row in rows if row.get("split") == "validation"]
        assert shown["step"] == [1, 2, 3, 4]

    def test_one_run_is_chosen_by_its_label(self, store):
        label = recorded(store)[3].label
        found = analyzed("norm", store, "--prompt", label.partition("/")[2])
        assert [prompt["prompt"] for prompt in found["prompts"]] == [label]

    def test_the_rate_of_a_run_that_names_none_is_its_methods(self, tmp_path):
        (found,) = recorded(written(tmp_path / "store", stored("p-tuning", 0, 0.5)))
        assert (found.settings["lr"], found.settings["units"]) == (0.1, "raw")
        assert "seeds" not in found.settings

    def test_runs_without_norms_are_left_out_by_name_and_alone_refused(self, tmp_path, capsys):
        with_norms = stored("ept-star", 0, 0.8, norm=3.0)
        curve = {**with_norms.curve, "prompt_norm": [2.0, None, 4.0]}
        with_norms, without = dataclasses.replace(with_norms, curve=curve), stored("full", 0, 0.9)
        found = analyzed("norm", written(tmp_path / "store", with_norms, without))
        assert [(p["raw"], p["token_norms"]) for p in found["prompts"]] == [([2.0, 4.0], [99.0, 99.0])]
        told = capsys.readouterr().err
        assert f"runs that recorded no prompt norm are left out: store/{without.label}\n" in told
        bare = written(tmp_path / "bare", without)
        assert main(["analyze", "norm", str(bare), "--output", str(tmp_path / "x")]) == 2
        assert "none of the runs recorded a prompt norm; give runs that trained" in capsys.readouterr().err

    def test_a_tag_is_a_key_and_a_dropped_run_has_no_score(self, tmp_path):
        runs = [stored("ept-star", 0, 0.7), stored("ept-star", 1, None), stored("full", 0, 0.9)]
        found = analyzed("ablation", written(tmp_path / "store", *runs), "--by", "part")
        assert [(cell["value"], sorted(cell["scores"])) for cell in found["values"]] == [("x", [0.7, 0.9])]


class TestVectors:
    def test_a_store_stands_for_the_prompts_that_it_keeps(self, store):
        found = analyzed("similarity", store)["prompts"]
        assert len(found) == 8
        chosen = [run.label.partition("/")[2] for run in recorded(store)[-2:]]
        assert [path.parent.name[:13] for path in kept_prompts(store, chosen)] == ["prompt-tuning"] * 2
        assert main(["analyze", "similarity", str(store), "--prompt", chosen[0], "--output", str(store / "one")]) == 0
        assert len(json.loads((store / "one" / "similarity.json").read_text())["prompts"]) == 1

    def test_a_landscape_of_a_store_is_of_the_prompts_that_it_keeps(self, store, capsys):
        chosen = [run.label.partition("/")[2] for run in recorded(store)[-2:]]
        words = ["--prompt", chosen[0], "--prompt", chosen[1], "--rows", "2", "--grid", "3", "--json"]
        assert main(["landscape", str(store), *words, "--output", str(store / "planes")]) == 0
        drawn = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(drawn) == 2
        assert main(["landscape", str(store), str(store.parent), "--prompt", "x", "--output", str(store / "no")]) == 2
        assert "give runs and stores apart" in capsys.readouterr().err

    def test_runs_without_their_prompts_are_left_out_and_counted(self, store, caplog):
        first, *others = kept_prompts(store)
        assert not caplog.messages
        shutil.rmtree(first)
        assert kept_prompts(store) == others
        assert caplog.messages == [f"1 of 8 runs of {store} have no kept prompt and are left out"]
        label = next(run.label.partition("/")[2] for run in recorded(store))
        with pytest.raises(BadInput, match="without its prompt"):
            kept_prompts(store, [label])

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (
                ["similarity", "STORE"],
                "the store STORE keeps no prompts; run its study with --keep, in another",
            ),
            (["similarity", "STORE", "--prompt", "ept-star-seed0"], "Did you mean 'ept-star-seed0-"),
            (["norm", "STORE", "--prompt", "nothing"], "unknown run of 'STORE' 'nothing'"),
            (["similarity", "STORE", "RUN", "--prompt", "x"], "give runs and stores apart"),
        ],
    )
    def test_a_mistake_is_one_line(self, words, message, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        written(tmp_path / "STORE", stored("ept-star", 0, 0.5, norm=1.0))
        assert main(["analyze", *words]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
        assert not (tmp_path / "runs").exists()
