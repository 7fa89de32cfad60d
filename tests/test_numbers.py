"""Rows of one's own that are answered with a number: by a head of an encoder, in words by the others."""

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from softprompt import PromptSettings, SoftPrompt, TrainSettings, custom_task, evaluate, predict, resume, train
from softprompt.backbones import from_model
from softprompt.cli import main
from softprompt.data import Ragged
from softprompt.errors import BadInput, UnknownName
from softprompt.inference.answers import Answers
from softprompt.inference.rows import examples_for
from softprompt.prompts.initializers import uniform
from softprompt.prompts.prompt import LinearHead
from softprompt.prompts.standardization import Standardization
from softprompt.prompts.trainable import TrainablePrompt
from softprompt.tasks import answer_text
from softprompt.training._member import FleetMember
from softprompt.training._optimizer import PromptOptimizer
from softprompt.training._records import Record

SETTINGS = TrainSettings(steps=100, eval_every=50, batch_size=16)
SPLITS = ("train", "validation", "test")


def write(path: Path, rows: Sequence[tuple[str, object]], column: str = "price") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", column), *rows])
    return path


def prices(n: int, seed: int = 0) -> list[tuple[str, object]]:
    """Texts whose number counts their good words: 1000 and 50 for each."""
    draw = random.Random(seed)
    rows: list[tuple[str, object]] = []
    for _ in range(n):
        words = draw.choices(("good", "bad", "film", "was"), k=6)
        rows.append((" ".join(words), 1000 + 50 * words.count("good")))
    return rows


def price_task(folder: Path, **options):
    options = {"text_columns": ["text"], "number_column": "price", **options}
    files = {split: write(folder / f"{split}.csv", prices(48, seed)) for seed, split in enumerate(SPLITS)}
    return custom_task(files, **options)


@pytest.fixture(scope="module")
def by_head(tmp_path_factory, tiny_bert):
    """An encoder with a masked-LM head that answers by a linear one: (run, backbone, task)."""
    folder = tmp_path_factory.mktemp("head")
    backbone = from_model(*tiny_bert(), name="tiny", answers="linear-head")
    task = price_task(folder)
    prompts = [PromptSettings(method="prompt-tuning", options={"m": 4}, head_lr=0.05)]
    return train(task, backbone, prompts=prompts, settings=SETTINGS, output=folder / "run"), backbone, task


