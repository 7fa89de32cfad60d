"""The right scale: units of the word vectors, norms reported in token norms, and the maximum norm."""

import dataclasses
import itertools
import json
import math
import re
from types import MethodType

import numpy as np
import pytest
import torch
from softprompt.backbones import from_model
from softprompt.cli import main
from softprompt.data import load_rows, split_rows
from softprompt.errors import BadInput
from softprompt.prompts.initializers import divided, from_vectors, uniform
from softprompt.prompts.methods import METHODS
from softprompt.prompts.trainable import TrainablePrompt
from softprompt.prompts.units import WordScale, format_norm, norm_warning
from softprompt.settings import ModelSpec, PromptSettings, Seeds, TrainSettings
from softprompt.training import Plan, read_plan, train
from softprompt.training._built import build_prompts
from softprompt.training._finish import constant_score
from softprompt.training._optimizer import PromptOptimizer
from softprompt.training._prepare import prepare
from softprompt.training._records import read_record
from softprompt.training._start import open_loop

from kit import review_task, soft

S = 30.0
E, V = 16, 40


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return review_task(tmp_path_factory.mktemp("rows") / "data")


@pytest.fixture
def table():
    """Rows of very different norms, so that the mean of norms and the root mean square differ."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(V, E, generator=generator) * torch.rand(V, 1, generator=generator) * 5
    rows[0] = 0
    return rows


def built(table, *, init=None, **settings):
    return TrainablePrompt.build(PromptSettings(**settings), init or uniform(), table, None)


class TestWordScale:
    def test_it_is_the_root_mean_square_and_the_mean_norm(self, table):
        found = WordScale.of(table)
        numbers = table.double().numpy()
        assert found.rms == pytest.approx(np.sqrt((numbers**2).mean()), rel=1e-12)
        assert found.token_norm == pytest.approx(np.sqrt((numbers**2).sum(1)).mean(), rel=1e-12)

    def test_a_large_table_is_measured_in_pieces_to_the_same_numbers(self, table):
        rows = table.repeat(500, 1)
        assert WordScale.of(rows).rms == pytest.approx(WordScale.of(table).rms, rel=1e-12)
        assert WordScale.of(rows).token_norm == pytest.approx(WordScale.of(table).token_norm, rel=1e-12)

    @pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
    def test_a_table_without_a_scale_is_refused(self, value):
        with pytest.raises(BadInput, match=r"word vectors is (0|nan|inf), so no prompt can be measured by them"):
            WordScale.of(torch.full((4, 3), value))


# The same function at another scale


def in_float64(model):
    """T5 in float64 with its norms too, which transformers computes in float32, and without their epsilon."""

    def forward(self, states):
        return self.weight * states * torch.rsqrt(states.square().mean(-1, keepdim=True) + self.variance_epsilon)

    for module in model.double().modules():
        if type(module).__name__ == "T5LayerNorm":
            module.variance_epsilon = 1e-30
            module.forward = MethodType(forward, module)
    return model


@torch.no_grad()
def scaled_by(model, s):
    """The same function with word vectors and residual streams s times as large.

    What a layer adds to the stream is s times as large; its norm takes s away again from what it reads. The encoder's
    last norm too, so that cross-attention reads the same. The head is the table itself: the decoder's last norm gives
    1/s of what it gave.
    """
    for name, weight in model.named_parameters():
        if name == "shared.weight" or name.endswith((".o.weight", ".wo.weight")):
            weight *= s
    model.decoder.final_layer_norm.weight /= s
    return model


@pytest.fixture(scope="module")
def backbone_at(tiny_t5):
    def build(s):
        model, tokenizer = tiny_t5()
        return from_model(scaled_by(in_float64(model), s), tokenizer)

    return build


def test_the_scaled_copy_is_the_same_function_of_words(backbone_at):
    ids, targets = torch.randint(5, 90, (3, 7), generator=torch.Generator().manual_seed(0)), torch.tensor([[7, 1]] * 3)
    one, other = (backbone_at(s).model(input_ids=ids, labels=targets).logits for s in (1.0, S))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def prompt(method, **changed):
    return PromptSettings(**{"method": method, "units": "rms", "seeds": Seeds.all(4), **changed})


WITH_PROMPT = [name for name, method in METHODS.items() if method.m and not method.takes_sources]
FLEET_SIZE = {
    **{name: prompt(name) for name in WITH_PROMPT},
    "prompt-tuning, guarded": prompt("prompt-tuning", max_norm=0.5),
    "prompt-tuning from words": prompt("prompt-tuning", init="vocabulary"),
    "residual from a label word": prompt("residual", init="label-words"),
    "polar, trained radius": prompt("polar", options={"train_radius": True}),
}
RAW = {name: prompt(name, units="raw") for name in WITH_PROMPT if name != "polar"} | {
    "prompt-tuning, guarded": prompt("prompt-tuning", max_norm=0.5, units="raw")
}


def trajectories(members, backbone, task, folder):
    """Per prompt, its losses, norms in token norms, and prompts over 10 steps in float64."""
    settings = TrainSettings(steps=10, eval_every=20, batch_size=4, weight_decay=0.1, clip=2.0)
    plan = Plan(task=task, model=ModelSpec("tiny"), prompts=tuple(members.values()), settings=settings)
    run_data = prepare(plan, split_rows(task, load_rows(task)), backbone)
    prompts = [[] for _ in members]

    def watch(loop, losses):
        for kept, one in zip(prompts, loop.members, strict=True):
            kept.append(one.trainable.vectors().detach())

    with open_loop(run_data, build_prompts(run_data), folder) as loop:
        for one in loop.members:
            one.trainable.double()
        loop._evaluate = lambda: None
        loop.run(save=lambda loop: None, is_stopped=lambda: False, watch=watch)
    found = {}
    for name, one, vectors in zip(members, loop.members, prompts, strict=True):
        rows = [row for row in read_record(one.record.path) if "loss" in row]
        numbers = [[row[key] for row in rows] for key in ("loss", "token_norms", "gradient_norm")]
        found[name] = (*map(torch.tensor, numbers), torch.stack(vectors))
    return found


@pytest.fixture(scope="module")
def in_units(backbone_at, task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rms")
    return [trajectories(FLEET_SIZE, backbone_at(s), task, folder / str(s)) for s in (1.0, S)]


@pytest.fixture(scope="module")
def in_raw_numbers(backbone_at, task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    return [trajectories(RAW, backbone_at(s), task, folder / str(s)) for s in (1.0, S)]


@pytest.mark.parametrize("name", FLEET_SIZE)
def test_in_rms_units_training_is_the_same_at_any_embedding_scale(name, in_units):
    """Losses, norms in token norms, gradients of what is trained, and the prompt / s, at each of ten steps."""
    one, other = (trajectory[name] for trajectory in in_units)
    assert (one[3][0] != one[3][-1]).any()
    # Vectors of real words are drawn in float32, the rest is float64.
    close = 1e-5 if "word" in name else 1e-9
    for ours, theirs in zip((*one[:3], one[3]), (*other[:3], other[3] / S), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=close, atol=close)


@pytest.mark.parametrize("name", RAW)
def test_in_raw_numbers_it_is_not(name, in_raw_numbers):
    one, other = (trajectory[name] for trajectory in in_raw_numbers)
    assert ((one[0] - other[0]).abs() > 1e-4).any()
    assert (one[3][-1] - other[3][-1] / S).norm() > 0.1 * one[3][-1].norm()


@pytest.mark.parametrize(("units", "is_same"), [("rms", True), ("raw", False)])
def test_weights_beside_words_train_the_same_at_any_embedding_scale_in_rms_units_alone(
    units, is_same, backbone_at, task, tmp_path
):
    """DePT's losses and gradient norms, which are clipped from the first step on."""
    found = []
    for s in (1.0, S):
        backbone, folder = backbone_at(s), tmp_path / str(s)
        settings = TrainSettings(steps=6, eval_every=6, batch_size=4, warmup=1, clip=0.05, weight_decay=0.1)
        members = [prompt("dept", units=units, lr=0.3)]
        run = train(task, backbone, prompts=members, settings=settings, output=folder)
        rows = [row for row in read_record(folder / run.results[0].prompt / "metrics.jsonl") if "loss" in row]
        found.append(torch.tensor([[row["loss"], row["gradient_norm"]] for row in rows]))
    assert (found[0][:, 1] > 0.05).all()
    assert torch.allclose(*found, rtol=1e-4) == is_same


