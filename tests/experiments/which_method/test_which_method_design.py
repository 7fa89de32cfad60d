"""Which runs the study of methods has, and how it chooses learning rates."""

import itertools
import math
from pathlib import Path

import pytest
from experiments.common.rates import best_rate, neighbour
from experiments.which_method import (
    CANDIDATES,
    DESIGN,
    Frozen,
    Part,
    Place,
)
from experiments.which_method.rates import next_rates, whole, worth
from experiments.which_method.runs import RunRequest, _spec
from experiments.which_method.study import blocks
from softprompt.backbones import load_backbone
from softprompt.errors import BadInput, UnknownName
from softprompt.prompts.methods import METHODS
from softprompt.settings import PromptSettings

from which_method_kit import TASK, trials


class TestRates:
    def test_neighbours_are_one_and_three_in_every_power_of_ten(self):
        row = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
        assert [neighbour(rate, 1) for rate in row[:-1]] == row[1:]
        assert [neighbour(rate, -1) for rate in row[1:]] == row[:-1]
        assert [neighbour(0.1, step) for step in range(-3, 6)] == row

    def test_every_first_grid_has_three_neighbours(self):
        for frozen, one in itertools.product(DESIGN.models.values(), CANDIDATES):
            first = frozen.first_rates(one)
            assert [neighbour(first[0], step) for step in range(len(first))] == list(first)
            assert len(first) == (1 if one == "default" else 3)

    def test_the_default_is_what_users_have_who_say_nothing_and_its_rate_is_not_searched_for(self):
        mine, shipped = CANDIDATES["default"], METHODS[PromptSettings().method].resolved(PromptSettings())
        assert (mine.method, mine.prompt["units"], *mine.rates) == (shipped.method, shipped.units, shipped.lr)
        assert [Frozen(scale=32.0).most_rates(one, 8) for one in ("default", "scaled")] == [1, 8]

    @pytest.mark.parametrize("peak", [0.003, 0.03, 0.3, 3.0, 30.0])
    def test_the_grid_grows_until_the_best_is_inside(self, peak):
        tried: dict[float, float] = {}
        while left := next_rates(trials(tried), (0.1, 0.3, 1.0), 9):
            tried |= {rate: -abs(math.log(rate / peak)) for rate in left}
        assert best_rate(worth(trials(tried))) == peak
        assert min(tried) < peak < max(tried)
        # Nothing beyond what was asked for.
        assert max(tried) == max(1.0, neighbour(peak, 1))
        assert min(tried) == min(0.1, neighbour(peak, -1))

    def test_the_grid_ends_at_its_limit(self):
        tried: dict[float, float] = {}
        while left := next_rates(trials(tried), (0.1, 0.3, 1.0), 5):
            tried |= {rate: rate for rate in left}
        assert sorted(tried) == [0.1, 0.3, 1.0, 3.0, 10.0]

    def test_a_rate_counts_when_every_task_and_seed_was_tried(self):
        frozen = Frozen(scale=1.0, tasks=("a", "b"), seeds=(1, 2))
        both = {"1": [0.5, 0.0], "2": [0.5, 0.0]}
        found = {"0.1": {"a": both, "b": both}, "0.3": {"a": both}, "1.0": {"a": both, "b": {"1": [0.5, 0.0]}}}
        assert list(whole(found, frozen)) == ["0.1"]

    def test_among_equals_the_lower_loss_is_chosen_and_no_score_is_none_at_all(self):
        found = trials({0.1: 0.9}, 0.5) | trials({0.3: 0.9}, 0.2) | trials({1.0: 0.9}, 0.3)
        assert best_rate(worth(found)) == 0.3
        assert best_rate(worth(found | {"0.3": {TASK: {"900": [None, None]}}})) == 1.0

    def test_rates_are_means_over_tasks_and_seeds(self):
        found = {"0.1": {"a": {"1": [1.0, 0.0]}, "b": {"1": [0.0, 0.0]}}, "0.3": {"a": {"1": [0.6, 0.0]}}}
        assert best_rate(worth(found)) == 0.3


