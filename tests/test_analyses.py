"""Analyses of trained prompts: each against plain arithmetic or transformers' own numbers, and all from end to end."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from softprompt import train
from softprompt.analysis.analyses import ANALYSES, Bench, broadcast
from softprompt.analysis.analyses._attention import attention, equal_share, share
from softprompt.analysis.analyses._attribution import integrated_gradients
from softprompt.analysis.analyses._compared import spread
from softprompt.analysis.analyses._groups import group_scores, part, sides
from softprompt.analysis.analyses._nearest import agreement, nearest_rows
from softprompt.analysis.analyses._neighbors import nearest
from softprompt.analysis.drift import drift
from softprompt.analysis.subjects import _distinct, subjects
from softprompt.backbones import from_model, load_backbone
from softprompt.cli import main
from softprompt.data import load_rows, split_rows
from softprompt.errors import BadInput, UnknownName
from softprompt.inference.rows import examples_for
from softprompt.prompts.prompt import BackboneIdentity, Provenance, SoftPrompt
from softprompt.tasks import task as find_task
from softprompt.tasks import with_difficulty

from kit import review_task
from report_kit import METHODS, drop, made_run

GENERATOR = torch.Generator()


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR.manual_seed(seed))


@pytest.fixture(scope="module")
def backbone(tiny_t5):
    return from_model(*tiny_t5(), engine="reference")


@pytest.fixture(scope="module")
def run(backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("analyses")
    task = review_task(folder / "rows")
    return train(
        task, backbone, method=["prompt-tuning", "ept-star"], steps=4, eval_every=2, batch_size=4,
        output=folder / "run", with_frozen=False,
    ).folder  # fmt: skip


def test_prompts_of_runs_that_are_called_alike_are_told_apart_by_their_tasks_or_else_by_numbers(run):
    (prompt, *_) = subjects([run])

    def labels(*tasks):
        alike = [dataclasses.replace(prompt, task=dataclasses.replace(prompt.task, name=name)) for name in tasks]
        return [subject.label for subject in _distinct(alike)]

    assert prompt.label == "run/prompt-tuning-seed0"
    assert labels("lab/color", "lab/day") == ["lab/color prompt-tuning-seed0", "lab/day prompt-tuning-seed0"]
    assert labels("lab/color", "lab/color") == ["1-run/prompt-tuning-seed0", "2-run/prompt-tuning-seed0"]
    assert labels("lab/color") == ["run/prompt-tuning-seed0"]


class TestArithmetic:
    def test_equal_attention_of_a_decoder_is_over_what_each_position_sees(self):
        assert equal_share(10, 30, is_causal=False) == 0.25
        weights = torch.tril(torch.ones(1, 8, 8))
        weights /= weights.sum(-1, keepdim=True)
        assert equal_share(3, 5, is_causal=True) == pytest.approx(float(share(weights, 3)))

    def test_the_share_of_attention_is_the_mean_over_text_positions_of_the_sum_over_the_prompt(self):
        weights = drawn(2, 5, 5).softmax(-1)
        expected = [np.mean([weights[head, place, :2].sum() for place in (2, 3, 4)]) for head in (0, 1)]
        np.testing.assert_allclose(share(weights, 2), expected, rtol=1e-6)

    @pytest.mark.parametrize("cosine", [True, False])
    def test_the_nearest_words_are_those_of_numpy(self, cosine):
        vectors, table = drawn(3, 4), drawn(20, 4, seed=1)
        a, b = vectors.numpy(), table.numpy()
        if cosine:
            a, b = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in (a, b))
        ids, values = nearest(vectors, table, 5, cosine=cosine)
        expected = np.argsort(-(a @ b.T), axis=1)[:, :5]
        np.testing.assert_array_equal(ids, expected)
        np.testing.assert_allclose(values, np.take_along_axis(a @ b.T, expected, 1), rtol=1e-5)

    def test_the_nearest_rows_are_found_around_the_mean_of_the_training_rows(self):
        states, train_states = drawn(2, 3) + 100, drawn(6, 3, seed=1) + 100
        a, b = (values.numpy() - train_states.numpy().mean(0) for values in (states, train_states))
        a, b = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in (a, b))
        places, cosines = nearest_rows(states, train_states, 4)
        np.testing.assert_array_equal(places, np.argsort(-(a @ b.T), axis=1)[:, :4])
        np.testing.assert_allclose(cosines, -np.sort(-(a @ b.T), axis=1)[:, :4], atol=1e-5)

    def test_agreement_is_the_share_of_neighbors_with_the_label(self):
        places = torch.tensor([[0, 1, 2], [2, 1, 0]])
        assert agreement(places, ["x", "y"], ["x", "x", "y"]) == pytest.approx([1.0, 0.5])

    def test_integrated_gradients_of_a_sum_are_its_terms_and_add_up(self):
        at, baseline, weights = drawn(4, 3), drawn(4, 3, seed=1), drawn(4, 3, seed=2)
        values, missed = integrated_gradients(lambda x: (x * weights).sum((1, 2)), at, baseline)
        torch.testing.assert_close(values, ((at - baseline) * weights).sum(-1))
        assert missed < 1e-5
        curved, _ = integrated_gradients(lambda x: (x * weights).sum((1, 2)).tanh(), at, baseline)
        ends = [(x * weights).sum().tanh() for x in (at, baseline)]
        torch.testing.assert_close(curved.sum(), ends[0] - ends[1], atol=1e-3, rtol=0)

    def test_spread_is_that_of_numpy(self):
        scores = [0.5, 0.7, 0.9]
        found = spread(scores)
        assert (found["n"], found["lowest"], found["highest"]) == (3, 0.5, 0.9)
        assert found["mean"] == pytest.approx(np.mean(scores))
        assert found["std"] == pytest.approx(np.std(scores, ddof=1))
        assert spread([0.5])["std"] is None

    def test_broadcast_chooses_its_vector_on_validation_rows_alone(self, backbone):
        origin = Provenance("prompt-tuning", backbone.identity(), answers="tokens")
        prompt = SoftPrompt(drawn(3, backbone.embedding_size), origin)

        def score(alone, split):
            place = int((prompt.vectors == alone.vectors[0]).all(1).nonzero()[0])
            return {"validation": [0.1, 0.9, 0.2], "test": [0.8, 0.3, 0.7]}[split][place] + alone.length / 1000

        found = broadcast(prompt, (1, 5), score)
        assert found["vector"] == 1
        assert found["scores"] == pytest.approx([0.301, 0.305])
        assert found["whole"] == pytest.approx(0.803)

    @pytest.mark.parametrize(
        ("words", "lengths"), [([], [*range(1, 11)]), (["--copies", "7", "--copies", "3"], [7, 3])]
    )
    def test_broadcast_repeats_one_to_ten_times_as_the_papers_figure_or_as_often_as_was_asked(
        self, words, lengths, run, backbone, monkeypatch, tmp_path
    ):
        asked = []
        monkeypatch.setattr(
            Bench, "score", lambda self, subject, prompt, split: asked.append((split, prompt.repeats)) or 0.5
        )
        given = [
            "analyze",
            "broadcast",
            str(run),
            "--prompt",
            "ept-star-seed0",
            *words,
            "--output",
            str(tmp_path / "out"),
        ]
        assert main(given) == 0
        (found,) = json.loads((tmp_path / "out" / "broadcast.json").read_text())["prompts"]
        assert found["lengths"] == lengths
        # The vector is chosen where it stands most often.
        assert asked == [("validation", max(lengths)), ("test", 10), *(("test", length) for length in lengths)]

    def test_broadcast_scores_a_deep_prompt_whole_and_its_vectors_alone(self, run, backbone, monkeypatch):
        bench = Bench(paths=[run], prompts=["prompt-tuning-seed0"], model=backbone)
        (subject,) = bench.subjects
        deep = dataclasses.replace(subject.prompt, deep=drawn(1, *subject.prompt.vectors.shape))
        bench.subjects = [dataclasses.replace(subject, prompt=deep)]
        monkeypatch.setattr(Bench, "score", lambda self, subject, prompt, split: prompt.layers)
        (found,) = ANALYSES["broadcast"].compute(bench)["prompts"]
        assert (found["whole"], found["validation"], set(found["scores"])) == (2, 1, {1})


class TestGroups:
    """A prompt of five vectors: those at 0, 2 and 3 lie along one direction, those at 1 and 4 against it."""

    FIRST, SECOND = [0, 2, 3], [1, 4]

    @pytest.fixture
    def prompt(self):
        along = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0])[:, None]
        # Norms far apart: a long vector must not decide for the others.
        lengths = torch.tensor([1.0, 3000.0, 2.0, 0.5, 1.0])[:, None]
        vectors = lengths * (along * drawn(8) + 0.2 * drawn(5, 8, seed=1))
        identity = BackboneIdentity("x", "encoder-decoder", 8)
        return SoftPrompt(vectors, Provenance("p-tuning", identity), repeats=2, deep=drawn(3, 5, 8, seed=2))

    def test_the_sides_are_those_of_the_main_direction_of_numpy_and_the_first_vector_is_on_the_first(self, prompt):
        assert sides(prompt.vectors) == (self.FIRST, self.SECOND)
        vectors = drawn(7, 8, seed=3)
        values, directions = np.linalg.eigh(_gram(vectors))
        along = vectors.numpy().astype(float) @ directions[:, values.argmax()]
        expected = np.flatnonzero(np.sign(along) == np.sign(along[0])).tolist()
        assert sides(vectors)[0] == expected
        assert sides(-vectors) == sides(vectors)

    def test_a_part_has_the_vectors_of_every_layer_and_the_repeats(self, prompt):
        kept = part(prompt, self.SECOND)
        torch.testing.assert_close(kept.vectors, prompt.vectors[[1, 4]])
        torch.testing.assert_close(kept.deep, prompt.deep[:, [1, 4]])
        assert kept.length == 4

    @pytest.mark.parametrize("turned", [1, -1])
    def test_the_positive_group_is_the_one_near_the_label_words_and_each_is_scored_alone_and_filled(
        self, prompt, turned
    ):
        words = turned * drawn(8)[None].repeat(2, 1)

        def score(asked):
            return 10 * asked.length + int((asked.vectors == prompt.vectors[0]).all(1).any())

        found = group_scores(prompt, words, score)
        groups = [found["positive"], found["negative"]][::turned]
        assert [group["vectors"] for group in groups] == [self.FIRST, self.SECOND]
        assert [group["alone"] for group in groups] == [61, 40]
        assert [group["filled"] for group in groups] == [101, 100]
        assert found["whole"] == 101
        near = [torch.cosine_similarity(prompt.vectors[group["vectors"]], words[:1]).mean().item() for group in groups]
        assert [group["label_cosine"] for group in groups] == pytest.approx(near, rel=1e-5)
        assert found["across"] < -0.8

    def test_without_label_words_the_positive_group_is_the_larger_one(self, prompt):
        turned = part(prompt, [1, 0, 2, 3, 4])
        found = group_scores(turned, torch.empty(0, 8), lambda asked: asked.length)
        assert (found["positive"]["vectors"], found["positive"]["label_cosine"]) == ([1, 2, 3], None)

    def test_one_vector_is_one_group_and_the_other_has_no_score(self, prompt):
        found = group_scores(part(prompt, [0]), drawn(2, 8, seed=4), lambda asked: 0.5)
        assert found["positive"]["vectors"] == [0]
        assert found["negative"] == {"vectors": [], "label_cosine": None, "alone": None, "filled": None}
        assert found["across"] is None


def _gram(vectors: torch.Tensor) -> np.ndarray:
    unit = vectors.numpy().astype(float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return unit.T @ unit


@pytest.fixture(params=["t5", "bert", "gpt"])
def asked(request, tmp_path):
    """A model of each kind, a prompt of three vectors for it, and the texts behind it."""
    backbone = from_model(*request.getfixturevalue(f"tiny_{request.param}")(), engine="reference")
    task = review_task(tmp_path / "rows")
    rows = split_rows(task, load_rows(task, None)).test.select([0, 1])
    prompt = SoftPrompt(drawn(3, backbone.embedding_size), Provenance("x", backbone.identity(), backbone.answers))
    return backbone, prompt, examples_for(backbone, task, rows, 3)


def asked_of_transformers(asked, row, **wanted):
    """What the layers of transformers return for the prompt and a text."""
    backbone, prompt, examples = asked
    text = backbone.embed(examples.batch([row], 0, backbone.pad_id).ids)
    with torch.no_grad():
        return backbone.stack(inputs_embeds=torch.cat([prompt.vectors[None].to(text), text], 1), **wanted)


def test_attention_is_what_transformers_returns(asked):
    backbone, prompt, examples = asked
    found = attention(backbone, prompt, examples)
    backbone.model.set_attn_implementation("eager")
    weights = [asked_of_transformers(asked, row, output_attentions=True).attentions for row in (0, 1)]
    expected = [torch.stack([layer[0, :, 3:, :3].sum(-1).mean(-1) for layer in of_row]) for of_row in weights]
    torch.testing.assert_close(found, torch.stack(expected).mean(0), rtol=1e-4, atol=1e-6)


def test_drift_is_that_of_the_states_of_transformers(asked):
    backbone, prompt, examples = asked
    first = drift(backbone, prompt, examples)[0]
    states = [asked_of_transformers(asked, row, output_hidden_states=True).hidden_states[1] for row in (0, 1)]
    states, vectors = torch.cat([of_row[:, :3] for of_row in states]).double(), prompt.vectors.double()
    moved = (states - vectors).norm(dim=-1) / vectors.norm(dim=-1)
    assert first.moved == pytest.approx(moved.mean().item(), rel=1e-4)
    varies = (states - states.mean(0)).square().sum() / states.square().sum()
    assert first.varies == pytest.approx(varies.sqrt().item(), rel=1e-3, abs=1e-6)
    assert (first.varies < 1e-6) == (backbone.kind == "decoder")


@pytest.mark.parametrize("name", [n for n in ANALYSES if n not in ("transfer", "ablation", "rates")])
def test_an_analysis_has_numbers_a_figure_and_a_table(name, run, backbone):
    from softprompt.analysis import analysis_figures, plots

    analysis = ANALYSES[name]
    values = analysis.compute(Bench(paths=[run], model=backbone, rows=4))
    assert len(values["prompts"]) == 2
    # Plain values, the same after a round through JSON.
    again = json.loads(json.dumps(values, allow_nan=False))
    assert len(plots.image(analysis.draw(again, analysis_figures), "figure.svg")) > 5000
    assert len(analysis.rows(again)) >= 2


def test_integrated_gradients_of_a_model_add_up_to_the_change_of_its_answer(run, backbone):
    values = ANALYSES["attribution"].compute(Bench(paths=[run], prompts=["ept-star-seed0"], model=backbone, rows=2))
    for line in values["prompts"][0]["rows"]:
        assert len(line["tokens"]) == len(line["with"]["values"]) == len(line["without"]["values"])
        assert line["with"]["missed"] < 0.2


def test_prompts_at_two_scales_of_the_embeddings_are_read_by_models_of_their_own(tmp_path):
    runs = []
    for scale in (1.0, 4.0):
        loaded = load_backbone("lab-t5-small", embedding_scale=scale)
        runs.append(tmp_path / str(scale))
        train("lab/color", loaded, method="ept-star", steps=1, eval_rows=4, output=runs[-1])
    both = Bench(paths=runs, rows=2)
    assert [both.backbone(subject).embedding_scale for subject in both.subjects] == [1.0, 4.0]


def test_norms_of_runs_that_are_called_alike_are_told_apart(tmp_path):
    runs = [made_run(tmp_path / str(n) / "run", task=t, seeds=1) for n, t in enumerate(("lab/opinion", "lab/topic"))]

    def labels(paths):
        return [prompt["prompt"] for prompt in ANALYSES["norm"].compute(Bench(paths=paths))["prompts"]]

    names = [f"{task} {method}-seed0" for task in ("lab/opinion", "lab/topic") for method in METHODS]
    assert labels(runs) == names
    assert labels([run / "ept-star-seed0" for run in runs]) == [names[1], names[3]]
    assert labels(runs[:1]) == [f"run/{method}-seed0" for method in METHODS]


def test_norms_name_the_damaged_lines_that_they_leave_out(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    record = copy / "ept-star-seed0" / "metrics.jsonl"
    first, second, *others = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(b"".join([first, second.replace(b'"prompt_norm": ', b'"prompt_norm": 9'), *others]))
    values = ANALYSES["norm"].compute(Bench(paths=[copy]))
    assert 2 not in {prompt["prompt"]: prompt["step"] for prompt in values["prompts"]}["run/ept-star-seed0"]
    assert ANALYSES["norm"].warning(values) == "damaged lines of records are left out: run/ept-star-seed0 in line 2"
    assert ANALYSES["norm"].warning(ANALYSES["norm"].compute(Bench(paths=[run]))) is None


def test_prompts_without_norms_are_left_out_by_name_and_a_missing_record_is_said_to_be_missing(tmp_path):
    run, norm = made_run(tmp_path / "run", methods=("ept-star",), seeds=3), ANALYSES["norm"]
    (run / "ept-star-seed0" / "metrics.jsonl").write_text('{"step": 1, "dropped": "its loss was not finite"}\n')
    gone = run / "ept-star-seed1"
    shutil.rmtree(gone)
    values = norm.compute(Bench(paths=[run]))
    assert [prompt["prompt"] for prompt in values["prompts"]] == ["run/ept-star-seed2"]
    left_out = f"run/ept-star-seed0, run/ept-star-seed1 (missing: {gone / 'metrics.jsonl'})"
    assert norm.warning(values) == f"runs that recorded no prompt norm are left out: {left_out}"
    for name, told in (("seed0", ""), ("seed1", r" \(missing: .*metrics\.jsonl\)")):
        with pytest.raises(BadInput, match=f"^none of the runs recorded a prompt norm{told}; give"):
            norm.compute(Bench(paths=[run], prompts=[f"ept-star-{name}"]))


def test_weights_are_not_said_to_be_an_unfinished_prompt(tmp_path):
    run = made_run(tmp_path / "run", seeds=1)
    (run / "ept-star-seed0" / "prompt").rename(run / "ept-star-seed0" / "weights")
    with pytest.raises(BadInput, match=r"'ept-star-seed0' of run '.*' trained weights and left no prompt; choose"):
        subjects([run])
    assert len(subjects([run], prompts=["prompt-tuning-seed0"])) == 1


def test_why_a_run_lacks_a_prompt_is_said_with_what_brings_it_back(tmp_path):
    run = made_run(tmp_path / "run", methods=("ept-star",), seeds=4)
    why = drop(run / "ept-star-seed1")
    shutil.rmtree(run / "ept-star-seed2" / "prompt")
    shutil.rmtree(run / "ept-star-seed3")
    for seed, told in (
        (1, f"'ept-star-seed1' of run '.*' was {why}; train it anew"),
        (2, "prompt 'ept-star-seed2' of run '.*' is missing; restore it from a copy, delete .*result.json and train"),
        (3, "has not stored prompt 'ept-star-seed3'; finish it"),
    ):
        with pytest.raises(BadInput, match=f"{told}.*, or choose others"):
            subjects([run], prompts=["ept-star-seed0", f"ept-star-seed{seed}"])


def test_training_rows_are_not_compared_with_themselves(run, backbone):
    with pytest.raises(BadInput, match="among which split='train' is"):
        ANALYSES["nearest-examples"].compute(Bench(paths=[run], model=backbone, rows=4, split="train"))


def test_transfer_asks_every_prompt_every_task(tmp_path, monkeypatch):
    made_run(tmp_path / "a", task="lab/opinion", methods=("ept-star",), seeds=1)
    made_run(tmp_path / "b", task="lab/topic", methods=("ept-star",), seeds=1)
    monkeypatch.setattr(Bench, "score", lambda self, subject, prompt, task=None: 0.9 if task is None else 0.4)
    values = ANALYSES["transfer"].compute(Bench(paths=[tmp_path / "a", tmp_path / "b"]))
    assert values["tasks"] == ["lab/opinion", "lab/topic"]
    assert [p["scores"] for p in values["prompts"]] == [[0.9, 0.4], [0.4, 0.9]]
    with pytest.raises(BadInput, match="two tasks"):
        ANALYSES["transfer"].compute(Bench(paths=[tmp_path / "a"]))


def test_transfer_keeps_tasks_of_one_name_on_other_rows_apart(tmp_path, monkeypatch):
    color = find_task("lab/color")
    hard = with_difficulty(color, noise=6)
    for name, task in (("a", color), ("b", hard)):
        made_run(tmp_path / name, task=task, methods=("ept-star",), seeds=1)
    asked = []

    def score(self, subject, prompt, task=None):
        asked.append(None if task is None else task.source.options.get("noise"))
        return 0.5

    monkeypatch.setattr(Bench, "score", score)
    values = ANALYSES["transfer"].compute(Bench(paths=[tmp_path / "a", tmp_path / "b"]))
    assert values["tasks"] == [p["task"] for p in values["prompts"]] == ["lab/color", "lab/color (noise=6)"]
    # Each is asked the rows of the other, not those that its name stands for.
    assert asked == [None, 6, None, None]
    assert [list(row) for row in ANALYSES["transfer"].rows(values)] == [["prompt", "trained on", *values["tasks"]]] * 2


class TestComparedRuns:
    def test_runs_on_other_rows_of_one_task_differ_in_their_task(self, tmp_path):
        color = find_task("lab/color")
        tasks = (color, with_difficulty(color, noise=6))
        runs = [made_run(tmp_path / str(n), task=t, methods=("ept-star",)) for n, t in enumerate(tasks)]
        values = ANALYSES["ablation"].compute(Bench(paths=runs))
        assert values["by"] == "task"
        assert [cell["value"] for cell in values["values"]] == ["lab/color", "lab/color (noise=6)"]

    def test_ablation_groups_the_runs_by_what_varies(self, tmp_path):
        values = ANALYSES["ablation"].compute(Bench(paths=[made_run(tmp_path / "run")]))
        assert values["by"] == "method"
        assert [(cell["value"], cell["n"]) for cell in values["values"]] == [("prompt-tuning", 3), ("ept-star", 3)]
        assert values["values"][0]["mean"] == pytest.approx(0.81)

    def test_an_unknown_key_and_runs_that_do_not_differ_are_refused(self, tmp_path):
        with pytest.raises(UnknownName, match="key of a run"):
            ANALYSES["ablation"].compute(Bench(paths=[made_run(tmp_path / "a")], by="lrate"))
        with pytest.raises(BadInput, match="differ in nothing"):
            ANALYSES["ablation"].compute(Bench(paths=[made_run(tmp_path / "b", methods=("ept-star",))]))

    @pytest.mark.parametrize("by", ["prompt_length", "options.prompt_length"])
    def test_an_option_of_a_method_is_a_key_by_its_name_alone(self, by, tmp_path):
        runs = [
            made_run(tmp_path / str(length), methods=("ept-star",), seeds=1, options={"prompt_length": length})
            for length in (5, 9)
        ]
        values = ANALYSES["ablation"].compute(Bench(paths=runs, by=by))
        assert values["by"] == "options.prompt_length"
        assert [cell["value"] for cell in values["values"]] == ["5", "9"]

    @pytest.mark.parametrize("by", ["prompt_length", "hidden"])
    def test_an_option_that_no_run_was_given_is_known_and_not_corrected(self, by, tmp_path):
        run = made_run(tmp_path / "run", seeds=1)
        with pytest.raises(BadInput, match=f"by='{by}': every run has the default of its method"):
            ANALYSES["ablation"].compute(Bench(paths=[run], by=by))

    def test_only_the_chosen_prompts_are_compared(self, tmp_path):
        run = made_run(tmp_path / "run")
        chosen = ["prompt-tuning-seed0", "ept-star-seed1"]
        values = ANALYSES["ablation"].compute(Bench(paths=[run], prompts=chosen))["values"]
        assert [cell["scores"] for cell in values] == [[0.8], [pytest.approx(0.71)]]

    def test_what_else_differs_is_said(self, tmp_path, capsys):
        runs = [str(made_run(tmp_path / str(steps), steps=steps)) for steps in (40, 80)]
        assert main(["analyze", "ablation", *runs, "--by", "steps", "--output", str(tmp_path / "out")]) == 0
        assert "softprompt: the runs differ in method too, so differences of scores" in capsys.readouterr().err

    def test_rates_need_more_than_one(self, tmp_path):
        run = made_run(tmp_path / "run", methods=("ept-star",), seeds=2)
        with pytest.raises(BadInput, match="one learning rate"):
            ANALYSES["rates"].compute(Bench(paths=[run]))
        result = run / "ept-star-seed1" / "result.json"
        result.write_text(result.read_text().replace('"lr": 0.3', '"lr": 0.1'))
        (found,) = ANALYSES["rates"].compute(Bench(paths=[run]))["methods"]
        assert found["rates"] == [0.1, 0.3]
        assert [score["mean"] for score in found["scores"]] == pytest.approx([0.71, 0.70])

    def test_runs_without_a_score_are_counted(self, tmp_path):
        run = made_run(tmp_path / "run", methods=("ept-star",), seeds=4)
        drop(run / "ept-star-seed1")
        (run / "ept-star-seed2" / "result.json").unlink()
        with pytest.raises(BadInput, match=r"one learning rate for each method \(without a test score: 2\); give"):
            ANALYSES["rates"].compute(Bench(paths=[run]))
        result = run / "ept-star-seed3" / "result.json"
        result.write_text(result.read_text().replace('"lr": 0.3', '"lr": 0.1'))
        for analysis in (ANALYSES["rates"], ANALYSES["ablation"]):
            told = analysis.warning(analysis.compute(Bench(paths=[run])))
            assert told == "runs that have no test score, being dropped or not finished, are left out: 2"
            # Those that were not chosen are none of them.
            chosen = [f"ept-star-seed{seed}" for seed in (0, 3)]
            assert analysis.warning(analysis.compute(Bench(paths=[run], prompts=chosen))) is None

    def test_rates_are_those_of_one_task_and_model_and_name_what_else_differs(self, tmp_path):
        asked = (("lab/color", "lab-t5"), ("lab/day", "lab-t5"), ("lab/day", "lab-bert"))
        runs = [
            made_run(tmp_path / str(n), task=task, model=model, methods=("ept-star",), seeds=2, steps=40 * (n + 1))
            for n, (task, model) in enumerate(asked)
        ]
        for run in runs:
            result = run / "ept-star-seed1" / "result.json"
            result.write_text(result.read_text().replace('"lr": 0.3', '"lr": 0.1'))
        rates = ANALYSES["rates"]
        values = rates.compute(Bench(paths=runs))
        found = [(cell["task"], cell["model"], [score["n"] for score in cell["scores"]]) for cell in values["methods"]]
        assert found == [(*each, [1, 1]) for each in asked]
        assert [list(row)[:5] for row in rates.rows(values)] == [["task", "model", "method", "units", "rate"]] * 6
        # No two that are held against each other differ in their steps.
        assert rates.warning(values) is None
        longer = made_run(tmp_path / "longer", task="lab/color", methods=("ept-star",), seeds=2, steps=200)
        values = rates.compute(Bench(paths=[runs[0], longer]))
        assert [cell["method"] for cell in values["methods"]] == ["ept-star"]
        assert rates.warning(values) == "the runs differ in steps too, so differences of scores may come from there"


class TestCommand:
    def test_it_writes_numbers_and_a_figure_and_does_not_overwrite(self, tmp_path, capsys):
        run, folder = made_run(tmp_path / "run"), tmp_path / "norm"
        assert main(["analyze", "norm", str(run), "--output", str(folder), "--format", "svg"]) == 0
        assert {path.name for path in folder.iterdir()} == {"norm.json", "norm.svg"}
        assert "run/ept-star-seed0" in capsys.readouterr().out
        assert main(["analyze", "norm", str(run), "--output", str(folder)]) == 2
        assert "exists already" in capsys.readouterr().err

    def test_without_a_name_it_says_what_each_shows(self, capsys):
        assert main(["analyze"]) == 0
        printed = capsys.readouterr().out
        assert all(f"\n{name} " in printed for name in ANALYSES)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["norms", "RUN"], "Did you mean 'norm'?"),
            (["norm"], "no run; give one"),
            (["norm", "RUN", "--by", "lr"], "--by is for ablation"),
            (["norm", "RUN", "--task", "lab/topic"], "--task is for transfer"),
            (
                ["groups", "RUN", "--copies", "3"],
                "--copies is for broadcast, and groups repeats no vector",
            ),
            (["broadcast", "RUN", "--copies", "3", "--copies", "3"], "--copies is given 3 twice; give each once"),
            (["norm", "nowhere"], "is no run"),
            (["norm", "RUN", "--prompt", "ept-star-seed"], "Did you mean 'ept-star-seed0'?"),
            (["norm", "RUN/ept-star-seed0", "--prompt", "ept-star-seed0"], "is no run; drop --prompt"),
            (["norm", "RUN", "--split", "train"], "--split is for other analyses, and norm reads no rows; leave it"),
            (["ablation", "RUN", "--prompt", "nope"], "unknown prompt of 'RUN' 'nope'"),
            (["ablation", "RUN", "--rows", "8"], "--rows is for other analyses, and ablation reads no rows; leave it"),
            (["rates", "RUN", "--device", "cpu"], "--device is for other analyses, and rates asks no model"),
            (["rates", "."], ". holds no run (no run.json); give the folder of a run, which `softprompt train` makes"),
            (["similarity", "RUN", "OTHER"], "similarity needs prompts of one model"),
            (["similarity", "RUN", "WIDER"], "(width 6)"),
        ],
    )
    def test_a_mistake_is_one_line(self, words, message, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        made_run(tmp_path / "RUN", seeds=1)
        made_run(tmp_path / "OTHER", seeds=1, model="lab-bert")
        made_run(tmp_path / "WIDER", seeds=1, width=6)
        assert main(["analyze", *words]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
        assert not (tmp_path / "runs").exists()


def test_prompts_of_two_runs_with_one_name_keep_apart():
    from softprompt.analysis.analyses._base import short

    assert short({"prompts": [{"prompt": "a/x-seed0"}, {"prompt": "b/x-seed0"}]}) == ["a/x-seed0", "b/x-seed0"]
    assert short({"prompts": [{"prompt": "a/x-seed0"}, {"prompt": "a/x-seed1"}]}) == ["x-seed0", "x-seed1"]