class TestUnits:
    @pytest.mark.parametrize("method", WITH_PROMPT)
    def test_a_prompt_in_rms_units_starts_at_a_multiple_of_the_words(self, method, table):
        once, fifty = (built(s * table, method=method, units="rms").vectors() for s in (1, 50))
        torch.testing.assert_close(50 * once, fifty)

    @pytest.mark.parametrize("init", ["vocabulary", "label-words", "text:good film", "file:FILE", "prompt:FOLDER"])
    def test_vectors_of_real_words_or_prompts_start_as_they_are_in_either_units(self, init, task, tiny_t5, tmp_path):
        model, tokenizer = tiny_t5()
        model.shared.weight.data *= 7
        backbone = from_model(model, tokenizer)
        if init.startswith("file"):
            np.save(tmp_path / "prompt.npy", np.random.default_rng(0).normal(size=(2, E)).astype("float32"))
            init = f"file:{tmp_path / 'prompt.npy'}"
        if init.startswith("prompt"):
            members = [PromptSettings(method="prompt-tuning", options={"m": 2})]
            train(task, backbone, prompts=members, settings=TrainSettings(steps=1), output=tmp_path / "run")
            init = f"prompt:{tmp_path / 'run'}"
        members = tuple(
            PromptSettings(method="prompt-tuning", options={"m": 2}, init=init, units=u) for u in ("raw", "rms")
        )
        plan = Plan(task=task, model=ModelSpec("tiny"), prompts=members, settings=TrainSettings())
        raw, rms = map(soft, build_prompts(prepare(plan, split_rows(task, load_rows(task)), backbone)))
        assert raw.vectors().norm() > 1
        torch.testing.assert_close(raw.vectors(), rms.vectors(), rtol=1e-6, atol=0)
        assert not torch.allclose(raw.initial, rms.initial)

    def test_scaled_is_a_repeated_plain_vector_in_rms_units(self, table):
        options = {"m": 1, "repeats": 10}
        ours, theirs = built(table, method="scaled"), built(table, method="prompt-tuning", units="rms", options=options)
        assert torch.equal(ours.vectors(), theirs.vectors())
        assert ours.vectors().shape == (10, E)
        assert ours.initial.abs().max() <= 0.5

    def test_what_is_stored_is_in_the_models_own_numbers(self, table):
        one = built(table, method="residual", units="rms", max_norm=1.0).eval()
        assert torch.equal(one.folded(), one.vectors())
        assert one.folded().norm(dim=1).max() <= 1.001 * WordScale.of(table).token_norm

    @pytest.mark.parametrize("unit", [0.0, -1.0, math.nan, math.inf])
    def test_vectors_are_divided_by_a_positive_unit(self, unit):
        with pytest.raises(BadInput, match="positive, finite unit"):
            divided(uniform(), unit)

    def test_a_run_records_its_units_and_the_scale_of_the_words(self, task, tiny_t5, tmp_path):
        backbone, settings = from_model(*tiny_t5()), TrainSettings(steps=1, warmup=0)
        members = [PromptSettings(method="scaled"), PromptSettings(method="ept", max_norm=2.0)]
        run = train(task, backbone, prompts=members, settings=settings, output=tmp_path / "run")
        words = WordScale.of(backbone.word_vectors)
        for number, expected in enumerate([("rms", 1.0, None), ("raw", METHODS["ept"].lr, 2.0)]):
            result, training = run.results[number], run.prompt(number).provenance.training
            assert (training["units"], training["lr"], training["max_norm"]) == expected
            assert (training["rms"], training["token_norm"]) == (words.rms, words.token_norm)
            assert (result.units, result.lr) == expected[:2]
            vectors = run.prompt(number).vectors
            assert result.norm == pytest.approx(vectors.norm(dim=1).mean().item())
            assert result.token_norms == pytest.approx(vectors.norm(dim=1).mean().item() / words.token_norm)
            first = next(read_record(tmp_path / "run" / result.prompt / "metrics.jsonl"))
            assert first["token_norms"] == pytest.approx(first["prompt_norm"] / words.token_norm)
        assert [(one.units, one.lr) for one in read_plan(tmp_path / "run").prompts] == [("rms", 1.0), ("raw", 0.3)]

    def test_a_run_from_before_units_was_raw_and_its_default_rate_the_papers(self, task):
        plan = Plan(
            task=task,
            model=ModelSpec("tiny"),
            prompts=(PromptSettings(), PromptSettings(lr=0.1)),
            settings=TrainSettings(),
        )
        values = json.loads(json.dumps(plan.to_json()))
        for one in values["prompts"]:
            del one["units"], one["max_norm"]
        assert [(one.units, one.lr) for one in Plan.from_json(values).prompts] == [("raw", 0.3), ("raw", 0.1)]


