"""What stands behind a score: intervals, classes, calibration, and each answer beside its row."""

import csv
import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from softprompt import PromptSettings, TrainSettings, custom_task, evaluate, train
from softprompt.backbones import from_model
from softprompt.cli import main
from softprompt.cli._evaluated import apart, in_words, short
from softprompt.errors import BadInput, UnknownName
from softprompt.inference import evaluate as evaluate_file
from softprompt.inference.class_scores import ClassScores, calibration_error
from softprompt.inference.intervals import STATISTICS, difference_interval, intervals
from softprompt.inference.report import Report
from softprompt.metrics import METRICS
from softprompt.tasks import Source, Task

from kit import review_rows

# The first call imports scikit-learn and scipy.
PATIENT = settings(deadline=None, max_examples=20)

classes = st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 2)), min_size=2, max_size=20)
binary = st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 1)), min_size=2, max_size=20)
numbers = st.lists(st.tuples(st.integers(-9, 9).map(float), st.integers(-9, 9).map(float)), min_size=2, max_size=20)


def equal_on_resamples(name: str, pairs) -> None:
    predictions, gold = map(list, zip(*pairs, strict=True))
    rows = np.random.default_rng(0).integers(0, len(gold), (4, len(gold)))
    rows[0] = np.arange(len(gold))
    found = STATISTICS[name](predictions, gold)(rows)
    for value, chosen in zip(found, rows, strict=True):
        expected = METRICS[name]([predictions[i] for i in chosen], [gold[i] for i in chosen])
        assert value == pytest.approx(expected, abs=1e-9)


class TestIntervals:
    @PATIENT
    @given(classes)
    @pytest.mark.parametrize("name", ["accuracy", "macro-f1", "matthews"])
    def test_the_statistic_of_classes_is_the_metric_on_every_resample(self, name, pairs):
        equal_on_resamples(name, pairs)

    @PATIENT
    @given(binary)
    @pytest.mark.parametrize("name", ["f1", "f1a"])
    def test_the_statistic_of_two_classes_is_the_metric_on_every_resample(self, name, pairs):
        equal_on_resamples(name, pairs)

    @PATIENT
    @given(numbers)
    @pytest.mark.parametrize("name", ["pearson", "spearman", "rmse", "mae"])
    def test_the_statistic_of_numbers_is_the_metric_on_every_resample(self, name, pairs):
        equal_on_resamples(name, pairs)

    @pytest.mark.parametrize("name", ["squad-f1", "exact-match"])
    def test_the_statistic_of_texts_is_the_metric_on_every_resample(self, name):
        equal_on_resamples(name, [("a red cat", ["cat", "red dog"]), ("dog", ["dog"]), ("", ["x"])])

    def test_a_share_has_wilsons_interval(self):
        n, hits, z = 40, 30, 1.959963984540054
        centre, spread = hits / n + z * z / (2 * n), z * math.sqrt(hits / n * (1 - hits / n) / n + (z / (2 * n)) ** 2)
        ends = [(centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)]
        found = intervals(["accuracy"], ["accuracy"], [1] * hits + [0] * (n - hits), [1] * n)
        assert found["accuracy"] == found["score"] == pytest.approx(ends)

    def test_a_bootstrap_interval_holds_the_normal_one_of_a_mean_error(self):
        errors = np.random.default_rng(0).normal(size=400)
        low, high = intervals(["mae"], ["mae"], errors.tolist(), [0.0] * 400)["mae"]
        mean, error = np.abs(errors).mean(), np.abs(errors).std() / 20
        assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.02)

    def test_the_score_of_an_error_is_negative_and_that_of_two_metrics_their_mean(self):
        found = intervals(["rmse"], ["rmse"], [1.0, 2.0, 4.0], [0.0, 2.0, 3.0])
        assert found["score"] == (-found["rmse"][1], -found["rmse"][0])
        both = intervals(["accuracy", "macro-f1"], ["accuracy", "macro-f1"], [0, 1, 1, 0] * 5, [0, 1, 0, 0] * 5)
        assert both["score"][0] < 0.73 < both["score"][1]

    def test_it_is_the_same_each_time_and_narrower_for_more_rows(self):
        predictions, gold = [0, 1, 1, 0] * 5, [0, 1, 0, 0] * 5
        few = intervals(["macro-f1"], ["macro-f1"], predictions, gold)
        assert few == intervals(["macro-f1"], ["macro-f1"], predictions, gold)
        many = intervals(["macro-f1"], ["macro-f1"], predictions * 20, gold * 20)
        assert np.ptp(many["macro-f1"]) < np.ptp(few["macro-f1"]) / 3

    def test_tables_of_many_classes_are_counted_in_parts(self, monkeypatch):
        rng = np.random.default_rng(0)
        predictions, gold = (rng.integers(0, 9, 60).tolist() for _ in range(2))
        whole = intervals(["macro-f1", "matthews"], ["matthews"], predictions, gold)
        monkeypatch.setattr("softprompt.inference.intervals.BATCH", 500)
        assert intervals(["macro-f1", "matthews"], ["matthews"], predictions, gold) == whole

    def test_a_metric_of_the_users_own_has_the_interval_of_its_resamples(self, monkeypatch):
        monkeypatch.setitem(METRICS, "own", METRICS["macro-f1"])
        predictions, gold, others = [0, 1, 1, 0] * 5, [0, 1, 0, 0] * 5, [0, 0, 1, 1] * 5
        found = intervals(["own", "macro-f1"], ["own", "macro-f1"], predictions, gold)
        assert found["own"] == pytest.approx(found["macro-f1"])
        gain, known = (difference_interval([name], predictions, others, gold) for name in ("own", "macro-f1"))
        assert gain == pytest.approx(known)

    def test_one_row_implies_nothing(self):
        assert intervals(["accuracy"], ["accuracy"], [0], [0]) == {}