class TestRunsOfTheDesign:
    def test_every_run_can_be_named(self):
        for part in DESIGN.parts.values():
            for model, task, one in itertools.product(part.models, part.tasks, part.candidates):
                wanted = RunRequest(task=task, candidate=one, rate=0.1, seed=1)
                assert _spec(model, DESIGN.models[model], part, wanted, False).name

    @pytest.mark.parametrize("model", ["lab-t5", "lab-t5-small", "lab-bert", "lab-gpt"])
    @pytest.mark.parametrize("one", ["ept-star", "ept-star@s=1", "full"])
    def test_word_embeddings_have_the_scale_that_the_method_names(self, model, one):
        part = Part(models=(model,), tasks=(TASK,), candidates=(one,), seeds=(1,))
        spec = _spec(model, DESIGN.models[model], part, RunRequest(task=TASK, candidate=one, rate=0.1, seed=1), False)
        table = load_backbone(model, **spec.backbone).word_vectors
        rms = table.detach().pow(2).mean().sqrt().item()
        assert 0.8 < rms / CANDIDATES[one].scale < 1.0

    def test_rates_are_chosen_on_other_seeds_and_rows_than_are_reported(self):
        for part in DESIGN.parts.values():
            for model in part.models:
                assert not {*DESIGN.models[model].seeds} & {*part.seeds}
        part, wanted = DESIGN.parts["core"], RunRequest(task=TASK, candidate="scaled", rate=1.0, seed=1)
        trial, reported = (
            _spec("lab-t5-small", DESIGN.models["lab-t5-small"], part, wanted, trial) for trial in (True, False)
        )
        assert trial.declared.source.options["test"] < 20 < reported.declared.source.options["test"]

    def test_a_head_alone_chooses_its_own_rate_and_every_prompt_has_it(self):
        part, frozen = DESIGN.parts["real"], DESIGN.models["minilm"]
        alone = _spec("m", frozen, part, RunRequest(task="glue/sst2", candidate="head-only", rate=0.03, seed=1), False)
        beside = RunRequest(task="glue/sst2", candidate="ept", rate=0.3, seed=1, head_rate=0.03)
        assert alone.prompt.head_lr == _spec("m", frozen, part, beside, False).prompt.head_lr == 0.03

    def test_blocks_of_seeds_come_before_the_next_block_of_any_part(self):
        parts = {
            "a": Part(models=("m",), tasks=("x", "y"), candidates=(), seeds=(1, 2, 3), block=2),
            "b": Part(models=("m", "n"), tasks=("x",), candidates=(), seeds=(1,)),
            "late": Part(models=("m",), tasks=("x",), candidates=(), seeds=(1, 2), start=3),
        }
        assert [(name, model, task, seeds) for _, name, model, task, seeds in blocks(parts)] == [
            ("a", "m", "x", (1, 2)), ("a", "m", "y", (1, 2)), ("b", "m", "x", (1,)), ("b", "n", "x", (1,)),
            ("a", "m", "x", (3,)), ("a", "m", "y", (3,)), ("late", "m", "x", (1,)), ("late", "m", "x", (2,)),
        ]  # fmt: skip

    def test_a_smaller_design_has_those_tasks_and_seeds(self):
        small = DESIGN.only(["lab/topic"], 12)
        assert small.parts["core"].tasks == ("lab/topic",)
        assert small.parts["core"].seeds == tuple(range(2000, 2012))
        assert small.parts["size"].tasks == ()
        with pytest.raises(UnknownName, match="lab/topic"):
            DESIGN.only(["lab/topc"])

    def test_another_encoder_has_its_own_name_and_no_other_models(self):
        other = DESIGN.with_encoder("somewhere/bert-mini")
        assert other.parts["real"].models == ("bert-mini",)
        assert other.models["bert-mini"] == DESIGN.models["minilm"]
        assert other.parts["core"] == DESIGN.parts["core"]
        place = Place(store=Path(), results=Path(), encoder="somewhere/bert-mini")
        assert (place.source("bert-mini"), place.source("lab-t5")) == ("somewhere/bert-mini", "lab-t5")
        with pytest.raises(BadInput, match="needs a name of its own"):
            DESIGN.with_encoder("folder/lab-bert")