class TestPolar:
    @pytest.mark.parametrize("units", ["auto", "rms"])
    @pytest.mark.parametrize("options", [{}, {"radius": 5.0, "m": 4}])
    def test_every_vector_is_as_long_as_the_radius_says(self, options, units, table):
        vectors = built(table, method="polar", units=units, options=options).vectors()
        expected = options.get("radius", 3.0) * WordScale.of(table).token_norm
        torch.testing.assert_close(vectors.norm(dim=1), torch.full((len(vectors),), expected))

    def test_its_norm_stays_while_it_trains_and_weight_decay_does_nothing(self, task, tiny_t5, tmp_path):
        backbone, found = from_model(*tiny_t5()), []
        for decay in (0.0, 0.5):
            settings = TrainSettings(steps=6, weight_decay=decay)
            run = train(task, backbone, prompts=[prompt("polar")], settings=settings, output=tmp_path / str(decay))
            rows = read_record(tmp_path / str(decay) / run.results[0].prompt / "metrics.jsonl")
            assert [row["token_norms"] for row in rows if "loss" in row] == pytest.approx([3.0] * 6, rel=1e-5)
            found.append(run.prompt().vectors)
        assert torch.equal(*found)

    def test_weight_decay_acts_on_every_other_method(self, table):
        for name in WITH_PROMPT:
            optimizer = PromptOptimizer(built(table, method=name), 0.1, 0.1, 10, TrainSettings(weight_decay=0.5))
            assert optimizer.adamw.param_groups[0]["weight_decay"] == (0.0 if name == "polar" else 0.5)

    def test_a_trained_radius_moves_by_a_fifth_of_the_learning_rate_and_stays_positive(self, table):
        one = built(table, method="polar", options={"train_radius": True})
        optimizer = PromptOptimizer(one, 0.1, 0.1, 50, TrainSettings(warmup=0, schedule="constant"))
        norms = [one.vectors().norm(dim=1)]
        for step in range(1, 51):
            one.zero_grad()
            one.vectors().norm(dim=1).sum().backward()
            optimizer.step(step, optimizer.gradient_norm())
            norms.append(one.vectors().norm(dim=1).detach())
        # Adam's first step is the learning rate itself.
        torch.testing.assert_close(norms[1], norms[0] * math.exp(-0.02), rtol=1e-4, atol=0)
        assert all((after < before).all() and (after > 0).all() for before, after in itertools.pairwise(norms))

    def test_a_zero_vector_has_no_direction_to_start_from(self, table):
        with pytest.raises(BadInput, match="'polar' cannot start at a zero vector, which has no direction"):
            built(table, method="polar", init=from_vectors(torch.zeros(1, E)))


