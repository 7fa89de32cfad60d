"""Which runs a comparison of spreads needs, and how settings are written."""

import dataclasses
import re

import pytest
from softprompt.cli._compared import compared
from softprompt.cli._prompts import PromptGrid
from softprompt.errors import BadInput, OtherInputs, SoftPromptError, UnknownName
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.study import StoredRun, grid
from softprompt.study.stability import (
    as_given,
    plan,
    seed_sets,
)
from softprompt.study.stability._plan import judged
from softprompt.tasks import with_difficulty

from stability_kit import BASE


class TestSeeds:
    def test_by_default_everything_varies(self):
        assert seed_sets((), 3, 5) == {"all": (Seeds.all(5), Seeds.all(6), Seeds.all(7))}

    def test_one_source_varies_and_the_others_stay(self):
        assert seed_sets(["order"], 2, 4) == {
            "order": (Seeds.all(4), Seeds(initialization=4, order=5, draw=4, noise=4))
        }

    def test_several_vary_alone_and_together(self):
        found = seed_sets(["init", "draw"], 2)
        assert list(found) == ["init", "draw", "together"]
        assert [group[0] for group in found.values()] == [Seeds()] * 3
        assert [group[1] for group in found.values()] == [
            Seeds(initialization=1), Seeds(draw=1), Seeds(initialization=1, draw=1),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"vary": ["initt"]}, r"unknown source of variance 'initt'. Did you mean 'init'"),
            ({"vary": ["init", "init"]}, "names a source twice"),
            ({"seeds": 1}, "1 seeds have no spread; at least 2"),
            ({"base_seed": -1}, "must not be negative"),
        ],
    )
    def test_mistakes_are_named(self, given, message):
        with pytest.raises(SoftPromptError, match=message):
            seed_sets(**given)


def two(**more):
    return {name: grid(**BASE, method=name, **more)[0] for name in ("prompt-tuning", "ept-star")}


class TestPlan:
    def test_runs_are_those_of_a_study_with_the_same_seeds(self):
        planned = plan(two(), seeds=3, base_seed=2)
        expected = grid(**BASE, method=["prompt-tuning", "ept-star"], seed=range(2, 5))
        assert [spec.name for spec in planned.specs] == [spec.name for spec in expected]
        assert planned.longest == 3

    def test_each_source_is_a_set_and_the_last_is_together(self):
        planned = plan(two(shots=8), seeds=2, vary=["init", "draw"])
        assert {name: {s: len(specs) for s, specs in settings.items()} for name, settings in planned.sets.items()} == {
            name: {"prompt-tuning": 2, "ept-star": 2} for name in ("init", "draw", "together")
        }
        assert len(planned.specs) == 12
        # The first seed of each set is the same run.
        assert len({spec.name for spec in planned.specs}) == 8

    def test_what_cannot_be_compared_is_refused(self):
        with pytest.raises(BadInput, match="'a' and 'b' are the same runs"):
            plan({"a": two()["ept-star"], "b": dataclasses.replace(two()["ept-star"], tags={"x": 1})})
        other = dataclasses.replace(two()["ept-star"], task="lab/color")
        with pytest.raises(BadInput, match=r"one task, not 2 \(lab/color, lab/opinion\)"):
            plan({"a": two()["ept-star"], "b": other})
        with pytest.raises(BadInput, match=r"'ept-star' is trained on all rows, so no draw varies; give `shots`"):
            plan({"ept-star": two()["ept-star"]}, vary=["draw"])
        with pytest.raises(UnknownName, match="unknown method 'ept-str'"):
            plan({"a": dataclasses.replace(two()["ept-star"], prompt=PromptSettings(method="ept-str"))})

    def test_other_rows_under_one_name_are_another_task_and_other_words_are_not(self):
        spec = two()["ept-star"]
        hard = dataclasses.replace(spec, task=with_difficulty(spec.declared, noise=6))
        with pytest.raises(BadInput, match=r"one task, not 2 \(lab/opinion, lab/opinion \(noise=6\)\)"):
            plan({"a": spec, "b": hard})
        plan({"a": spec, "b": dataclasses.replace(spec, task=dataclasses.replace(spec.declared, template="{text}"))})

    def test_scores_on_other_test_rows_are_not_compared(self):
        few, more = two(test_rows=10)["ept-star"], two(test_rows=20)["ept-star"]
        with pytest.raises(BadInput, match=r"on other test rows \(`test_rows` 10, 20\); give all of them one number"):
            plan({"few": few, "more": more})

    def test_a_file_that_had_other_contents_for_another_run_is_named(self):
        planned = plan(two(), seeds=2)
        runs = [
            StoredRun.without_result(spec, {"test": {"score": 0.5}}, "finished", inputs={"/gone.csv": spec.name[:1]})
            for spec in planned.specs
        ]
        with pytest.raises(OtherInputs, match=r"/gone\.csv had other contents for run \w+ .* than for run \w+ "):
            judged(planned, runs)
        same = [dataclasses.replace(run, inputs={"/gone.csv": "a"}) for run in runs]
        assert judged(planned, same).power.n == 2

    def test_a_list_of_runs_is_parted_into_its_settings(self):
        specs = grid(**BASE, method="ept-star", lr=[0.1, 0.3], seed=[0, 1, 2])
        planned = as_given(specs)
        assert {name: len(found) for name, found in planned.sets["given"].items()} == {"lr=0.1": 3, "lr=0.3": 3}
        tagged = [*grid(**BASE, tags={"setting": "none"}, seed=[0, 1]), *grid(**BASE, lr=0.1, seed=[0, 1])]
        assert list(as_given(tagged).sets["given"]) == ["none", "lr=0.1"]
        with pytest.raises(BadInput, match=r"'lr=0\.3' has one seed"):
            as_given(specs[:4])
        with pytest.raises(BadInput, match="two settings are named 'x'"):
            as_given([dataclasses.replace(spec, tags={"setting": "x"}) for spec in specs])

    def test_a_run_under_two_tags_is_in_both_settings_once_each(self):
        first = grid(**BASE, tags={"setting": "none"}, seed=[0, 1, 2])
        again = grid(**BASE, tags={"setting": "again"}, seed=[0, 1])
        planned = as_given([*first, *again, *first])
        assert {name: [spec.name for spec in found] for name, found in planned.sets["given"].items()} == {
            "none": [spec.name for spec in first], "again": [spec.name for spec in first[:2]]
        }  # fmt: skip
        runs = [StoredRun.without_result(spec, {"test": {"score": 0.5}}, "finished") for spec in first]
        assert {one.setting: one.n for one in judged(planned, runs).spreads} == {"none": 3, "again": 2}
        # As in a study file without seeds, which has those of the command.
        whole = plan({"none": first[0], "again": again[0]}, seeds=2, may_repeat=True)
        assert len({spec.name for spec in whole.specs}) == 2


