"""The study on a real language model: its design, a piece that is killed, damaged results, and the page's numbers."""

import dataclasses
import gzip
import json
import lzma
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from experiments.common import runs as common_runs
from experiments.common.page import END
from experiments.common.places import RESULTS
from experiments.real_lm import carry, design, landscapes, runs, study, tables, tasks
from experiments.real_lm.__main__ import HERE
from experiments.real_lm.arms import ARMS, SAME_RATE
from experiments.real_lm.design import (
    ALONE_CELLS,
    ALONE_SEEDS,
    CELLS,
    EVERY_ARM,
    RATE_SEEDS,
    RATE_TASKS,
    SIZES,
    SMALL_CELLS,
    SMALL_RATE_SEED,
    SMALL_RATE_TASKS,
    TASK_ORDER,
    small_pieces,
    small_rate_pieces,
)
from experiments.real_lm.frozen import frozen_name, score_frozen
from experiments.real_lm.page import BEGIN, PAGE, all_tables, make_page, rate_table, small_of, summary_of
from experiments.real_lm.results import Folder, bundle, read_results, unbundle
from experiments.real_lm.tasks import cut_rows, study_task
from softprompt.backbones import from_model
from softprompt.data import load_rows, split_rows
from softprompt.errors import BadInput, DamagedFile
from softprompt.prompts.methods import Method
from softprompt.regularizers import regularizers
from softprompt.settings import LandscapeSettings, PromptSettings

FOUR, EIGHT = design.Try(), design.Try(steps=8)
WORDS = ("film", "plot", "story", "scene", "actor", "end")


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """Rows of SST-2's form, as many as the smallest size needs."""
    root = tmp_path_factory.mktemp("data")
    (root / "glue/sst2").mkdir(parents=True)
    for split, rows in (("train", 120), ("validation", 12)):
        lines = [
            {"sentence": f"a {('bad', 'good')[i % 2]} {WORDS[i % 6]} number {i}", "label": i % 2} for i in range(rows)
        ]
        with gzip.open(root / f"glue/sst2/{split}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    return root


@pytest.fixture(scope="module")
def backbone(tiny_gpt):
    return from_model(*tiny_gpt("llama", max_position_embeddings=256), name="tiny")


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "results", tmp_path / "work")


@pytest.fixture
def piece():
    return design.Piece(
        task="glue/sst2", size="k8", arms=("pt", "ept-star"), seeds=(0, 1), rates={"pt": (0.3,), "ept-star": (0.1,)}
    )


class TestDesign:
    def test_rates_come_from_tasks_and_seeds_that_are_not_reported(self):
        assert not set(RATE_TASKS) & set(TASK_ORDER)
        assert min(RATE_SEEDS) >= max(size.seeds for size in SIZES.values())

    @pytest.mark.parametrize("fleet", [8, 64, 400])
    def test_every_arm_of_every_cell_is_trained_with_all_seeds_once(self, fleet):
        found = [
            (piece.task, piece.size, arm, prompt.seeds.initialization)
            for piece in design.pieces({}, fleet)
            for arm, prompt in piece.prompts()
        ]
        expected = {
            (task, size, name, seed)
            for task, size in CELLS
            for name, arm in ARMS.items()
            if ((task, size) in ALONE_CELLS if arm.alone else arm.core or (task, size) in EVERY_ARM)
            for seed in range(SIZES[size].seeds)
            if seed < ALONE_SEEDS or not arm.alone
        }
        assert len(found) == len(set(found))
        assert set(found) == expected

    def test_pieces_have_one_loss_and_one_beginning_and_names_of_their_own(self):
        pieces = design.pieces({}, 64) + design.rate_pieces(64)
        assert len({piece.name for piece in pieces}) == len(pieces)
        for piece in pieces:
            arms = [ARMS[name] for name in piece.arms]
            assert len({(arm.loss, arm.begins, arm.bare, arm.untrained, arm.alone and id(arm)) for arm in arms}) == 1

    def test_an_arm_takes_the_rate_that_was_chosen_for_it_or_for_what_it_trains_like(self):
        rates = {arm: prompt.lr for piece in design.pieces({"pt": 0.7}, 64) for arm, prompt in piece.prompts()}
        assert {arm for arm, rate in rates.items() if rate == 0.7} == {
            "pt", *(arm for arm, same in SAME_RATE.items() if same == "pt")
        }  # fmt: skip
        assert rates["scaled"] is None

    def test_no_arm_leaves_its_beginning_to_the_default_which_may_be_words(self):
        assert not [name for name, arm in ARMS.items() if PromptSettings(**arm.prompt).may_begin_as_words]

    def test_regularisers_are_names_of_the_package(self):
        assert [regularizers(arm.prompt["regularizer"]) for arm in ARMS.values() if "regularizer" in arm.prompt]


