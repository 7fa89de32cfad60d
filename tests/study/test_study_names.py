"""Names of runs, grids and study files."""

import dataclasses
import json
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from softprompt.errors import BadInput, UnknownName
from softprompt.prompts.methods import METHODS
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.study import RunSpec, grid, load_specs
from softprompt.study._fleets import group
from softprompt.tasks import TASKS, with_difficulty

from kit import review_task
from study_kit import RTE, quietly


def changed(name: str, hint: Any, default: Any) -> Any:
    """Another value for a setting, whatever it is: a setting that is added later is tested by being there."""
    special = {
        "method": "ept", "options": {"hidden": 3}, "seeds": Seeds(noise=1), "task": "glue/sst2", "style": "t5",
        "backbone": {"attn_implementation": "eager"}, "regularizer": "rn-emb", "class_weights": "balanced",
        "skip_spikes": 3.0,
    }  # fmt: skip
    if name in special:
        return special[name]
    kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind is not type(None)]
    if typing.get_origin(hint) is typing.Literal:
        return next(kind for kind in kinds if kind != default)
    return {bool: not default, int: 7, float: 0.7, str: "other"}[kinds[0]]


def changes() -> Iterator[tuple[str, RunSpec]]:
    for kind, part in ((PromptSettings, "prompt"), (TrainSettings, "settings"), (RunSpec, "")):
        for f in dataclasses.fields(kind):
            if f.name not in ("prompt", "settings", "tags"):
                now = getattr(getattr(RTE, part) if part else RTE, f.name)
                one = {f.name: changed(f.name, typing.get_type_hints(kind)[f.name], now)}
                whole = {part: dataclasses.replace(getattr(RTE, part), **one)} if part else one
                yield f"{part}.{f.name}", dataclasses.replace(RTE, **whole)


class TestNames:
    def test_every_setting_changes_the_name_and_no_two_changes_agree(self):
        names = [RTE.name, *(spec.name for _, spec in changes())]
        assert len(set(names)) == len(names) > 30

    def test_each_seed_changes_the_name(self):
        names = {
            dataclasses.replace(RTE, prompt=dataclasses.replace(RTE.prompt, seeds=Seeds(**{f.name: 1}))).name
            for f in dataclasses.fields(Seeds)
        }
        assert len(names | {RTE.name}) == 5

    def test_equal_runs_have_equal_names_however_they_are_written(self):
        prompt = PromptSettings(method="ept", options={"hidden": "3", "repeats": 2}, lr=1.0)
        again = PromptSettings(method="ept", options={"repeats": 2, "hidden": 3}, lr=1.0)
        a = RunSpec(task="glue/rte", model="m", prompt=prompt, backbone={"s": 30.0}, tags={"part": 1})
        b = RunSpec(task=TASKS["glue/rte"], model="m", prompt=again, backbone={"s": 30})
        assert a.name == b.name
        assert a.name == RunSpec.from_json(json.loads(json.dumps(a.to_json()))).name

    def test_an_option_given_at_its_default_is_the_same_run(self):
        defaults = METHODS["ept"].defaults
        prompt = PromptSettings(method="ept", options={name: defaults[name] for name in list(defaults)[:1]})
        assert (
            dataclasses.replace(RTE, prompt=prompt).name
            == dataclasses.replace(RTE, prompt=PromptSettings(method="ept")).name
        )

    def test_another_default_in_the_code_is_another_run(self, monkeypatch):
        given = dataclasses.replace(RTE, prompt=dataclasses.replace(RTE.prompt, lr=0.1))
        before = RTE.name, given.name
        method = dataclasses.replace(METHODS["ept-star"], lr=0.123)
        monkeypatch.setitem(METHODS, "ept-star", method)
        after = dataclasses.replace(RTE).name, dataclasses.replace(given).name
        assert after[0] != before[0]
        # The default learning rate is nothing to a run that names its own.
        assert after[1] == before[1]
        monkeypatch.setitem(METHODS, "ept-star", dataclasses.replace(method, repeats=7))
        assert dataclasses.replace(given).name != before[1]

    def test_a_setting_that_is_off_counts_as_absent(self):
        values = RTE.numbers()
        assert "backbone" not in values
        assert "clip" not in values["settings"]
        assert "backbone_dropout" not in values["settings"]
        assert values["lane"]["seeds"] == dict.fromkeys(("initialization", "order", "draw", "noise"), 0)

    @pytest.mark.parametrize(
        ("model", "init", "is_told"),
        [("a/decoder", "uniform", True), ("a/decoder", "auto", True), ("a/decoder", "instruction", False),
         ("lab-t5", "uniform", False)],
    )  # fmt: skip
    def test_deep_prompts_that_begin_otherwise_than_before_have_other_names(self, model, init, is_told):
        deep = dataclasses.replace(RTE, model=model, prompt=PromptSettings(init=init, deep=True))
        ordinary = dataclasses.replace(deep, prompt=PromptSettings(init=init))
        assert ("layers" in deep.numbers()["lane"]) == is_told
        assert "layers" not in ordinary.numbers()["lane"]

    def test_numbers_that_are_none_are_refused(self):
        with pytest.raises(BadInput, match="nan cannot be part of a run"):
            RunSpec(task="glue/rte", model="m", backbone={"embedding_scale": float("nan")})

    def test_unknown_methods_and_options_are_named_before_anything_runs(self, tmp_path):
        for prompt, message in (
            (PromptSettings(method="ept-sta"), "ept-star"),
            (PromptSettings(method="ept", options={"hiden": 3}), "hidden"),
        ):
            with pytest.raises(UnknownName, match=message):
                quietly([dataclasses.replace(RTE, prompt=prompt)], tmp_path / "store")
        assert not (tmp_path / "store").exists()