class TestSettings:
    """`--setting "NAME: OPTIONS"`: what is written replaces the command's own."""

    BASE = PromptGrid(method=("prompt-tuning",), lr=(0.2,)), PromptSettings(max_norm=3.0)

    def test_without_any_each_method_and_rate_is_one(self):
        train = TrainSettings(steps=5)
        grid = PromptGrid(method=("scaled", "ept"), lr=(0.1, 0.3))
        found = compared(grid, PromptSettings(), train, None)
        assert list(found) == ["scaled, lr 0.1", "scaled, lr 0.3", "ept, lr 0.1", "ept, lr 0.3"]
        assert found["ept, lr 0.1"] == (PromptSettings(method="ept", lr=0.1), train)
        assert list(compared(PromptGrid(method=("scaled",), lr=(0.1,)), PromptSettings(), train, None)) == ["scaled"]

    def test_what_is_written_replaces_the_commands_own_and_nothing_else(self):
        texts = ["none", "a b: --lr 0.5 --steps 9", "c: --method ept --method-option hidden=3 --init 'text:good film'"]
        found = compared(*self.BASE, TrainSettings(steps=5, clip=1.0), texts)
        plain = PromptSettings(method="prompt-tuning", lr=0.2, max_norm=3.0)
        assert found["none"] == (plain, TrainSettings(steps=5, clip=1.0))
        assert found["a b"] == (dataclasses.replace(plain, lr=0.5), TrainSettings(steps=9, clip=1.0))
        changed = dataclasses.replace(plain, method="ept", options={"hidden": "3"}, init="text:good film")
        assert found["c"] == (changed, TrainSettings(steps=5, clip=1.0))

    def test_a_regulariser_is_an_option_as_any_other(self):
        texts = ["none", "ptp: --regularizer rn-emb --alpha 0.3"]
        none, ptp = (prompt for prompt, _ in compared(*self.BASE, TrainSettings(), texts).values())
        assert dataclasses.replace(none, regularizer="rn-emb:alpha=0.3") == ptp

    def test_every_option_of_training_can_be_written(self):
        """Whatever fields the two have, now or later."""
        for f in dataclasses.fields(TrainSettings):
            option = f"--{f.name.replace('_', '-')}"
            words = {bool: "", str: "linear"}.get(type(f.default), "7")
            others = {"decode": "generate", "normalize": "mean", "schedule": "constant", "loss": "labels"}
            words = (others | {"class_weights": "balanced", "label_smoothing": "0.5"}).get(f.name, words)
            own, settings = compared(*self.BASE, TrainSettings(), [f"a: {option} {words}"])["a"]
            assert getattr(settings, f.name) != f.default or f.default == 7
            assert own == compared(*self.BASE, TrainSettings(), ["a"])["a"][0]

    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            (["guarded --max-norm 4"], r"'guarded --max-norm 4' is not NAME: OPTIONS"),
            ([": --lr 1"], "is not NAME: OPTIONS"),
            (["a: --norm-gard 4"], r"setting 'a': No such option: --norm-gard"),
            (["a: --lr x"], "setting 'a': Invalid value for '--lr'"),
            (["a: 4"], "setting 'a': .*unexpected extra argument"),
            (["a: --seed 4"], "setting 'a': No such option: --seed"),
            (["a: --lr 1 --lr 2"], r"setting 'a' is 2 prompts; give it one --method and one --lr"),
            (["a: --init 'text"], "cannot be read: No closing quotation"),
            (["a", "a"], "two settings are named 'a'"),
            (["a: --max-norm -1"], "--max-norm must be positive"),
            (["a: --steps 0"], "--steps must be positive"),
        ],
    )
    def test_mistakes_are_named(self, texts, message):
        with pytest.raises(BadInput) as caught:
            compared(*self.BASE, TrainSettings(), texts)
        # As the command line prints it.
        assert re.search(message, caught.value.message)
