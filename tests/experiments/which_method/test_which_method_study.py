"""The study of methods runs, stops and goes on."""

import dataclasses
import json
import shutil
import signal

import pytest
from experiments import which_method as confirmation
from experiments.which_method import (
    CANDIDATES,
    QUICK,
    Design,
    Frozen,
    Part,
    Place,
    Results,
    confirm,
    key_of,
    of_key,
    read_results,
    tables,
    text,
)
from experiments.which_method import design as _design
from experiments.which_method import runs as runs_module
from experiments.which_method.__main__ import main
from experiments.which_method.runs import RunRequest, _spec
from softprompt.errors import UnknownName
from softprompt.study import run_all
from softprompt.training import Interrupted
from softprompt.training._loop import Loop

from tiny import ALL
from which_method_kit import TASK

# Two methods and the ceiling, a moment each.
SMALL = Design(
    models={"lab-t5-small": Frozen(scale=32.0, tasks=(TASK,), steps=2)},
    parts={
        "core": Part(
            models=("lab-t5-small",),
            tasks=(TASK,),
            candidates=("prompt-tuning", "scaled", "default", "full"),
            seeds=(2000, 2001),
            steps=3,
        )
    },
    tried=3,
)


# What the command's short form runs here: QUICK itself with `make test-all` and `make experiments-quick`.
SHORT = dataclasses.replace(
    QUICK,
    parts={
        "core": dataclasses.replace(QUICK.parts["core"], tasks=(TASK,), candidates=("prompt-tuning", "scaled"), steps=2)
    },
)


def without_seconds(found: Results):
    cells = {
        key: {seed: {n: v for n, v in one.items() if n != "seconds"} for seed, one in cell.items()}
        for key, cell in found.cells.items()
    }
    return cells, found.rates


@pytest.fixture(scope="class")
def few_rows():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_design, "ROWS", {"train": 32, "validation": 8, "test": 32})
        patched.setattr(_design, "TRIAL_ROWS", {"train": 32, "validation": 32, "test": 8})
        yield