class TestClasses:
    @PATIENT
    @given(classes)
    def test_they_are_counted(self, pairs):
        predictions, gold = map(list, zip(*pairs, strict=True))
        scores, counts = ClassScores.of(("a", "b", "c"), predictions, gold), Counter(pairs)
        for i in range(3):
            assert scores.confusion[i] == [counts[j, i] for j in range(3)]
            assert scores.invalid[i] == counts[-1, i]
            answered, there = predictions.count(i), gold.count(i)
            precision, recall = (counts[i, i] / n if n else 0.0 for n in (answered, there))
            assert (scores.precision[i], scores.recall[i]) == pytest.approx((precision, recall))
            both = precision + recall
            assert scores.f1[i] == pytest.approx(2 * precision * recall / both if both else 0.0)
            assert scores.rows[i] == there

    def test_the_calibration_error_is_the_gap_of_each_bin(self):
        # Bins of a half: .6 and .9 together, of which one is right; and one of 1.0, which is the last bin's too.
        probabilities, gold = [[0.6, 0.4], [0.1, 0.9], [1.0, 0.0]], [0, 0, 0]
        assert calibration_error(probabilities, gold, bins=2) == pytest.approx(abs(2 / 3 - 2.5 / 3))
        assert calibration_error(probabilities, gold) == pytest.approx((0.4 + 0.9 + 0) / 3)


def some_report(labels: list[str], predictions: list[int], gold: list[int]) -> Report:
    task = Task(name="t", source=Source(), template="{x}", labels=tuple(labels), metrics=("accuracy", "macro-f1"))
    metrics = {name: METRICS[name](predictions, gold) for name in task.metrics}
    return Report({**metrics, "score": metrics["accuracy"]}, len(gold), predictions.count(-1), predictions, gold, task)


