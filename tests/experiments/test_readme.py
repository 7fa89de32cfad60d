"""The README's picture, its output and the table of methods say what the committed results say."""

import re
from pathlib import Path
from statistics import fmean, median

import pytest
from experiments.common.places import RESULTS
from experiments.real_lm.__main__ import HERE
from experiments.real_lm.page import small_of
from experiments.real_lm.results import Folder
from experiments.real_lm.tables import by_cell
from experiments.stability import picture
from experiments.stability.study import read
from experiments.which_method import DESIGN, read_results
from experiments.which_method.numbers import by_candidate, ceilings_of, mean_of_tasks, stuck_share

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results" / "which-method.md"
ROWS = {
    "full fine-tuning, as a ceiling": "full",
    "prompt tuning, ten vectors": "prompt-tuning",
    "the default: prompt tuning, no search": "default",
    "P-Tuning": "p-tuning",
    "residual prompt tuning": "residual",
    "`scaled`, one vector ten times": "scaled",
    r"EPT\*, one vector ten times": "ept-star",
    "EPT, one vector": "ept",
}

# Lines of README's first table, and the arms of the study on a real model.
REAL = {
    "written instruction": "instruction",
    "prompt tuning, from random vectors": "pt",
    "prompt tuning, from the instruction (the default)": "pt-instruction",
    r"EPT\*": "ept-star",
    "`scaled`: one trained vector": "scaled",
    "prompt tuning, four examples (`--init examples:4`)": "pt-examples",
    "the same examples, untrained": "examples-untrained",
    "LoRA, r = 8": "lora",
}


@pytest.fixture(scope="module")
def by_task():
    return picture.scores(read("confirm"))


def test_the_picture_shows_the_same_32_seeds_with_and_without_restarts(by_task):
    assert [len(values) for columns in by_task.values() for values in columns] == [32] * 6


def test_the_page_of_restarts_names_the_means_of_the_picture(by_task):
    without, restarted = ([f"{fmean(columns[i]):.3f}" for columns in by_task.values()] for i in (0, 1))
    page = " ".join((ROOT / "docs" / "restarts.md").read_text().split())
    assert "from {}, {} and {} to {}, {} and {}.".format(*without, *restarted) in page


def test_drawing_the_picture_needs_the_results_alone(tmp_path, capsys):
    path = tmp_path / "images" / "restarts.png"
    picture.main(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.strip() == str(path)


def test_the_table_of_methods_has_the_scores_of_the_results():
    runs = by_candidate(read_results(RESULTS / "confirm.json"), "core", DESIGN.parts["core"], "lab-t5-small")
    ceilings = ceilings_of(runs)
    lines = re.findall(r"^\| (.+?) \| [\d,al]+ \| ([\d.]+) \| (\d+) % \|$", PAGE.read_text(), re.M)
    assert {name for name, *_ in lines} == ROWS.keys()
    for name, score, stuck in lines:
        ours = runs[ROWS[name]]
        assert float(score) == pytest.approx(mean_of_tasks(ours), abs=5e-4), name
        assert float(stuck) / 100 == pytest.approx(stuck_share(ours, ceilings), abs=0.006), name


def test_the_readme_names_scores_of_the_table_of_methods():
    section = (ROOT / "README.md").read_text().partition("## Which method\n")[2].partition("EPT's norm explodes")[0]
    scores = re.findall(r"[01]\.\d{3}", section)
    assert len(scores) == 2
    assert all(f"| {score} |" in PAGE.read_text() for score in scores)


def real_section() -> str:
    return (ROOT / "README.md").read_text().partition("## A real language model\n")[2].partition("\n## ")[0]


def test_the_first_table_of_the_readme_has_the_scores_of_the_study():
    files = Folder(small_of(HERE), small_of(HERE)).read()
    arms = by_cell(files)["glue/sst2", "k32"] | by_cell(files)["glue/sst2", "frozen"]
    lines = re.findall(r"^\| (.+?) \| ([\d,]+) \| ([\d.]+) \| ([\d.]*) ?\|$", real_section(), re.M)
    assert [name for name, *_ in lines] == list(REAL)
    for name, trained, mean, worst in lines:
        records = arms[REAL[name]]
        scores = [record["test"] for record in records]
        assert float(mean) == pytest.approx(fmean(scores), abs=5e-4), name
        assert not worst or float(worst) == pytest.approx(min(scores), abs=5e-4), name
        # Examples differ in length.
        assert int(trained.replace(",", "")) == median(record.get("trainable", 0) for record in records), name


def test_what_the_readme_says_of_the_demonstration_is_in_the_output_that_is_kept():
    kept = (ROOT / "examples" / "reviews" / "demo-smollm2.txt").read_text()
    figures = re.findall(r"[+-]?0\.\d{3}", real_section().partition("demonstration")[2])
    assert len(figures) == 3
    assert all(figure in kept for figure in figures)
