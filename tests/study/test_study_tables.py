"""Tables and curves of stored runs against numpy and scipy."""

import dataclasses
import itertools
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from softprompt import store as store_module
from softprompt.errors import BadInput, UnknownName
from softprompt.metrics import is_stuck
from softprompt.study import (
    RunSpec,
    StoredRun,
    chosen,
    compare,
    export,
    grid,
    load_specs,
    markdown,
    other_keys,
    read,
    rows_of,
    summary,
    with_chosen,
)
from softprompt.study._stored import POINTS, curves, load, path_of, to_bytes
from softprompt.study.statistics import bootstrap, ratio_of_deviations, settled, wilcoxon
from softprompt.study.tables import ceilings, columns, is_column, stuck, value, varying
from softprompt.tasks import task as find_task
from softprompt.tasks import with_difficulty

from study_kit import stored

SCORES = {"a": (0.9, 0.5, 0.7, 0.8, None), "b": (0.6, 0.65, 0.55, 0.8, 0.4)}


AXES = {"task": ["glue/rte", "glue/sst2"], "model": "m", "seed": [0, 1]}


@pytest.fixture
def runs():
    arms = {"ept": SCORES["a"], "residual": SCORES["b"]}
    return [stored(m, i, score, norm=float(i + 1)) for m, scores in arms.items() for i, score in enumerate(scores)]


