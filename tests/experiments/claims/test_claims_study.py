"""The study of the claims: what it keeps, and that a killed one goes on."""

import dataclasses
import importlib
import shutil

import pytest
from experiments.claims import (
    CLAIMS,
    FULL,
    Arm,
    Results,
    Setting,
    page,
    read_results,
    run,
    tables,
)
from softprompt.errors import BadInput, DamagedFile
from softprompt.study import kept_prompt, run_all
from softprompt.training import Interrupted

from claims_kit import SOME, TINY

# The package gives its function under the name of this module.
claims_run = importlib.import_module("experiments.claims.run")


def test_the_file_holds_what_was_found(studied):
    folder, found = studied
    stored = read_results(folder / "claims.json")
    assert stored == found
    arm = Setting("prompt-tuning").at_paper
    one = stored.record("lab/color", arm, 3000)
    assert one is not None
    assert set(one["copies"]) == {"vector", "validation", "whole", "1", "10"}
    assert len(one["norms"]) == len(TINY.norm_steps)
    assert one["cosines"]["start"] == pytest.approx(0, abs=0.2)


def test_step_0_of_the_cosines_is_the_prompt_before_training(studied):
    """An untrained P-Tuning MLP gives vectors that are alike already."""
    _, found = studied
    one = found.record("lab/color", Setting("p-tuning").at_paper, 3000)
    assert one["cosines"]["start"] > 0.8
    assert one["cosines"]["start matrix"][0][0] == 1.0


def test_nothing_is_trained_again_though_the_store_is_lost(studied, tmp_path, monkeypatch):
    folder, found = studied
    shutil.copy(folder / "claims.json", tmp_path / "claims.json")
    monkeypatch.setattr(claims_run, "run_all", lambda *args, **options: pytest.fail("trained again"))
    assert run(tmp_path / "claims.json", store=tmp_path / "none", design=TINY, claims=SOME, progress=False) == found


def test_a_killed_study_goes_on_where_it_stopped_to_the_same_results(studied, tmp_path, monkeypatch):
    """Stopped after every call of the store, again and again, until it is through."""
    folder, _ = studied
    trained: list[str] = []

    def then_stop(specs, store, **options):
        # All but the first of a call's runs are lost with the process; the store keeps what it had.
        run_all(specs[:1], store, **options)
        trained.extend(spec.name for spec in specs[:1])
        if len(specs) > 1 and len(trained) < 4:
            raise Interrupted("stopped")
        return run_all(specs, store, **options)

    monkeypatch.setattr(claims_run, "run_all", then_stop)
    for _ in range(8):
        try:
            run(tmp_path / "claims.json", store=tmp_path / "store", design=TINY, claims=SOME, progress=False)
            break
        except Interrupted:
            pass
    assert len(trained) > 4
    resumed, at_once = (read_results(place / "claims.json") for place in (tmp_path, folder))
    assert page(resumed) == page(at_once)
    assert tables(resumed) == tables(at_once)


def test_a_run_of_other_numbers_is_made_again(studied, tmp_path, monkeypatch):
    folder, found = studied
    changed = read_results(folder / "claims.json")
    arm = Setting("prompt-tuning").at_paper
    changed.cells[f"lab/color|{arm.name}"]["3000"] |= {"run": "another", "score": 0.123}
    changed.write(tmp_path / "claims.json")
    again = run(tmp_path / "claims.json", store=folder / "store", design=TINY, claims=SOME, progress=False)
    assert again == found


def test_results_of_another_study_are_not_mixed(studied):
    folder, _ = studied
    with pytest.raises(BadInput, match=r"another study \(steps 2, not 3\); give another `results`"):
        run(folder / "claims.json", store=folder / "store", design=dataclasses.replace(TINY, steps=3), claims=SOME)


def test_more_seeds_are_the_same_study():
    TINY.refuse_other(dataclasses.replace(TINY, seeds=9), "x")


def test_a_missing_prompt_is_said(studied, tmp_path):
    folder, _ = studied
    spec = Setting("p-tuning").at_paper.spec(TINY, "lab/color", 3000)
    (stored,) = run_all([spec], folder / "store", progress=False)
    assert (kept_prompt(folder / "store", stored) / "manifest.json").is_file()
    with pytest.raises(BadInput, match=f"without its prompt; delete runs/{stored.name}.json"):
        kept_prompt(tmp_path, stored)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda text: text.replace('"score":0.', '"score":7.', 1),
            r"the result of lab/color\|.*, seed 300\d, is damaged",
        ),
        (lambda text: text.replace('"score"', '"scare"', 1), r"the result of lab/color\|.*, seed 300\d, is damaged"),
        (lambda text: text.replace('"validation":0.', '"validation":0.9', 1), "not as it was written"),
        (lambda text: text[:-40], "not as it was written"),
        (lambda text: "[]", "not as it was written"),
        (lambda text: text.replace('"format":1', '"format":2'), "format 2"),
    ],
)
def test_a_damaged_result_is_named(studied, tmp_path, damage, message):
    folder, _ = studied
    changed = damage((folder / "claims.json").read_text())
    (tmp_path / "claims.json").write_text(changed)
    with pytest.raises((DamagedFile, BadInput), match=message):
        read_results(tmp_path / "claims.json")


def test_missing_results_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"there are no results at .*absent\.json"):
        read_results(tmp_path / "absent.json")


def test_what_was_not_run_is_listed(studied):
    _, found = studied
    partly = Results(design=found.design, rates=found.rates, cells=dict(found.cells), evidence={})
    del partly.cells["lab/color|polar radius=10.0 lr=0.1"]
    told = page(partly, SOME)
    assert "- drift: 2 of 4 runs" in told
    assert "- similarity" not in told
    assert "- norms: no learning rate chosen yet for prompt tuning, P-Tuning" in page(Results(design=TINY))


def test_every_run_of_the_study_can_be_named():
    """All arms of all claims, as the full study would train them; none has a seed on which a rate is chosen."""
    names = set()
    for claim in CLAIMS.values():
        rates = dict.fromkeys(claim.settings(FULL), 0.1)
        for arm in claim.arms(FULL, rates):
            assert isinstance(arm, Arm)
            names.add(arm.spec(FULL, FULL.tasks[0], FULL.seed_numbers[0]).name)
    assert len(names) > 40