class TestInWords:
    def test_the_matrix_is_read_from_class_to_answer(self):
        text = in_words(some_report(["no", "yes"], [0, 1, 1, -1], [0, 0, 1, 1]))
        assert "is \\ answered  no  yes  no label" in text
        assert "no              1    1         0" in text
        assert "yes             0    1         1" in text
        assert "4 rows, 1 invalid answers" in text

    @pytest.mark.parametrize("k", [2, 9, 77])
    def test_every_line_fits_into_80_columns(self, k):
        labels = [f"{i} a very long label of a class that goes on\nand on" for i in range(k)]
        rng = np.random.default_rng(0)
        text = in_words(some_report(labels, rng.integers(0, k, 400).tolist(), rng.integers(0, k, 400).tolist()))
        assert max(map(len, text.splitlines())) <= 80
        assert ("lowest F1" in text) == (k == 77)

    @pytest.mark.parametrize("width", [12, 30])
    def test_labels_that_are_cut_stay_apart(self, width):
        long = "a question about the delivery of "
        assert apart(["short", long + "an order"], width) == ["short", short(long + "an order", width)]
        ends = [long + "an order", long + "a present"]
        middles = apart(ends, width)
        assert len(set(middles)) == 2
        assert [name[-5:] for name in middles] == ["order", "esent"]
        within = [f"{long}{what} that did not come as it was said" for what in ("order", "present")]
        assert apart(within, width) == [f"0 {short(within[0], width - 2)}", f"1 {short(within[1], width - 2)}"]
        assert all(len(name) <= width for names in (middles, apart(within, width)) for name in names)

    def test_classes_of_long_names_are_told_apart_in_every_table(self):
        labels = [f"a question about the delivery of {what}" for what in ("an order", "a present", "a letter")]
        text = in_words(some_report(labels, [0, 1, 2, 1], [0, 2, 2, 1]))
        assert all(text.count(name) == 3 for name in ("order", "esent", "etter"))

    def test_a_label_is_cut_with_a_sign_that_it_was(self):
        assert (short("abcdef", 4), short("a\nb", 4)) == ("abc…", "a b")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_t5, save_tiny):
    """A run on one file of 200 reviews that have ids: (run, folder of the model)."""
    folder = tmp_path_factory.mktemp("report")
    rows = [(text, label, f"r{i}") for i, (text, label) in enumerate(review_rows(200, 0))]
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label", "key"), *rows])
    task = custom_task(folder / "rows.csv", text_columns=["text"], label_column="label")
    model = save_tiny(folder / "model", *tiny_t5())
    prompts = [PromptSettings(method="prompt-tuning")]
    return train(task, str(model), prompts=prompts, settings=TrainSettings(steps=2), output=folder / "run")


@pytest.fixture(scope="module")
def backbone(tiny_t5):
    return from_model(*tiny_t5(), name="tiny")