class TestTheTask:
    def test_it_measures_correlations_and_errors_and_is_scored_by_pearson(self, tmp_path):
        task = price_task(tmp_path)
        assert (task.answer, task.target, task.labels) == ("number", "price", ())
        assert task.metrics == ("pearson", "spearman", "rmse", "mae")
        assert task.scores == ("pearson",)

    @pytest.mark.parametrize(
        ("numbers", "written"),
        [
            ((3, 4, 5), ["3", "4", "5"]),
            ((0.25, 0.5, 0.9), ["0.25", "0.50", "0.90"]),
            ((12.99, 150.5, 80.25), ["13", "150", "80"]),
            ((-0.004, 1.5, 3.0), ["0.0", "1.5", "3.0"]),
        ],
    )
    def test_a_written_number_is_as_fine_as_a_tenth_of_the_deviation(self, numbers, written, tmp_path):
        path = write(tmp_path / "rows.csv", [("a", n) for n in numbers])
        task = custom_task(path, text_columns=["text"], number_column="price")
        assert [answer_text(task, float(n)) for n in numbers] == written

    @pytest.mark.parametrize(
        ("rows", "options", "reason"),
        [
            ([("a", 3), ("b", 3.0)], {}, "only the number 3; a model needs different ones"),
            ([("a", "x"), ("b", "nan")], {}, "holds no number; .*rows.csv:2 holds 'x', which is none; a model needs"),
            ([("a", "1,5"), ("b", 2)], {}, "only the number 2; .*rows.csv:2 holds '1,5', which is none"),
            ([], {}, "column 'price' of '.*rows.csv' holds no number; a model needs"),
            ([("a", 1e-19), ("b", 3e-19)], {}, "differ by about 1e-20, which more than 17 decimals would .*; multiply"),
            ([("a", 0), ("b", 5e-324)], {}, "multiply the column"),
            ([("a", 1), ("b", 2)], {"label_words": ["p", "q"]}, "label words go with `label_column`"),
            ([("a", 1), ("b", 2)], {"label_column": "price"}, "give one answer column"),
        ],
    )
    def test_what_is_no_task_of_numbers_is_refused(self, rows, options, reason, tmp_path):
        path = write(tmp_path / "rows.csv", rows)
        with pytest.raises(BadInput, match=reason):
            custom_task(path, text_columns=["text"], number_column="price", **options)

    def test_a_column_that_is_not_there_is_named(self, tmp_path):
        path = write(tmp_path / "rows.csv", [("a", 1), ("b", 2)])
        with pytest.raises(UnknownName, match="prise"):
            custom_task(path, text_columns=["text"], number_column="prise")

    def test_metrics_of_classes_are_refused_when_rows_are_read(self, tmp_path, by_head):
        task = price_task(tmp_path, metrics=["accuracy"])
        with pytest.raises(BadInput, match="'accuracy' does not measure answers by number"):
            train(task, by_head[1], output=tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_a_value_that_is_no_number_is_named_with_its_line(self, tmp_path, by_head):
        path = write(tmp_path / "rows.csv", [("a", 1), ("b", "3,5"), ("c", 2)])
        task = custom_task(path, text_columns=["text"], number_column="price")
        with pytest.raises(BadInput, match=r"rows.csv:3: column 'price' holds '3,5', a finite number is needed"):
            train(task, by_head[1], output=tmp_path / "run")


class TestAHead:
    def test_it_learns_and_answers_in_the_units_of_the_data(self, by_head):
        run, backbone, _ = by_head
        report = evaluate(run.prompt(), model=backbone)
        assert report.metrics["pearson"] > 0.5
        assert report.metrics["rmse"] < 60
        assert all(900 < number < 1400 for number in report.predictions)

    def test_its_scale_is_that_of_the_training_rows(self, by_head, tmp_path):
        run, _, task = by_head
        from softprompt.data import load_rows, split_rows

        numbers = [row["price"] for row in split_rows(task, load_rows(task)).train]
        mean = sum(numbers) / len(numbers)
        deviation = (sum((n - mean) ** 2 for n in numbers) / len(numbers)) ** 0.5
        training = run.prompt().provenance.training
        assert training["number_mean"] == pytest.approx(mean)
        assert training["number_deviation"] == pytest.approx(deviation)

    def test_its_loss_is_in_squared_deviations(self, by_head):
        run, _, _ = by_head
        records = (run.folder / run.results[0].prompt / "metrics.jsonl").read_text().splitlines()
        first = next(row["loss"] for row in map(json.loads, records) if "loss" in row)
        assert first < 10

    def test_a_stored_prompt_predicts_the_same_and_so_does_an_attached_model_with_its_head(self, by_head):
        run, backbone, task = by_head
        prompt = SoftPrompt.load(run.folder)
        assert prompt.head is not None
        texts = ["good good film", "bad"]
        answers = [float(line["output"]) for line in predict(prompt, texts, model=backbone)]
        examples = examples_for(backbone, task, [{"text": t} for t in texts], prompt.length, targets=False)
        attached = prompt.attach(backbone.model.base_model)
        for text, answer in zip(range(2), answers, strict=True):
            ids = examples.batch([text], 0, backbone.pad_id).ids
            states = attached(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            pooled = states[0, -ids.shape[1] :].mean(0)
            number = (prompt.head.weight @ pooled + prompt.head.bias).item()
            assert number == pytest.approx(answer, abs=0.01)

    def test_a_checkpoint_from_before_numbers_were_standardised_is_not_gone_on_with(self, by_head, tmp_path):
        run, backbone, _ = by_head
        prompt = TrainablePrompt.build(
            PromptSettings(), uniform(), backbone.word_vectors, (1, 16), numbers=Standardization(0.0, 2.0)
        )
        trained = FleetMember(
            name="a", settings=PromptSettings(), trainable=prompt,
            optimizer=PromptOptimizer(prompt, 0.1, 0.1, 4, SETTINGS),
            rows=[0], batches=iter([[0]]), record=Record(tmp_path / "metrics.jsonl"),
            provenance=run.prompt().provenance,
        )  # fmt: skip
        tensors, state = trained.tensors(), trained.state()
        trained.restore(tensors, state)
        with pytest.raises(BadInput, match="trained on numbers as they are; start a new run"):
            trained.restore(tensors, {**state, "standardized": False})
        trained.record.close()

    def test_a_small_number_keeps_its_digits_when_it_is_told(self, by_head):
        run, backbone, _ = by_head
        prompt = run.prompt()
        assert prompt.head is not None
        tiny = LinearHead(prompt.head.weight * 1e-9, prompt.head.bias * 1e-9)
        (large,), (small,) = (predict(p, ["good film"], model=backbone) for p in (prompt, replace(prompt, head=tiny)))
        assert float(small["output"]) == pytest.approx(float(large["output"]) * 1e-9, rel=1e-4)

    def test_what_is_predicted_is_the_float32_that_was_scored(self, by_head):
        run, backbone, _ = by_head
        prompt = run.prompt()
        assert prompt.head is not None
        days = replace(prompt, head=replace(prompt.head, bias=prompt.head.bias + 2460000))
        report = evaluate(days, model=backbone)
        texts = [row["text"] for row in report.rows]
        outputs = [line["output"] for line in predict(days, texts, model=backbone)]
        assert torch.equal(torch.tensor([float(output) for output in outputs]), torch.tensor(report.predictions))
        assert len(set(outputs)) > 3

    @pytest.mark.parametrize(
        ("number", "text"), [(2459998.5, "2459998.5"), (3.0, "3"), (0.1, "0.1"), (-4e-9, "-4e-09"), (1e16, "1e+16")]
    )
    def test_a_number_is_told_in_the_fewest_digits_that_are_read_back_as_it(self, number, text):
        assert Answers.of_numbers([torch.tensor(number).item()]).texts == [text]

    def test_decoding_by_words_is_refused(self, by_head):
        run, backbone, _ = by_head
        with pytest.raises(BadInput, match="normalize='mean' is about scores of label words, and here a linear head"):
            evaluate(run.prompt(), model=backbone, normalize="mean")
        with pytest.raises(BadInput, match="answered with a number by a head, not by generate; leave `decode` out"):
            evaluate(run.prompt(), model=backbone, decode="generate")

    @pytest.mark.parametrize(
        ("settings", "prompt", "reason"),
        [
            ({"shots": 8}, {}, "draws rows by class, task .* is answered by a number"),
            ({"shots_per_class": 8}, {}, "draws rows by class"),
            ({"decode": "scores"}, {}, "by a head, not by scores"),
            ({}, {"init": "label-words"}, "has no label words; choose another `init`"),
            ({}, {"regularizer": "adv-emb:divergence=kl"}, "compares distributions, this task's answer is one number"),
        ],
    )
    def test_what_needs_classes_is_refused_and_leaves_nothing(self, settings, prompt, reason, by_head, tmp_path):
        _, backbone, task = by_head
        prompts = [PromptSettings(method="prompt-tuning", **prompt)]
        with pytest.raises(BadInput, match=reason):
            train(task, backbone, prompts=prompts, settings=TrainSettings(steps=2, **settings), output=tmp_path / "run")
        assert not (tmp_path / "run").exists()


class TestTheScale:
    def test_a_head_answers_numbers_where_it_answered_standardised_ones(self):
        scale = Standardization.of([10.0, 20.0, 30.0])
        head = LinearHead(torch.tensor([[1.0, -2.0]]), torch.tensor([0.5]))
        whole = scale.unfolded(head)
        states = torch.tensor([0.3, 0.7])
        z = head.weight @ states + head.bias
        assert torch.allclose(whole.weight @ states + whole.bias, 20 + (200 / 3) ** 0.5 * z)
        assert torch.allclose(scale.standardized(torch.tensor([20.0, 30.0])), torch.tensor([0.0, 1.5**0.5]))

    @pytest.mark.parametrize(
        ("numbers", "reason"),
        [
            ([2.0, 2.0], "all 2 training numbers are 2"),
            ([1.7e9, 1.7e9 + 100], "float32 cannot tell apart; subtract 1.7e\\+09"),
            ([1e31, 1.0], "give them in a larger unit"),
        ],
    )
    def test_numbers_that_float32_cannot_hold_are_refused(self, numbers, reason):
        with pytest.raises(BadInput, match=reason):
            Standardization.of(numbers)


def test_an_encoder_of_the_command_line_gets_a_head_though_it_has_one_for_words(tmp_path, tiny_bert, save_tiny, capsys):
    model = save_tiny(tmp_path / "model", *tiny_bert())
    data = write(tmp_path / "prices.csv", prices(40))
    words = ["train", "--data", data, "--text-column", "text", "--number-column", "price", "--model", model]
    words += ["--steps", 4, "--method", "prompt-tuning", "--output", tmp_path / "run", "--quiet"]
    assert main(list(map(str, words))) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert {"pearson", "spearman", "rmse", "mae", "score"} == set(metrics)
    assert SoftPrompt.load(tmp_path / "run").provenance.answers == "linear-head"


@pytest.mark.parametrize("kind", ["tiny_t5", "tiny_gpt"])
def test_generating_models_write_the_number(kind, tmp_path, request):
    backbone = from_model(*request.getfixturevalue(kind)(), name="tiny")
    rows = [("good film" if i % 2 else "bad movie", 1 + i % 2) for i in range(40)]
    task = custom_task(write(tmp_path / "stars.csv", rows), text_columns=["text"], number_column="price")
    examples = examples_for(backbone, task, [{"text": "a", "price": 2.0}], 4)
    assert isinstance(examples.targets, Ragged)
    written = backbone.tokenizer.decode(examples.targets.row(0), skip_special_tokens=True)
    assert written.strip() == "2"
    run = train(task, backbone, settings=TrainSettings(steps=4), output=tmp_path / "run")
    report = evaluate(run.prompt(), model=backbone)
    assert set(report.metrics) == {"pearson", "spearman", "rmse", "mae", "score"}
    assert resume(run.folder, model=backbone).results[0].metrics == run.results[0].metrics


def test_a_model_that_knows_no_digits_is_refused(tmp_path, lab_t5):
    with pytest.raises(BadInput, match="does not know the digits"):
        train(price_task(tmp_path), lab_t5, output=tmp_path / "run")


def test_numbers_longer_than_an_answer_are_refused(tmp_path, tiny_t5):
    backbone = from_model(*tiny_t5(), name="tiny")
    with pytest.raises(BadInput, match="give max_new_tokens=5"):
        train(price_task(tmp_path), backbone, settings=TrainSettings(max_new_tokens=3), output=tmp_path / "run")