def test_landscapes_are_measured_once_with_and_without_noise(data_root, tiny_gpt, save_tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "k32", SIZES["k8"].with_steps(8))
    monkeypatch.setattr(landscapes, "PLANE", LandscapeSettings(grid=3, rows=2))
    monkeypatch.setattr(landscapes, "SEEDS", (0, 1))
    model = save_tiny(tmp_path / "model", *tiny_gpt("llama", max_position_embeddings=256))
    arguments = (str(model), data_root, tmp_path / "work", tmp_path / "landscapes.json")
    found = landscapes.measure_landscapes(*arguments)
    assert [list(found[arm]) for arm in ("pt", "rn")] == [["0", "1"]] * 2
    assert found["pt"]["0"]["range"] > 0
    assert found["pt"] != found["rn"]
    monkeypatch.setattr(landscapes, "measured", None)
    assert landscapes.measure_landscapes(*arguments) == found


def test_the_page_has_the_committed_landscapes():
    assert landscapes.table(json.loads((RESULTS / "real_lm_landscapes.json").read_text())) in PAGE.read_text()


class TestPieces:
    def test_a_piece_is_trained_once_and_leaves_a_record_of_each_prompt(self, piece, backbone, folder, data_root):
        assert runs.train_missing(piece, backbone, folder, data_root, FOUR)
        values = read_results(folder.path(piece.name))
        assert [(r["arm"], r["seed"], r["loss"]) for r in values["records"]] == [
            ("pt", 0, "labels"), ("pt", 1, "labels"), ("ept-star", 0, "labels"), ("ept-star", 1, "labels")
        ]  # fmt: skip
        assert all(0 <= r["test"] <= 1 and r["token_norms"] > 0 for r in values["records"])
        assert not (folder.runs / piece.name).exists()
        before = folder.path(piece.name).stat().st_mtime_ns
        assert runs.train_missing(piece, backbone, folder, data_root, FOUR)
        assert folder.path(piece.name).stat().st_mtime_ns == before

    def test_an_untrained_piece_scores_the_words_that_others_begin_as(self, backbone, folder, data_root):
        arms = ("pt-examples", "examples-untrained")
        pieces = [design.Piece(task="glue/sst2", size="k8", arms=(arm,), seeds=(0,)) for arm in arms]
        still = dataclasses.replace(pieces[0], rates={"pt-examples": (design.STILL,)})
        for piece in (still, pieces[1]):
            assert runs.train_missing(piece, backbone, folder, data_root, FOUR)
        expected, found = (read_results(folder.path(piece.name))["records"][0] for piece in (still, pieces[1]))
        assert found == expected | {"arm": "examples-untrained", "trainable": 0}
        assert found["best_step"] == 0

    def test_a_killed_piece_goes_on_to_the_same_results(
        self, piece, backbone, folder, data_root, tmp_path, monkeypatch
    ):
        whole = Folder(tmp_path / "whole", tmp_path / "whole-work")
        assert runs.train_missing(piece, backbone, whole, data_root, EIGHT)
        train = common_runs.train

        def killed(*arguments, **keywords):
            from softprompt.training._loop import Loop

            def stop(loop):
                if loop.step == 5:
                    raise MemoryError("killed")
                return optimize(loop)

            optimize = Loop._optimize
            with monkeypatch.context() as patch:
                patch.setattr(Loop, "_optimize", stop)
                return train(*arguments, **keywords)

        with monkeypatch.context() as patch:
            patch.setattr(common_runs, "train", killed)
            with pytest.raises(MemoryError):
                runs.train_missing(piece, backbone, folder, data_root, EIGHT)
        assert (folder.runs / piece.name / "run.json").is_file()
        assert not folder.has(piece)
        assert runs.train_missing(piece, backbone, folder, data_root, EIGHT)
        assert read_results(folder.path(piece.name)) == read_results(whole.path(piece.name))

    def test_a_piece_that_another_process_holds_is_left_to_it(self, piece, backbone, folder, data_root):
        with runs.held(folder, piece.name) as is_ours:
            assert is_ours
            assert not runs.train_missing(piece, backbone, folder, data_root, FOUR)

    def test_a_prompt_that_was_dropped_unscored_answers_the_most_frequent_class(self):
        kept = ("seed", "lr", "units", "best_step", "trainable", "stored", "token_norms", "status")
        result = {**dict.fromkeys(kept), "majority": 0.4, "metrics": {"validation": {"accuracy": 0.7}}}
        assert (runs._record("pt", result)["validation"], runs._record("pt", result)["test"]) == (0.7, 0.4)
        assert runs._record("pt", {**result, "metrics": {}})["validation"] == 0.4

    def test_all_pieces_that_the_time_does_not_reach_are_left(self, folder, data_root, monkeypatch):
        monkeypatch.setattr(study, "load", lambda *_, **__: None)
        monkeypatch.setattr(study, "train_missing", lambda *_: pytest.fail("trained"))
        options = {"fleet": 8, "memory_share": 1.0, "tf32": False, "quick": False, "small_rates": True}
        left = study.run_study(folder, model="m", data_root=data_root, bundle_file=None, until=0.0, **options)
        assert left == len(small_rate_pieces())

    def test_rows_are_cut_whole_or_not_at_all(self, data_root, tmp_path, monkeypatch):
        write, count = tasks.write_file, [0]

        def full(*given, **more):
            count[0] += 1
            if count[0] == 3:
                raise KeyboardInterrupt
            write(*given, **more)

        monkeypatch.setattr(tasks, "write_file", full)
        with pytest.raises(KeyboardInterrupt):
            cut_rows("glue/sst2", data_root, tmp_path)
        assert not (tmp_path / "glue-sst2" / "test.jsonl").exists()
        cut_rows("glue/sst2", data_root, tmp_path)
        assert len((tmp_path / "glue-sst2" / "test.jsonl").read_text().splitlines()) == 12

    def test_a_data_root_without_the_task_is_one_clear_line(self, piece, backbone, folder, tmp_path):
        with pytest.raises(BadInput, match=r"is not there; give .*data.root"):
            runs.train_missing(piece, backbone, folder, tmp_path)