class TestTables:
    def test_numbers_of_a_group_equal_numpy(self, runs):
        ept, residual = summary(runs, by=("method",))
        scores = np.array(SCORES["b"])
        assert residual["n"] == 5
        assert residual["mean"] == pytest.approx(scores.mean())
        assert residual["std"] == pytest.approx(scores.std(ddof=1))
        assert residual["se"] == pytest.approx(stats.sem(scores))
        assert (residual["min"], residual["median"]) == (0.4, 0.6)
        assert residual["worst"] == residual["mean"]
        assert (ept["n"], ept["dropped"], ept["min"]) == (5, 1, 0.5)
        assert ept["mean"] == pytest.approx(np.mean([0.9, 0.5, 0.7, 0.8]))
        # Half of the way from 0.5 to 0.9 is 0.7, and not to have a score is to be stuck.
        assert (ept["stuck"], residual["stuck"]) == (2 / 5, 4 / 5)
        norms = np.arange(1.0, 6.0)
        levels = [residual[name] for name in ("token_norms_p10", "token_norms", "token_norms_p90")]
        assert levels == pytest.approx(np.quantile(norms, [0.1, 0.5, 0.9]))

    def test_worst_is_the_lowest_mean_of_a_task(self):
        runs = [stored("ept", i, s, task=t) for t, scores in (("glue/rte", (0.9, 0.3)), ("glue/sst2", (0.5, 0.6)))
                for i, s in enumerate(scores)]  # fmt: skip
        (row,) = summary(runs, by=("method",))
        assert row["worst"] == pytest.approx(0.55)
        assert row["min"] == 0.3

    def test_the_ceiling_is_the_best_run_of_the_task_unless_given(self, runs):
        assert ceilings([*runs, stored("ept", 0, 0.6, "glue/sst2")]) == {"glue/rte": 0.9, "glue/sst2": 0.6}
        assert [row["stuck"] for row in summary(runs, by=("method",), ceiling={"glue/rte": 0.58})] == [2 / 5, 1 / 5]

    def test_a_task_on_other_rows_is_another_task(self):
        color = find_task("lab/color")
        scores = {"lab/color": (0.92, 0.82), "lab/color (noise=6)": (0.72, 0.62)}
        runs = [
            stored(method, seed, score - (method == "scaled") / 10, task)
            for task, of_task in zip((color, with_difficulty(color, noise=6)), scores.values(), strict=True)
            for seed, score in enumerate(of_task)
            for method in ("polar", "scaled")
        ]
        rows = summary(runs)
        assert [(row["task"], row["method"], row["n"]) for row in rows] == [
            (task, method, 2) for task in scores for method in ("polar", "scaled")
        ]
        # Each has a ceiling of its own, half of the way to which is not to be stuck.
        assert [row["stuck"] for row in rows] == [0, 0, 0, 0.5]
        assert summary(runs, by=("method",))[0]["worst"] == pytest.approx(0.67)
        assert varying([run.spec for run in runs]) == ("task", "method")
        (row,) = compare(runs, by="method", baseline="polar")
        assert (row["n"], row["difference"]) == (4, pytest.approx(-0.1))
        (row,) = compare(runs, by="task", baseline="lab/color", pair=("method", "seed"))
        assert (row["task"], row["n"]) == ("lab/color (noise=6)", 4)

    def test_stuck_is_less_than_half_of_the_way(self):
        assert not is_stuck(0.75, 0.5, 1.0)
        assert is_stuck(0.7499, 0.5, 1.0)
        assert is_stuck(0.5, 0.5, 0.5)
        assert is_stuck(0.4, 0.5, 0.45)

    def test_without_a_majority_stuck_is_unknown_for_labels_and_from_zero_for_others(self):
        unknown = stored("ept", 0, 0.4, majority=None)
        assert stuck(unknown, {"glue/rte": 0.9}) is None
        assert summary([unknown])[0]["stuck"] is None
        assert stuck(stored("ept", 0, 0.4, "glue/stsb", majority=None), {"glue/stsb": 0.9})
        assert not stuck(stored("ept", 0, 0.5, "glue/stsb", majority=None), {"glue/stsb": 0.9})

    def test_one_run_has_no_deviation_and_no_interval(self):
        (row,) = summary([stored("ept", 0, 0.6)])
        assert row["mean"] == row["min"] == row["median"] == 0.6
        assert row["std"] is row["se"] is row["low"] is row["high"] is row["token_norms"] is None

    def test_the_interval_is_the_percentile_bootstrap_and_seeded(self):
        values = np.random.default_rng(1).normal(size=30)
        ours = bootstrap(values)
        theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=0).confidence_interval
        assert ours == pytest.approx((theirs.low, theirs.high), abs=0.01)
        assert ours == bootstrap(values)
        assert bootstrap([1.0]) is None

    def test_the_bootstrap_of_pairs_keeps_them_together(self):
        first = np.random.default_rng(1).normal(size=12)
        interval = bootstrap(np.stack([2 * first, first], axis=1), ratio_of_deviations)
        assert interval == pytest.approx((2, 2))

    def test_paired_differences_equal_numpy_and_scipy(self, runs):
        (row,) = compare(runs, "method", "residual")
        differences = np.array(SCORES["a"][:4], dtype=float) - SCORES["b"][:4]
        assert (row["method"], row["against"], row["n"], row["unpaired"]) == ("ept", "residual", 4, 2)
        assert row["difference"] == pytest.approx(differences.mean())
        assert (row["wins"], row["ties"], row["losses"]) == (2, 1, 1)
        assert (row["low"], row["high"]) == pytest.approx(bootstrap(differences))
        with_ties = differences[differences != 0]
        assert row["p"] == pytest.approx(stats.wilcoxon(with_ties)[1])

    def test_wilcoxon_of_equal_arms_is_one(self):
        assert wilcoxon([0.0, 0.0]) == 1.0
        assert wilcoxon([]) is None
        differences = np.random.default_rng(0).normal(0.5, size=20)
        assert wilcoxon(differences) == pytest.approx(stats.wilcoxon(differences)[1])

    @pytest.mark.parametrize(
        "differences",
        [
            [0.0] * 15 + [0.01, 0.02, 0.03, 0.04, 0.05],
            [0.0] * 14 + [0.01, 0.01, 0.01, 0.01, 0.02, 0.02],
            [0.02, -0.02, 0.02, 0.02, 0.02, -0.02, 0.02, 0.02, -0.02, 0.02, 0.02, 0.02, 0.02, -0.02],
            [0.0, 0.0, 0.01, -0.01, 0.03, 0.03, 0.02, -0.05, 0.02, 0.07, 0.07, 0.04, 0.01, -0.03, 0.06],
        ],
    )
    def test_with_zeros_and_ties_wilcoxon_counts_the_signs_of_the_others(self, differences):
        others = np.array([d for d in differences if d])
        ranks = stats.rankdata(abs(others))
        smaller = min(ranks[others > 0].sum(), ranks[others < 0].sum())
        sums = np.array([sum(chosen) for chosen in itertools.product(*((0, rank) for rank in ranks))])
        assert wilcoxon(differences) == pytest.approx(min(1, 2 * np.mean(sums <= smaller)))

    @pytest.mark.parametrize("n", [1, 2, 3, 30, 50, 51, 80])
    def test_without_ties_wilcoxon_is_scipys(self, n):
        differences = np.random.default_rng(n).normal(0.2, size=n)
        assert wilcoxon(differences) == pytest.approx(stats.wilcoxon(differences)[1])

    def test_differences_of_as_many_rows_tie(self):
        right = np.array([73, 79, 61, 70, 69, 75, 84, 71])
        more = np.array([2, -1, 2, -2, -2, -2, 2, 4])
        assert wilcoxon((right + more) / 100 - right / 100) == pytest.approx(stats.wilcoxon(more)[1])
        assert settled([0.3 - 0.1 - 0.2])[0] == 0

    def test_pairs_that_are_not_defined_are_refused(self, runs):
        with pytest.raises(BadInput, match="agree in method, task, seed; pair by more keys"):
            compare([*runs, dataclasses.replace(runs[0], name="x")], "method", "ept")
        with pytest.raises(UnknownName, match=r"unknown method 'residul'\. Did you mean 'residual'"):
            compare(runs, "method", "residul")

    def test_a_run_that_two_tables_list_counts_once_in_the_groups_of_both_and_once_in_a_total(self):
        def run(part: str, method: str, seed: int, score: float) -> StoredRun:
            plain = stored(method, seed, score)
            return dataclasses.replace(plain, spec=dataclasses.replace(plain.spec, tags={"part": part}))

        runs = [run(part, method, seed, 0.5 + seed / 10 + (method == "ept") / 5)
                for part in ("core", "extra") for method in ("ept", "residual") for seed in (0, 1)]  # fmt: skip
        runs.append(run("extra", "residual", 2, 0.9))
        rows = summary(runs, by=["part", "method"])
        assert [(row["part"], row["method"], row["n"]) for row in rows] == [
            ("core", "ept", 2), ("core", "residual", 2), ("extra", "ept", 2), ("extra", "residual", 3)
        ]  # fmt: skip
        assert [row["n"] for row in summary(runs, by=["method"])] == [2, 3]
        for pair in (("task", "seed"), ("task", "seed", "part")):
            (row,) = compare(runs, "method", "residual", pair=pair)
            assert (row["n"], row["wins"], row["unpaired"]) == (2, 2, 1)
            assert row["difference"] == pytest.approx(0.2)

    def test_no_tag_may_take_the_place_of_a_column(self, runs, tmp_path):
        rows = [*summary(runs), *compare(runs, "method", "ept")]
        for run in runs:
            store_module.write_file(path_of(tmp_path, run.name), to_bytes(run), what="a run")
        rows += rows_of(tmp_path, [run.spec for run in runs])
        names = {name for row in rows for name in (*row, *columns([row])[0])}
        assert {"token norms", "95 %", "test score", "state", "p", "unpaired"} < names
        assert all(map(is_column, names))
        study = "[[runs]]\ntask = 'glue/rte'\nmodel = 'm'\n"
        for tag in ("mean", "method", "lr", "test score"):
            (tmp_path / "study.toml").write_text(f"{study}tags = {{'{tag}' = 1}}\n")
            with pytest.raises(BadInput, match=f"a tag is called {tag!r}, like a column or a key of tables; give it"):
                load_specs(tmp_path / "study.toml")
        (tmp_path / "study.toml").write_text(f"{study}tags = {{part = 1}}\n")
        assert load_specs(tmp_path / "study.toml")[0].tags == {"part": 1}

    def test_keys_reach_every_part_of_a_run(self):
        spec = grid(task="glue/rte", model="m", method="ept", options={"hidden": 3}, lr=0.2, draw_seed=4, steps=9,
                    tags={"part": "core"}, backbone={"s": 30})[0]  # fmt: skip
        keys = ("task", "model", "method", "options", "options.hidden", "lr", "seed", "draw_seed", "steps", "part",
                "backbone.s", "dtype")  # fmt: skip
        assert [value(spec, key) for key in keys] == [
            "glue/rte", "m", "ept", "hidden=3", 3, 0.2, 0, 4, 9, "core", 30, "float32"
        ]  # fmt: skip
        with pytest.raises(UnknownName, match="'method'"):
            value(spec, "methd")

    def test_a_tag_that_only_some_runs_have_is_a_row_and_a_side_of_a_comparison_of_its_own(self):
        tagged, plain = stored("ept", 0, 0.9), stored("residual", 0, 0.5)
        plain = dataclasses.replace(plain, spec=dataclasses.replace(plain.spec, tags={}))
        rows = summary([tagged, plain], by=varying([tagged.spec, plain.spec]))
        assert [(row["part"], row["method"]) for row in rows] == [("x", "ept"), (None, "residual")]
        assert compare([tagged, plain], "part", None)[0]["part"] == "x"
        assert "| x | ept |" in markdown(rows)
        assert "|  | residual |" in markdown(rows)
        with pytest.raises(UnknownName, match="'part'"):
            summary([tagged, plain], by=["prt"])

    def test_what_varies_is_found_without_the_seeds(self):
        axes = {"task": "glue/rte", "model": ["m", "n"], "seed": [0, 1]}
        specs = [*grid(**axes, lr=[0.1, 0.2], tags={"part": 1}), *grid(**axes, lr=0.1, steps=3)]
        assert varying(specs) == ("model", "part", "lr", "steps")

    def test_tables_show_every_row_and_leave_out_what_is_unknown(self, runs):
        shown = markdown(summary(runs, by=("method",))).splitlines()
        assert (
            shown[0] == "| method | n | dropped | mean | std | se | 95 % | min | median | worst | stuck | token norms |"
        )
        assert shown[1].startswith("| --- | --: |")
        assert shown[3].startswith("| residual | 5 | 0 | 0.600 | 0.146 | 0.065 | ")
        assert shown[3].endswith("| 0.400 | 0.600 | 0.600 | 0.800 | 3 (1.4 .. 4.6) |")
        plain = markdown(summary([stored("ept", 0, 0.6, majority=None)])).splitlines()[0]
        assert plain == "| task | method | n | mean | min | median | worst |"
        assert markdown([]) == "|  |\n|  |"

    def test_a_name_stays_in_its_cell(self):
        assert "| [x]&#40;http://y) &lt;i>'z' |" in markdown([{"name": "[x](http://y) <i>`z`"}])
        shown = markdown([{"a|b\nc": "d|e\nf\x1b[2J", "n": 1}]).splitlines()
        assert shown == ["| a\\|b\\nc | n |", "| --- | --: |", "| d\\|e\\nf\\x1b[2J | 1 |"]

    def test_a_table_in_latex_has_what_people_read(self, runs, tmp_path):
        ours, damaged = summary(runs, by=("method",))
        rows = [{**ours, "paper": 0.5, "difference": -0.25}, {**damaged, "paper": "50 % lost", "difference": None}]
        shown = export(rows, tmp_path / "table.tex").read_text().splitlines()
        lines = [line for line in shown if "&" in line]
        assert lines[0].startswith(r"method & n & dropped & mean & std & se & 95 \% & min &")
        assert lines[1].endswith(r"& 0.500 & -0.250 \\")
        assert lines[2].startswith("residual & 5 & 0 & 0.600 & 0.146 & 0.065 & ")
        assert lines[2].endswith(r"& 50 \% lost &  \\")

    def test_tables_and_the_names_of_runs_need_no_torch(self):
        code = (
            "import sys; from softprompt.study import grid; from softprompt.study.tables import bootstrap as b; "
            "from softprompt.prompts.methods import METHODS; b([1., 2.]); "
            "specs = grid(task='lab/color', model='lab-t5', method=list(METHODS), sources=[('a', 'b')]); "
            "[spec.name for spec in specs]; print('torch' in sys.modules)"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "False"


class TestChosen:
    @staticmethod
    def ended(spec: RunSpec, validation: float | None) -> StoredRun:
        metrics = {} if validation is None else {"validation": {"score": validation}, "test": {"score": 0.5}}
        return StoredRun.without_result(spec, metrics, "finished", majority=0.5)

    def best_of(self, runs: list[StoredRun], *keys: str) -> dict[str, set]:
        kept, _ = chosen(runs, keys)
        found = {run.spec.declared.name: set() for run in runs}
        for run in kept:
            found[run.spec.declared.name].add(tuple(value(run.spec, key) for key in keys))
        return found

    def test_it_is_the_value_with_the_highest_mean_over_seeds_of_each_task_and_not_that_of_the_best_run(self):
        scores: dict[object, tuple[float, float]] = {
            ("glue/rte", 0.1): (0.9, 0.3),
            ("glue/rte", 0.3): (0.7, 0.7),
            ("glue/sst2", 0.1): (0.8, 0.8),
        }
        specs = grid(**AXES, lr=[0.1, 0.3])
        runs = [
            self.ended(s, scores.get((s.declared.name, s.prompt.lr), (0.5, 0.9))[s.prompt.seeds.order]) for s in specs
        ]
        assert self.best_of(runs, "lr") == {"glue/rte": {(0.3,)}, "glue/sst2": {(0.1,)}}
        assert other_keys(specs, ["lr"]) == ("task",)
        kept, _ = chosen(runs, ["lr"])
        (row,) = with_chosen(summary(kept, by=("model",)), kept, ("model",), ["lr"])
        assert list(row)[:3] == ["model", "lr", "n"]
        assert (row["lr"], row["n"]) == ("0.1, 0.3", 4)

    def test_a_rate_of_which_a_seed_was_dropped_is_chosen_only_where_no_other_is_whole(self):
        def runs(*without: tuple[float, int]) -> list[StoredRun]:
            specs = grid(**AXES | {"task": "glue/rte"}, lr=[0.1, 0.3])
            return [self.ended(s, None if (s.prompt.lr, value(s, "seed")) in without else s.prompt.lr) for s in specs]

        assert self.best_of(runs(), "lr") == {"glue/rte": {(0.3,)}}
        assert self.best_of(runs((0.3, 1)), "lr") == {"glue/rte": {(0.1,)}}
        assert self.best_of(runs((0.3, 1), (0.1, 0)), "lr") == {"glue/rte": {(0.3,)}}

    def test_one_value_needs_no_score_and_of_several_without_any_none_is_chosen(self):
        specs = grid(**AXES | {"task": "glue/rte"}, lr=0.1)
        assert chosen([self.ended(s, None) for s in specs], ["lr"])[1] == []
        specs = [*specs, *grid(**AXES | {"task": "glue/sst2"}, lr=[0.1, 0.3])]
        kept, unchosen = chosen([self.ended(s, None) for s in specs], ["lr"])
        assert ({run.spec.declared.name for run in kept}, len(unchosen)) == ({"glue/rte"}, 4)

    def test_two_settings_are_chosen_together_and_an_option_beside_others_that_stay(self):
        specs = grid(**AXES, lr=[0.1, 0.3], steps=[3, 9])
        scores: dict[object, float] = {(0.1, 3): 0.4, (0.1, 9): 0.8, (0.3, 3): 0.7, (0.3, 9): 0.6}
        runs = [self.ended(spec, scores[value(spec, "lr"), value(spec, "steps")]) for spec in specs]
        assert self.best_of(runs, "lr", "steps") == {"glue/rte": {(0.1, 9)}, "glue/sst2": {(0.1, 9)}}
        options = [{"hidden": hidden, "depth": depth} for hidden in (1, 5) for depth in (1, 2)]
        specs = grid(**AXES, method="ept", options=options)
        runs = [self.ended(s, (s.prompt.options["hidden"] == 5) / 2) for s in specs]
        kept, _ = chosen(runs, ["options.hidden"])
        assert [run.spec for run in kept] == [spec for spec in specs if spec.prompt.options["hidden"] == 5]
        assert other_keys(specs, ["options.hidden"]) == ("task", "options")
        specs = grid(**AXES, method="ept", options=options[::2])
        assert other_keys(specs, ["options.hidden"]) == ("task",)

    def test_without_a_setting_everything_stays_and_no_seed_or_task_is_chosen(self):
        runs = [self.ended(spec, 0.5) for spec in grid(**AXES, lr=[0.1, 0.3])]
        assert chosen(runs, ()) == (runs, [])
        for key in ("seed", "init_seed", "task"):
            with pytest.raises(BadInput, match=f"names '{key}', which validation scores cannot choose; give a setting"):
                chosen(runs, [key])
        with pytest.raises(UnknownName, match="'steps'"):
            chosen(runs, ["step"])


class TestCurves:
    def test_a_short_run_is_kept_whole(self):
        rows = [{"step": i, "loss": i / 7, "lr": 1.0, "prompt_norm": 2.0 * i} for i in (1, 2, 3)]
        rows.insert(2, {"step": 2, "split": "validation", "score": 0.5, "accuracy": 0.5})
        curve, validation = curves([*rows, {"step": 4, "dropped": "nan"}])
        assert curve == {"step": [1, 2, 3], "loss": [0.142857, 0.285714, 0.428571], "prompt_norm": [2.0, 4.0, 6.0]}
        assert validation == {"step": [2], "score": [0.5]}

    def test_of_a_long_run_losses_are_averaged_and_the_rest_is_sampled(self):
        n = 2 * POINTS + 1
        curve, _ = curves({"step": i, "loss": float(i), "prompt_norm": float(i)} for i in range(1, n + 1))
        assert len(curve["step"]) <= POINTS
        assert curve["step"][:3] == [3, 6, 9]
        assert curve["step"][-1] == n
        assert curve["loss"][:2] == [2.0, 5.0]
        assert curve["prompt_norm"][:2] == [3.0, 6.0]

    def test_a_run_comes_back_from_its_bytes_with_nan_as_none(self, tmp_path):
        run = stored("ept", 0, 0.5, norm=1.5)
        run = dataclasses.replace(run, metrics={"test": {"score": float("nan")}}, warnings=("a", "b"), fleet=("x",))
        path_of(tmp_path, run.name).parent.mkdir()
        path_of(tmp_path, run.name).write_bytes(to_bytes(run))
        assert load(tmp_path, run.name) == dataclasses.replace(run, metrics={"test": {"score": None}})

    @pytest.mark.parametrize("curve", [
        {}, {"step": [], "token_norms": []}, {"step": [1, 5, 9], "token_norms": [1.5, None, 3.0], "loss": [1, 2, 3]},
        {"step": [5], "loss": [0.5]},
    ])  # fmt: skip
    @pytest.mark.parametrize("best_step", [0, 3, 5, 20])
    def test_what_tables_read_of_a_run_is_what_was_stored(self, curve, best_step, tmp_path):
        # The name of the tag is one of the marks at which the text of the spec is cut out.
        spec = grid(task="glue/rte", model="m", tags={"shape": {}, "status": "odd"})[0]
        run = dataclasses.replace(stored("ept", 0, 0.5), name=spec.name, spec=spec, curve=curve, best_step=best_step)
        path_of(tmp_path, run.name).parent.mkdir()
        path_of(tmp_path, run.name).write_bytes(to_bytes(run))
        for known in (None, spec):
            light = load(tmp_path, run.name, whole=False, spec=known)
            assert light
            assert dataclasses.replace(light, curve={}) == dataclasses.replace(run, curve={})
            assert light.at_best("token_norms") == run.at_best("token_norms")

    def test_a_table_has_the_tags_of_today(self, tmp_path):
        was, now = (grid(task="glue/rte", model="m", tags={"part": part})[0] for part in ("was", "now"))
        run = dataclasses.replace(stored("ept", 0, 0.5), name=was.name, spec=was)
        path_of(tmp_path, run.name).parent.mkdir()
        path_of(tmp_path, run.name).write_bytes(to_bytes(run))
        assert [run.spec.tags["part"] for run in read(tmp_path, [now], whole=False) if run] == ["now"]
        assert [run.spec.tags["part"] for run in read(tmp_path, [now]) if run] == ["was"]

    def test_a_quantity_at_the_best_checkpoint(self):
        assert stored("ept", 0, 0.5, norm=1.5).at_best("token_norms") == 1.5
        assert stored("ept", 0, 0.5).at_best("token_norms") is None
        other = dataclasses.replace(stored("ept", 0, 0.5, norm=1.5), best_step=0)
        assert other.at_best("token_norms") is other.at_best("prompt_norm") is None
