"""The page of the claims: it is what the committed results say."""

import re

import pytest
from experiments.claims import (
    CLAIMS,
    TABLES,
    page,
    read_results,
    tables,
    write,
)
from experiments.claims.__main__ import main

from claims_kit import COMMITTED, PLANTED, REPOSITORY, SOME, planted, record


def test_the_page_links_every_figure_that_is_written(studied, plots, tmp_path):
    _, found = studied
    target = write(found, tmp_path, SOME)
    linked = set(re.findall(r"\]\((claims/[\w-]+\.png)\)", target.read_text()))
    assert linked == {f"claims/{path.name}" for path in (tmp_path / "claims").iterdir()} == {
        "claims/similarity.png", "claims/repetition.png", "claims/drift.png"
    }  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_is_judged_and_drawn_from_planted_results(name, plots):
    claim = CLAIMS[name]
    rates = {setting: 0.1 for setting in claim.settings(PLANTED)}
    sides = {"start matrix": [[1.0, 0.1]], "end matrix": [[1.0, 0.2]]}
    extra = {"cosines": {"start": 0.1, "end": 0.2, **sides}, "copies": {"whole": 0.8, "1": 0.6, "10": 0.7},
             "drift": [{"layer": 1, "norm": 1.0, "moved": 0.5, "kept": 0.1, "varies": 0.2}]}  # fmt: skip
    found = planted(PLANTED, {arm: lambda seed: record(0.8, **extra) for arm in claim.arms(PLANTED, rates)})
    for setting in rates:
        found.rates[setting.name] = {"lr": 0.1, "source": "planted", "edge": False, "trials": {}}
    assert all(one.n == 6 for one in claim.checks(found))
    assert claim.title in page(found, {name: claim})
    assert claim.title in tables(found, {name: claim})
    if claim.figure is not None:
        assert plots.image(claim.figure(found, plots), "x.png").startswith(b"\x89PNG")


def test_the_committed_page_is_what_the_committed_results_say():
    found = read_results(COMMITTED)
    assert (REPOSITORY / "docs/results/claims.md").read_text() == page(found)
    assert (COMMITTED.parent / TABLES).read_text() == tables(found)


def test_every_figure_of_the_committed_page_is_there():
    links = re.findall(r"\]\((claims/[\w-]+\.png)\)", (REPOSITORY / "docs/results/claims.md").read_text())
    assert links
    assert [link for link in links if not (REPOSITORY / "docs/results" / link).is_file()] == []


def test_the_command_makes_the_page_from_results_alone(studied, tmp_path, capsys):
    folder, _ = studied
    code = main(["--page-only", "--results", str(folder / "claims.json"), "--out", str(tmp_path)])
    assert code == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "claims.md")
    assert main(["--page-only", "--results", str(tmp_path / "absent.json")]) == 2
    assert "there are no results at" in capsys.readouterr().err