class TestEvaluate:
    def test_each_answer_stands_beside_its_row_of_the_file(self, trained, backbone):
        with (trained.folder.parent / "rows.csv").open(newline="") as opened:
            file = list(csv.reader(opened))
        report = evaluate(trained.prompt(), model=backbone)
        assert report.n == len(report.rows) == 20
        for row in report.rows:
            assert file[row["id"]][:2] == [row["text"], row["gold"]]
            assert row["prediction"] == max(row["scores"], key=row["scores"].get)
        named = evaluate(trained.prompt(), model=backbone, id_column="key")
        assert [f"r{row['id'] - 1}" for row in report.rows] == [row["id"] for row in named.rows]
        assert named.metrics == report.metrics

    def test_it_holds_intervals_classes_and_calibration(self, trained, backbone):
        report = evaluate(trained.prompt(), model=backbone)
        assert set(report.intervals) == {"accuracy", "macro-f1", "score"}
        assert report.classes is not None
        assert sum(map(sum, report.classes.confusion)) == 20
        chances, gold = [list(row["scores"].values()) for row in report.rows], report.gold
        assert report.calibration_error == pytest.approx(calibration_error(chances, gold))

    def test_rows_are_made_when_they_are_asked_for_and_not_kept_for_a_file(self, trained, backbone, monkeypatch):
        made, whole = [], evaluate_file.row_answers
        monkeypatch.setattr(evaluate_file, "row_answers", lambda *of: (made.append(1) or row for row in whole(*of)))
        report = evaluate(trained.prompt(), model=backbone)
        assert report.calibration_error is not None
        assert report.label_loss is not None
        assert (made, report.__dict__.get("rows")) == ([], None)
        lines = report.predictions_jsonl().decode().splitlines()
        assert (len(made), report.__dict__.get("rows")) == (20, None)
        assert [json.loads(line) for line in lines] == report.rows

    def test_generated_answers_have_no_calibration_and_say_what_was_written(self, trained, backbone):
        report = evaluate(trained.prompt(), model=backbone, decode="generate", max_new_tokens=3)
        assert report.calibration_error is None
        assert "scores" not in report.rows[0]
        assert report.classes is not None
        assert sum(map(sum, report.classes.confusion)) + sum(report.classes.invalid) == 20

    def test_a_score_of_labels_that_there_is_not_is_refused_before_the_model_is_loaded(self, trained):
        prompt = trained.prompt()
        with pytest.raises(UnknownName, match="unknown normalization 'banana'"):
            evaluate(prompt, model="no-such-model", normalize="banana", decode="generate")
        with pytest.raises(BadInput, match=r"normalize='sum' is about scores .* the text that is written answers"):
            evaluate(prompt, model="no-such-model", normalize="sum", decode="generate")

    def test_some_rows_are_drawn_by_the_seed(self, trained, backbone):
        def ids(**options):
            report = evaluate(trained.prompt(), model=backbone, split="train", **options)
            return [row["id"] for row in report.rows]

        whole = ids()
        first, other = ids(test_rows=12), ids(test_rows=12, seed=1)
        assert first == ids(test_rows=12, seed=0) != other
        assert len(first) == 12
        assert [i for i in whole if i in first] == first
        assert ids(test_rows=1000) == whole

    def test_what_cannot_be_drawn_or_read_is_refused_before_the_model_is_loaded(self, trained):
        with pytest.raises(BadInput, match="at least one row has to be drawn, not 0"):
            evaluate(trained.prompt(), model="no-such-model", test_rows=0)
        with pytest.raises(UnknownName, match="unknown column 'kez'"):
            evaluate(trained.prompt(), model="no-such-model", id_column="kez")
        with pytest.raises(UnknownName, match="unknown split 'tset'"):
            evaluate(trained.prompt(), model="no-such-model", split="tset")


class TestTheCommand:
    def test_json_holds_all_and_the_folder_each_answer(self, trained, tmp_path, capsys):
        words = ["evaluate", str(trained.folder), "--json", "--test-rows", "10", "--id-column", "key"]
        assert main([*words, "--output", str(tmp_path / "out")]) == 0
        values = json.loads(capsys.readouterr().out)
        assert (values["n"], values["of"]) == (10, 20)
        assert set(values) == {
            "metrics",
            "n",
            "of",
            "invalid",
            "intervals",
            "calibration_error",
            "classes",
            "confusion",
        }
        assert json.loads((tmp_path / "out" / "report.json").read_text()) == values
        lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
        assert len(lines) == 10
        assert set(json.loads(lines[0])) == {"id", "text", "gold", "prediction", "scores"}
        assert main([*words, "--output", str(tmp_path / "out")]) == 2
        assert "exists already" in capsys.readouterr().err

    def test_people_read_tables(self, trained, capsys):
        assert main(["evaluate", str(trained.folder)]) == 0
        text = capsys.readouterr().out
        assert "95 % interval" in text
        assert "20 rows, 0 invalid answers" in text
        assert "precision" in text
        assert "is \\ answered" in text