class TestFrozen:
    def test_it_is_scored_bare_instructed_and_with_examples(self, backbone, folder, data_root):
        score_frozen("glue/sst2", backbone, folder, data_root)
        values = read_results(folder.path(frozen_name("glue/sst2")))
        scores = {record["arm"]: record for record in values["records"]}
        assert set(scores) == {"majority", *tables.HAND_WRITTEN, "examples", "examples-calibrated"}
        assert scores["majority"]["test"] == 0.5
        assert len(scores["examples"]["draws"]) == 3
        assert values["rows"] == 12


class TestResults:
    def test_a_damaged_file_is_named(self, folder):
        folder.write("piece", {"task": "glue/sst2", "size": "k8", "records": []})
        path = folder.path("piece")
        for damaged in (path.read_text()[:-9], '{"format": 9, "records": []}', '{"format": 1}', "[]"):
            path.write_text(damaged)
            with pytest.raises(DamagedFile, match=r"piece\.json"):
                folder.read()

    def test_a_bundle_holds_all_files_and_gives_them_back(self, folder, tmp_path):
        folder.write("piece", {"task": "a", "size": "k8", "records": []})
        Folder(folder.results / "rates", folder.work).write("screen", {"task": "b", "size": "k8", "records": []})
        bundle(folder.results, tmp_path / "bundle.json")
        assert unbundle(tmp_path / "bundle.json", tmp_path / "again") == 2
        assert read_results(tmp_path / "again/rates/screen.json") == read_results(folder.results / "rates/screen.json")

    def test_a_rate_is_the_best_on_validation_and_not_on_test(self):
        scores = [(0.3, 0.8), (0.3, 0.6), (0.1, 0.7), (0.1, 0.73), (1.0, 0.5)]
        records = [{"arm": "pt", "lr": lr, "validation": score, "test": 1 - score} for lr, score in scores]
        assert tables.chosen_rates([{"records": records}]) == {"pt": 0.1}

    def test_rows_hold_means_spreads_differences_and_corrected_tests(self):
        def records(arm, scores):
            plain = {"majority": 0.5, "token_norms": 2.0, "trainable": 10, "loss": "labels"}
            return [{"arm": arm, "seed": seed, "test": score, **plain} for seed, score in enumerate(scores)]

        frozen = {arm: [{"arm": arm, "test": score}] for arm, score in zip(
            ("majority", *tables.HAND_WRITTEN), (0.5, 0.6, 0.65, 0.7, 0.68), strict=True
        )}  # fmt: skip
        arms = {"pt": records("pt", [0.7, 0.8, 0.52]), "scaled": records("scaled", [0.6, 0.7, 0.5])}
        majority, *_, tuning, scaled = tables.rows(arms, frozen)
        assert (majority.arm, majority.mean) == ("majority", 0.5)
        assert tuning.mean == pytest.approx(0.673, abs=1e-3)
        assert tuning.difference == pytest.approx(tuning.mean - 0.7)
        assert tuning.stuck == pytest.approx(1 / 3)
        assert tuning.p is None
        assert scaled.to_reference == pytest.approx(-0.22 / 3)
        assert scaled.p == pytest.approx(0.25)
        assert scaled.seeds == 3