@pytest.mark.usefixtures("few_rows")
class TestStudy:
    @pytest.fixture(scope="class")
    @staticmethod
    def done(tmp_path_factory, few_rows):
        folder = tmp_path_factory.mktemp("confirm")
        place = Place(store=folder / "store", results=folder / "r.json")
        return place, confirm(SMALL, place)

    def test_it_has_every_run_and_rate(self, done):
        _, found = done
        assert sorted(found.cells) == sorted(
            key_of("core", "lab-t5-small", TASK, one) for one in ("prompt-tuning", "scaled", "default", "full")
        )
        assert all(set(cell) == {"2000", "2001"} for cell in found.cells.values())
        rates = found.rates["lab-t5-small"]
        for one, cell in ((of_key(key)[3], cell) for key, cell in found.cells.items()):
            assert {r["lr"] for r in cell.values()} == {rates[one]["chosen"]}
            assert sorted(map(float, rates[one]["trials"])) == list(CANDIDATES[one].rates)
            is_edge = not CANDIDATES[one].is_fixed and rates[one]["chosen"] != CANDIDATES[one].rates[1]
            assert rates[one]["edge"] == is_edge

    def test_a_run_is_that_of_the_store(self, done):
        place, found = done
        (name,) = [key for key in found.cells if key.endswith("/scaled")]
        kept = found.cells[name]["2001"]
        part = SMALL.parts["core"]
        wanted = RunRequest(task=TASK, candidate="scaled", rate=kept["lr"], seed=2001)
        spec = _spec("lab-t5-small", SMALL.models["lab-t5-small"], part, wanted, False)
        stored = run_all([spec], place.store, progress=False)[0]
        assert (kept["score"], kept["majority"]) == pytest.approx((stored.score, stored.majority), rel=1e-5)
        assert (kept["norm"], kept["steps"]) == (stored.curve["token_norms"][-1], 3)

    def test_without_its_store_it_runs_nothing_again(self, done, tmp_path, monkeypatch):
        place, found = done
        monkeypatch.setattr(runs_module, "run_all", None)
        assert confirm(SMALL, dataclasses.replace(place, store=tmp_path)) == found

    @pytest.mark.parametrize("at", [1, 7] if ALL else [7])
    def test_stopped_anywhere_it_goes_on_to_the_same_results(self, at, done, tmp_path, monkeypatch):
        original, steps = Loop._optimize, []

        def stopped(loop):
            steps.append(loop.step)
            if len(steps) == at:
                signal.raise_signal(signal.SIGINT)
            return original(loop)

        monkeypatch.setattr(Loop, "_optimize", stopped)
        place = Place(store=tmp_path / "store", results=tmp_path / "r.json")
        with pytest.raises(Interrupted, match="goes on"):
            confirm(SMALL, place)
        assert without_seconds(confirm(SMALL, place)) == without_seconds(done[1])
        assert text(read_results(place.results), SMALL) == text(done[1], SMALL)

    def test_stopped_while_fine_tuning_it_says_so_and_goes_on(self, done, tmp_path, monkeypatch):
        original, steps = Loop._optimize, []

        def stopped(loop):
            if loop.members[0].settings.method == "full":
                steps.append(loop.step)
                if len(steps) == 4:
                    raise KeyboardInterrupt
            return original(loop)

        monkeypatch.setattr(Loop, "_optimize", stopped)
        place = Place(store=tmp_path / "store", results=tmp_path / "r.json")
        with pytest.raises(Interrupted, match="the same command goes on"):
            confirm(SMALL, place)
        assert without_seconds(confirm(SMALL, place)) == without_seconds(done[1])

    def test_rates_alone_make_no_cell(self, tmp_path):
        place = Place(store=tmp_path / "store", results=tmp_path / "r.json")
        assert confirm(SMALL, place, "rates").cells == {}
        assert read_results(place.results).chosen("lab-t5-small", "scaled") is not None

    def test_the_real_part_is_left_out_where_its_rows_are_not_at_hand(self, done):
        place, found = done
        real = Part(models=("minilm",), tasks=("glue/sst2",), candidates=("ept",), seeds=(1,))
        models = {**SMALL.models, "minilm": Frozen(scale=None)}
        assert confirm(Design(models=models, parts={**SMALL.parts, "real": real}), place) == found

    def test_a_part_that_does_not_exist_is_named(self, done):
        with pytest.raises(UnknownName, match="Did you mean 'core'"):
            confirm(SMALL, done[0], "cor")


@pytest.mark.usefixtures("few_rows")
class TestCommand:
    def test_quick_runs_and_its_table_needs_the_results_alone(self, tmp_path, capsys, monkeypatch):
        design = QUICK if ALL else SHORT
        monkeypatch.setattr(confirmation, "QUICK", design)
        results = tmp_path / "r.json"
        words = ["--quick", "--results", str(results)]
        assert main([*words, "--store", str(tmp_path / "store"), "--quiet"]) == 0
        assert capsys.readouterr().out == f"{results}\n"
        shutil.rmtree(tmp_path / "store")
        assert main([*words, "--table"]) == 0
        printed = capsys.readouterr().out
        assert printed == text(read_results(results), design)
        assert "| scaled |" in printed
        assert main([*words, "--table", "--json"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        titles = tables(read_results(results), design)
        assert rows == [{"table": title, **row} for title, found in titles.items() for row in found]

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--part", "cor"], "Did you mean 'core'"),
            (["--task", "lab/topc"], "Did you mean 'lab/topic'"),
            (["--page", "p.md"], "give --table too"),
            (["--table"], "does not exist; run `python -m experiments.which_method` first"),
        ],
    )
    def test_mistakes_are_one_line(self, words, said, tmp_path, capsys):
        place = ["--results", str(tmp_path / "r.json"), "--store", str(tmp_path / "store")]
        assert main([*words, *place]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