class TestGrid:
    def test_the_product_is_in_the_order_of_the_axes(self):
        specs = grid(model="m", lr=[0.1, 1], task=["glue/rte", "glue/sst2"], seed=range(2), draw_seed=5, clip=1)
        assert [(s.prompt.lr, s.declared.name, s.prompt.seeds.order) for s in specs] == [
            (lr, task, seed) for lr in (0.1, 1.0) for task in ("glue/rte", "glue/sst2") for seed in (0, 1)
        ]
        assert {s.prompt.seeds.draw for s in specs} == {5}
        assert isinstance(specs[0].settings.clip, float)

    @pytest.mark.parametrize(
        ("axes", "message"),
        [
            ({"stepz": 3}, "Did you mean 'steps'"),
            ({"prompt_lenght": 3}, "Did you mean 'prompt_length'"),
            ({"embedding_scale": "32"}, "embedding_scale must be of type float, not '32'"),
            ({"steps": "many"}, "steps must be of type int or left out, not 'many'"),
            ({"steps": True}, "steps must be"),
            ({"schedule": "cosine"}, "'linear' or 'constant'"),
            ({"seed": []}, "seed has no values"),
            ({"model": []}, "model has no values"),
            ({"backbone": {"dtype": "bfloat16"}}, "backbone has 'dtype', which is the run's own 'dtype'; give that"),
            ({"backbone": [{}, {"name": "n"}]}, "backbone has 'name', which is the run's own 'model'"),
            ({"backbone": {"device": "cpu"}}, "backbone has 'device', and a run is of no machine; leave it out"),
        ],
    )
    def test_mistakes_are_named(self, axes, message):
        with pytest.raises((UnknownName, BadInput), match=message):
            grid(**{"task": "glue/rte", "model": "m", **axes})
        with pytest.raises(BadInput, match="no model"):
            grid(task="glue/rte")

    def test_what_is_a_keyword_of_training_is_an_axis_with_the_name_of_the_run_that_has_it(self):
        axes = {"task": "glue/rte", "model": "m"}
        lengths = grid(**axes, prompt_length=[5, 7], options={"init_range": 0.1}, method="prompt-tuning")
        options = [{"prompt_length": length, "init_range": 0.1} for length in (5, 7)]
        assert lengths == grid(**axes, options=options, method="prompt-tuning")
        plain, scaled = grid(**axes, embedding_scale=[1, 32.0], backbone={"attn_implementation": "eager"})
        (alone,) = grid(**axes, backbone={"attn_implementation": "eager"})
        (inside,) = grid(**axes, backbone={"attn_implementation": "eager", "embedding_scale": 32.0})
        assert [plain.name, scaled.name] == [alone.name, inside.name]

    def test_fleets_hold_runs_that_agree_in_all_but_the_prompt(self):
        axes = {"task": "glue/rte", "model": "m"}
        five = grid(**axes, method=["ept-star", "residual"], seed=[0, 1], tags={"part": "a"})[:3]
        other = grid(**axes, steps=7, seed=[0, 1])
        longer = grid(**axes, method="prompt-tuning", options={"prompt_length": 20})
        dropout = grid(**axes, backbone_dropout=True, seed=[0, 1])
        groups = group([*five, other[0], *longer, *dropout, *five, other[1]], 2)
        assert [[s.name for s in members] for members in groups] == [
            [five[0].name, five[1].name], [five[2].name], [other[0].name, other[1].name], [longer[0].name],
            [dropout[0].name], [dropout[1].name],
        ]  # fmt: skip

    def test_a_study_file_is_a_list_of_grids(self, tmp_path):
        review_task(tmp_path / "rows")
        file = tmp_path / "study.toml"
        file.write_text(
            """
            [defaults]
            model = "m"
            steps = 5
            [tasks.reviews]
            files = {train = "rows/train.csv", test = "rows/test.csv"}
            text_columns = ["text"]
            label_column = "label"
            [[runs]]
            task = ["glue/rte", "reviews"]
            method = "ept"
            options = {hidden = 3}
            [[runs]]
            task = "reviews"
            seed = [0, 1]
            steps = 6
            """
        )
        specs = load_specs(file)
        shown = [(s.declared.name, s.settings.steps, s.prompt.seeds.order, dict(s.prompt.options)) for s in specs]
        assert shown == [
            ("glue/rte", 5, 0, {"hidden": 3}), ("reviews", 5, 0, {"hidden": 3}), ("reviews", 6, 0, {}),
            ("reviews", 6, 1, {}),
        ]  # fmt: skip
        assert specs[1].declared.source.files["train"] == str(tmp_path / "rows" / "train.csv")

    def test_a_study_file_makes_lab_tasks_harder(self, tmp_path):
        file = tmp_path / "study.toml"
        file.write_text(
            """
            [tasks.hard-colors]
            lab = "lab/color"
            noise = 4
            label_noise = 0.1
            [[runs]]
            task = ["lab/color", "hard-colors"]
            model = "lab-t5"
            """
        )
        plain, hard = (spec.declared for spec in load_specs(file))
        assert hard == dataclasses.replace(with_difficulty(plain, noise=4, label_noise=0.1), name="hard-colors")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[tasks.mine]\nlab = 'lab/colour'\n[[runs]]", "Did you mean 'lab/color'"),
            ("[tasks.mine]\nlab = 'lab/color'\nnoice = 3\n[[runs]]", "Did you mean 'noise'"),
            ("[tasks.mine]\nlab = 'lab/color'\nnoise = 'much'\n[[runs]]", "noise is a whole number, not 'much'"),
            ("", "no runs"),
            ("runs = 3", "no runs"),
            ("runs = [3]", "hold tables"),
            ("[[run]]", "Did you mean 'runs'"),
            ("[[runs]]\nmodel = 'm'", "no task"),
            ("[[runs]]\nmodel = 'm'\ntask = 'glue/sst'", "glue/sst2"),
            ("[[runs]]\nmodel = 'm'\ntask = 'glue/sst2'\nmethods = 'ept'", "Did you mean 'method'"),
            ("[[runs]", "is not TOML"),
            ("[tasks.mine]\nlabels = 3\n[[runs]]", "label_words|label_column"),
            ("[tasks.mine]\nlabel_column = 1\n[[runs]]", "task 'mine': label_column must be text, not 1"),
            ("[tasks.mine]\ntemplate = ['{a}']\n[[runs]]", "template must be text"),
            ("[tasks.mine]\ntext_columns = [1]\n[[runs]]", "text_columns must be text, or a list of texts"),
            ("[tasks.mine]\nfiles = 3\n[[runs]]", "files of 'train' must be a path, or a list of paths, not 3"),
            ("[tasks.mine]\nfiles = {test = [1]}\n[[runs]]", "files of 'test' must be a path"),
        ],
    )
    def test_mistakes_in_a_study_file_are_named(self, text, message, tmp_path):
        (tmp_path / "study.toml").write_text(text)
        with pytest.raises((UnknownName, BadInput), match=message):
            load_specs(tmp_path / "study.toml")
        with pytest.raises(BadInput, match="cannot read"):
            load_specs(tmp_path / "other.toml")

    @pytest.mark.parametrize("scale", [None, "s"])
    def test_defaults_that_are_no_table_are_named_at_every_scale(self, scale, tmp_path):
        (tmp_path / "study.toml").write_text("defaults = 3\n[[runs]]\ntask = 'lab/color'\n[scales.s]\nsteps = 1")
        with pytest.raises(BadInput, match="defaults and tasks hold tables"):
            load_specs(tmp_path / "study.toml", scale)