class TestSmallForm:
    def test_every_piece_is_one_arm_at_its_default_rate_and_of_another_name(self):
        wanted = small_pieces()
        assert len({piece.name for piece in wanted}) == len(wanted)
        rates = {(piece.untrained, prompt.lr) for piece in wanted for _, prompt in piece.prompts()}
        assert rates == {(False, None), (True, design.STILL)}

    def test_the_first_seeds_of_all_arms_come_before_the_next_ones(self):
        seeds = [min(piece.seeds) for piece in small_pieces() if piece.size == "k32" and not ARMS[piece.arms[0]].alone]
        assert seeds == sorted(seeds)
        assert set(seeds) == {0, 3}


class TestSmallRates:
    def test_the_default_rate_of_every_method_is_the_second(self):
        for piece in small_rate_pieces():
            (arm,) = piece.arms
            low, default, *high = (prompt.lr or 0.0 for _, prompt in piece.prompts())
            prompt = PromptSettings(**ARMS[arm].prompt)
            assert default == pytest.approx(Method.of(prompt).resolved(prompt).lr)
            assert low < default
            assert [default < rate for rate in high] == ([] if arm == "pt-examples" else [True])

    def test_its_tasks_and_seed_are_not_reported(self):
        assert not set(SMALL_RATE_TASKS) & {task for task, *_ in SMALL_CELLS}
        assert SMALL_RATE_SEED not in {seed for *_, seeds in SMALL_CELLS for seed in seeds}

    def test_the_table_has_a_line_a_rate_and_the_mean_of_both_tasks(self):
        def file(task, scores):
            return {"task": task, "records": [{"arm": "scaled", "lr": lr, "test": test} for lr, test in scores]}

        lines = rate_table([file("yelp-short", [(1.0, 0.5), (0.3, 0.75)]), file("glue/qqp", [(0.3, 0.5)])])
        assert lines[-3:-1] == ["| scaled | 0.3 | 0.750 | 0.500 | 0.625 |", "| scaled | 1 (default) | 0.500 |  |  |"]
        assert rate_table([]) == []


