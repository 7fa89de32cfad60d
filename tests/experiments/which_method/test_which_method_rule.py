"""The rule that names the default method."""

import pytest
from experiments.which_method import (
    Design,
    Part,
    Results,
    default_method,
    key_of,
    tables,
)

from which_method_kit import run


class TestRule:
    TASKS = ("a/x", "a/y")
    NAMES = ("prompt-tuning", "prompt-tuning-rms", "scaled", "ept-star", "ept-star@s=1", "full")

    def found(self, **parts: dict[str, float]):
        """The default, and the table of steps, where each part's methods score this on every task and seed."""
        kinds = {"real": ("minilm",), "kinds": ("lab-bert", "lab-gpt")}
        names = {name: tuple(dict.fromkeys((*self.NAMES, *scores))) for name, scores in parts.items()}
        design = Design(
            models={},
            parts={
                name: Part(models=kinds.get(name, ("m",)), tasks=self.TASKS, candidates=names[name], seeds=(1, 2, 3, 4))
                for name in parts
            },
        )
        cells = {
            key_of(name, model, task, one): {str(seed): run(score + 0.001 * seed) for seed in (1, 2, 3, 4)}
            for name, scores in parts.items()
            for model in design.parts[name].models
            for task in self.TASKS
            for one, score in scores.items()
        }
        default, rows = default_method(Results(cells), design)
        return default, {row["step"]: row["found"] for row in rows}, design, Results(cells)

    def test_it_is_the_prompt_with_the_highest_mean(self):
        core = {"prompt-tuning": 0.6, "scaled": 0.8, "ept-star@s=1": 0.9, "full": 0.99, "default": 0.9}
        assert self.found(core=core)[0] == "scaled"

    def test_of_those_that_do_not_differ_it_is_the_one_with_the_fewest_numbers(self):
        # 0.009 is shown by its interval, and is less than what is called a difference.
        default, steps, *_ = self.found(core={"prompt-tuning": 0.709, "scaled": 0.7, "ept-star": 0.69})
        assert (default, steps["not shown to differ from it"]) == ("scaled", "prompt-tuning, scaled")

    def test_fewer_stuck_runs_come_before_fewer_numbers(self):
        default, _, design, results = self.found(core={"prompt-tuning": 0.75, "scaled": 0.75})
        cells = dict(results.cells)
        cells["core/m/a/x/scaled"] = {
            seed: run(score) for seed, score in zip("1234", (0.5, 1.0, 0.5, 1.0), strict=True)
        }
        cells["core/m/a/x/prompt-tuning"] = {seed: run(0.76) for seed in "1234"}
        assert default == "scaled"
        assert default_method(Results(cells), design)[0] == "prompt-tuning"

    @pytest.mark.parametrize(("part", "reference"), [("fewshot", "prompt-tuning"), ("real", "head-only")])
    def test_it_falls_where_another_part_has_it_worse(self, part, reference):
        core = {"prompt-tuning": 0.6, "scaled": 0.8}
        assert self.found(core=core, **{part: {reference: 0.7, "scaled": 0.71}})[0] == "scaled"
        assert self.found(core=core, **{part: {reference: 0.71, "scaled": 0.7}})[0] == "prompt-tuning"

    def test_only_the_decoder_counts_of_the_other_kinds(self):
        core = {"prompt-tuning": 0.6, "scaled": 0.8}
        _, _, design, results = self.found(core=core, kinds={"prompt-tuning": 0.7, "scaled": 0.7})
        worse = {key: {s: run(0.5) for s in "1234"} for key in results.cells if key.endswith("/scaled")}
        for model, default in (("lab-bert", "scaled"), ("lab-gpt", "prompt-tuning")):
            cells = {**results.cells, **{key: cell for key, cell in worse.items() if f"kinds/{model}" in key}}
            assert default_method(Results(cells), design)[0] == default

    def test_where_it_falls_raw_numbers_stand_only_if_they_are_better_than_units(self):
        core = {"prompt-tuning": 0.6, "prompt-tuning-rms": 0.595, "scaled": 0.8}
        worse = {"prompt-tuning": 0.7, "scaled": 0.6}
        assert self.found(core=core, long=worse)[0] == "prompt-tuning-rms"
        assert self.found(core=core | {"prompt-tuning-rms": 0.58}, long=worse)[0] == "prompt-tuning"

    def test_a_part_without_its_runs_is_said_not_to_have_been_run(self):
        default, steps, *_ = self.found(core={"prompt-tuning": 0.6, "scaled": 0.8}, long={})
        assert (default, steps["long: m, against prompt-tuning"]) == ("scaled", "not run")

    def test_with_a_head_alone_prompt_tuning_is_no_reference_though_nothing_was_run(self):
        _, _, design, results = self.found(core={"prompt-tuning": 0.6}, real={"head-only": 0.5})
        cells = {key: cell for key, cell in results.cells.items() if key.startswith("core/")}
        steps = {row["step"]: row["found"] for row in default_method(Results(cells), design)[1]}
        assert steps["real: minilm, against head-only"] == "not run"

    def test_nothing_is_the_default_before_there_are_runs(self):
        assert self.found(core={})[:2] == (None, {})

    def test_the_tables_say_where_it_loses(self):
        _, _, design, results = self.found(core={"prompt-tuning": 0.6, "scaled": 0.8})
        cells = {**results.cells, "core/m/a/y/scaled": {seed: run(0.5) for seed in "1234"}}
        (row,) = tables(Results(cells), design)["Where scaled loses, by task"]
        assert (row["task"], row["difference"]) == ("a/y", pytest.approx(-0.1025))