class TestNormGuard:
    def guarded(self, table, vectors, guard):
        options = {"m": len(vectors)}
        start = from_vectors(vectors)
        return built(table, method="prompt-tuning", units="raw", options=options, init=start, max_norm=guard)

    def test_longer_vectors_are_scaled_down_to_the_guard_and_others_stay_as_they_are(self, table):
        limit = 2 * WordScale.of(table).token_norm
        vectors = torch.randn(4, E, generator=torch.Generator().manual_seed(0))
        vectors *= (limit * torch.tensor([0.0, 0.5, 0.999, 40.0]) / vectors.norm(dim=1))[:, None]
        one = self.guarded(table, vectors, 2.0)
        assert torch.equal(one.vectors()[:3], vectors[:3])
        torch.testing.assert_close(one.vectors()[3], vectors[3] / 40)
        assert torch.equal(one.folded(), one.vectors())

    def test_its_gradient_is_that_of_its_formula_and_of_a_zero_vector_finite(self, table):
        limit = WordScale.of(table).token_norm
        vectors = torch.randn(3, E, generator=torch.Generator().manual_seed(0)) * torch.tensor([[0.0], [0.01], [50.0]])
        one = self.guarded(table, vectors, 1.0).double()
        weights = torch.randn(3, E, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        (one.vectors() * weights).sum().backward()
        x = vectors.double()
        expected = weights.clone()
        norm = x[2].norm()
        # d (R u x / ||x||) = R u / ||x|| (I - x x^T / ||x||^2): only the direction is left to move.
        expected[2] = limit / norm * (weights[2] - x[2] * (x[2] @ weights[2]) / norm**2)
        torch.testing.assert_close(one.initial.grad, expected)

    def test_an_exploding_prompt_is_held_at_the_guard(self, task, tiny_t5, tmp_path):
        backbone, settings = from_model(*tiny_t5()), TrainSettings(steps=5, warmup=0)
        members = [PromptSettings(method="ept-star", lr=30.0, max_norm=guard) for guard in (None, 4.0)]
        run = train(task, backbone, prompts=members, settings=settings, output=tmp_path / "run")
        free, held = (result.token_norms or 0 for result in run.results)
        assert free > 30
        assert held == pytest.approx(4.0, rel=1e-5)


class TestTold:
    @pytest.mark.parametrize(
        ("norm", "token_norm", "text"),
        [
            (812.0, 300.0, "812 = 2.71 token norms (band 1-10)"),
            (812.0, 20.0, "812 = 40.6 token norms (above the band 1-10)"),
            (1.0, 20.0, "1 = 0.05 token norms (below the band 1-10)"),
            (812.0, None, "812"),
        ],
    )
    def test_a_norm_is_formatted_with_its_share_of_a_token_norm_and_the_band(self, norm, token_norm, text):
        assert format_norm(norm, token_norm) == text

    @pytest.mark.parametrize(
        ("token_norms", "one_vector", "more", "found"),
        [
            (30.0, True, {}, None),
            (30.1, True, {"lr": 0.3}, "over-exploded: .*; lower the learning rate .now 0.3., or set --max-norm 10"),
            (31.0, False, {}, "over-exploded: .*; lower the learning rate, or"),
            (31.0, True, {"has_radius": True, "lr": 0.3}, "over-exploded: .*; lower the radius, or"),
            (0.3, True, {}, None),
            (0.2, False, {}, None),
            (0.2, True, {"lr": 0.3, "units": "raw"}, "too small: the layers add more at its positions than "
             "the prompt itself is; its norm is 0.2 token norms .band 1-10.; try --units rms, or a higher learning "
             "rate .now 0.3.$"),
            (0.2, True, {"lr": 1.0, "units": "rms"}, "too small: .*; try a higher learning rate .now 1.$"),
            (0.2, True, {"has_radius": True}, "too small: .*; try a larger radius$"),
        ],
    )  # fmt: skip
    def test_a_norm_out_of_scale_is_warned_of_with_what_to_do(self, token_norms, one_vector, more, found):
        warning = norm_warning(token_norms, one_vector=one_vector, **more)
        if found is None:
            assert warning is None
        else:
            assert warning is not None
            assert re.match(found, warning)

    @pytest.mark.parametrize(("kind", "warned"), [("decoder", ["ept-seed0", "prompt-tuning-seed0"]), ("t5", [])])
    def test_an_exploding_norm_of_a_decoder_is_warned_of_once_while_it_trains(
        self, kind, warned, task, tiny_gpt, tiny_t5, tmp_path, caplog
    ):
        # At this raw rate the tiny models' prompts pass a hundred token norms in the second of six steps.
        prompts = [
            PromptSettings(method="ept", units="raw", lr=1000.0),
            PromptSettings(method="prompt-tuning", units="raw", lr=1000.0, restarts=2, restart_steps=3),
            PromptSettings(method="prompt-tuning", seeds=Seeds.all(1)),
        ]
        backbone = from_model(*(tiny_gpt() if kind == "decoder" else tiny_t5()), name=kind)
        settings = TrainSettings(steps=6, warmup=0)
        train(task, backbone, prompts=prompts, settings=settings, output=tmp_path / "run")
        found = [re.match(r"(\S+): step 2: over-exploded: .* lower the learning rate .now 1000", line)
                 for line in caplog.messages if ": step " in line]  # fmt: skip
        assert sorted(line[1] if line else "" for line in found) == warned

    def test_a_trained_prompt_out_of_scale_is_reported(self, task, tiny_t5, tmp_path, caplog, capsys):
        model, tokenizer = tiny_t5()
        model.shared.weight.data *= 100
        model.decoder.final_layer_norm.weight.data /= 100
        members = [
            PromptSettings(method="prompt-tuning", units="raw", lr=0.1, options={"m": 1}),
            PromptSettings(method="prompt-tuning", units="raw", lr=0.1),
            PromptSettings(method="polar", options={"radius": 40}),
        ]
        settings = TrainSettings(steps=2)
        run = train(task, from_model(model, tokenizer), prompts=members, settings=settings, output=tmp_path / "run")
        small, ten, large = ([w for w in r.warnings if "its norm is" in w] for r in run.results)
        assert ["too small" in line for line in small] == [True]
        assert small[0] in caplog.text
        assert ten == []
        assert ["over-exploded" in line and "lower the radius" in line for line in large] == [True]
        capsys.readouterr()
        assert main(["show", str(tmp_path / "run")]) == 0
        shown = capsys.readouterr().out
        assert f"{small[0]}\n{large[0]}\n" in shown
        assert "= 40 token norms (above the band 1-10)" in shown
        names, *rows = shown.split("\n\n")[-1].splitlines()
        assert "  stuck  " in names
        assert [row.split()[:3] for row in rows] == [["prompt-tuning", "raw", "0.1"], ["polar", "rms", "0.1"]]


class TestMajority:
    def test_a_result_has_the_score_of_always_answering_the_most_frequent_class(self, task, tiny_t5, tmp_path):
        run = train(task, from_model(*tiny_t5()), settings=TrainSettings(steps=1), output=tmp_path / "run")
        # 8 of 16 test rows are "good".
        assert run.results[0].majority == 0.5
        assert json.loads((tmp_path / "run" / run.results[0].prompt / "result.json").read_text())["majority"] == 0.5

    def test_free_text_has_no_majority(self, task):
        free = dataclasses.replace(task, answer="text", labels=(), label_values=(), metrics=("exact-match",))
        assert constant_score(free, [["a"], ["b"]]) is None