class TestTickets:
    def test_rows_are_those_of_the_examples_with_every_class_as_often(self, tmp_path):
        cut_rows("tickets", tmp_path, tmp_path)
        assert not list(tmp_path.iterdir())
        task = study_task("tickets", tmp_path)
        splits = split_rows(task, load_rows(task))
        assert [len(rows) for rows in (splits.train, splits.validation, splits.test)] == [80, 40, 100]
        for rows in (splits.train, splits.validation, splits.test):
            assert {*Counter(rows.columns["label"]).values()} == {len(rows) // 5}


class TestPage:
    def test_its_tables_and_the_summary_are_those_of_the_committed_results(self):
        page = PAGE.read_text()
        inside = page.partition(BEGIN)[2].partition(END)[0]
        assert inside.strip() == all_tables(HERE).strip()
        for results in (HERE, small_of(HERE)):
            if files := Folder(results, results).read():
                assert json.loads(summary_of(results).read_text()) == json.loads(json.dumps(tables.summary(files)))

    def test_the_small_form_has_tables_of_its_own(self, folder, tmp_path):
        small = Folder(small_of(folder.results), tmp_path)
        record = {
            "arm": "pt",
            "seed": 0,
            "loss": "labels",
            "test": 0.7,
            "majority": 0.5,
            "token_norms": 1.5,
            "trainable": 9,
        }
        small.write("one", {"task": "glue/sst2", "size": "k32", "records": [record]})
        frozen = [{"arm": arm, "test": 0.6} for arm in ("majority", *tables.HAND_WRITTEN)]
        small.write("two", {"task": "glue/sst2", "size": "frozen", "records": frozen, "rows": 872})
        page = tmp_path / "page.md"
        page.write_text(f"{BEGIN}\n{END}\n")
        make_page(folder.results, page)
        assert "## glue/sst2, 32 rows of each class (default rates)" in page.read_text()
        assert summary_of(small.results).is_file()
        assert not summary_of(folder.results).exists()

    def test_it_is_written_from_results_alone(self, folder, tmp_path, monkeypatch):
        records = [
            {"arm": "pt", "seed": seed, "loss": "labels", "test": 0.7 + seed / 100, "majority": 0.5, "token_norms": 1.5,
             "trainable": 5760} for seed in range(3)
        ]  # fmt: skip
        frozen = [{"arm": arm, "test": 0.6} for arm in ("majority", *tables.HAND_WRITTEN)]
        folder.write("one", {"task": "glue/sst2", "size": "k32", "records": records})
        folder.write("two", {"task": "glue/sst2", "size": "frozen", "records": frozen, "rows": 872})
        page = tmp_path / "page.md"
        page.write_text(f"# Title\n\n{BEGIN}\n{END}\n")
        make_page(folder.results, page)
        text = page.read_text()
        assert "## glue/sst2, 32 rows of each class" in text
        assert "| prompt tuning | labels | 3 | 0.710 | 0.010 | 0.00 | 1.5 | 5,760 | +0.110 (+0.100 to +0.120) |" in text
        assert "| glue/sst2 | 32 rows of each class | 0.600 | 0.600 |  |  |  | 0.710 (0.700) |  |  |  |" in text


class TestCarried:
    @pytest.fixture
    def packed(self, data_root, tmp_path, monkeypatch):
        monkeypatch.setattr(carry, "TASK_ORDER", ("glue/sst2",))
        monkeypatch.setattr(carry, "RATE_TASKS", ())
        model, wheels = tmp_path / "model.gguf", tmp_path / "wheels"
        model.write_bytes(os.urandom(4000))
        wheels.mkdir()
        (wheels / "a-1-py3-none-any.whl").write_bytes(b"wheel")
        return list(carry.pack(tmp_path / "out", data_root, model, wheels, [1500])), model

    def test_the_parts_are_the_model_and_the_first_folder_has_rows_and_wheels(self, packed, tmp_path):
        files, model = packed
        parts = [path for path in files if ".xz." in path.name]
        assert [path.parent.name for path in parts] == ["0", "1"]
        assert parts[0].stat().st_size == 1500
        assert lzma.decompress(b"".join(path.read_bytes() for path in parts)) == model.read_bytes()
        assert (tmp_path / "out/0/data/glue/sst2/train.jsonl.gz") in files
        assert (tmp_path / "out/0/wheels/a-1-py3-none-any.whl") in files

    def test_the_machine_keeps_what_a_folder_brings(self, packed, tmp_path):
        for wheel in (tmp_path / "out/0/wheels").glob("*.whl"):
            wheel.unlink()
        script = Path(carry.__file__).with_name("machine.sh")
        # Its Python is this one, and only says that it could run.
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/python3").symlink_to("/bin/true")
        place = {"REAL_LM_PLACE": str(tmp_path / "place"), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        subprocess.run(["sh", str(script), "take", str(tmp_path / "out/0")], check=True, env=place)
        assert (tmp_path / "place/model.gguf.xz.0").is_file()
        assert (tmp_path / "place/data/glue/sst2/validation.jsonl.gz").is_file()
