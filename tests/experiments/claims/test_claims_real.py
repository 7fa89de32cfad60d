"""EPT's claims asked of a real model by runs of their own: what is run, and what the page says of it."""

import dataclasses
import json

import pytest
from experiments.claims import CLAIMS, Results, page, read_results, run
from experiments.claims.arm import EPT, P_TUNING, PROMPT_TUNING, RESIDUAL
from experiments.claims.ask_real import STAGES, ask_real
from experiments.claims.design import REAL
from experiments.claims.evidence import take_evidence
from experiments.claims.fixed_norm import at_radius
from experiments.claims.real_model import FILE, asked_itself
from experiments.claims.run import default_rate, rates_of
from softprompt.errors import DamagedFile

from claims_kit import TINY, planted, record

RATES = {PROMPT_TUNING: 0.3, P_TUNING: 0.03, RESIDUAL: 0.03, EPT: 0.1}


def plain(seed):
    return record(0.5, cosines={"start": 0.0, "end": 0.0})


def with_own_runs(folder):
    """Results of the built-in model beside a file of the real one, in which ten times the norm costs a fifth."""
    real = planted(
        REAL,
        {
            **{setting.at(rate): plain for setting, rate in RATES.items()},
            P_TUNING.at(0.03): lambda seed: record(0.5, cosines={"start": 0.0, "end": 0.9 + seed / 1e5}),
            at_radius(1.0): lambda seed: record(0.6 + seed / 1e5),
            at_radius(10.0): lambda seed: record(0.4),
        },
    )
    chosen = {"source": "", "edge": False, "trials": {}}
    real.rates = {setting.name: {"lr": rate, **chosen} for setting, rate in RATES.items()}
    real.unprompted = {"tickets": 0.2}
    real.write(folder / FILE)
    found = Results(design=TINY)
    take_evidence(found, folder)
    return found


def test_the_page_says_what_the_real_models_own_runs_say_by_the_same_rules(tmp_path):
    found = with_own_runs(tmp_path)
    alike = asked_itself(CLAIMS["similarity"], found)
    assert [(check.condition, check.n, check.outcome) for check in alike] == [
        ("P-Tuning at default rate, against prompt tuning (tickets)", 6, "met"),
        ("P-Tuning at default rate, against its step 0 (tickets)", 6, "met"),
        ("residual at default rate, against prompt tuning (tickets)", 6, "refuted"),
        ("residual at default rate, against its step 0 (tickets)", 6, "refuted"),
    ]
    (larger,) = asked_itself(CLAIMS["fixed-norm"], found)
    assert (larger.condition, larger.outcome) == ("from 1 to 10 token norms (tickets)", "refuted")
    told = page(found)
    assert "(#fixed-norm) | not decided (0 / 0 / 1) | does not hold here (0 / 1 / 0) |" in told
    assert "(#similarity) | not decided (0 / 0 / 8) | holds in part (2 / 2 / 0) |" in told
    assert "(#structures) | not decided (0 / 0 / 10) | not asked |" in told


def test_what_the_page_says_follows_from_one_file(tmp_path):
    found = with_own_runs(tmp_path)
    found.write(tmp_path / "claims.json")
    assert page(read_results(tmp_path / "claims.json")) == page(found)


def test_a_damaged_file_of_the_real_model_is_named(tmp_path):
    with_own_runs(tmp_path)
    (tmp_path / FILE).write_text(json.dumps({"format": 1}))
    with pytest.raises(DamagedFile, match=FILE):
        take_evidence(Results(design=TINY), tmp_path)


def test_the_real_model_is_asked_at_default_rates_without_an_instruction():
    assert REAL.task("tickets").instruction == ""
    assert {setting: default_rate(setting, REAL) for setting in RATES} == RATES
    rates = dict.fromkeys(CLAIMS["norms"].settings(REAL), 0.1)
    arms = CLAIMS["norms"].arms(REAL, rates)
    assert list(Results(design=REAL).arms(PROMPT_TUNING)) == ["own rate"]
    assert [arm.lr for arm in arms] == [0.1] * 5
    spec = arms[0].spec(REAL, "tickets", REAL.seed_numbers[0])
    assert (spec.settings.steps, spec.settings.batch_size, spec.prompt.units, spec.prompt.init) == (
        100,
        8,
        "rms",
        "uniform",
    )


def test_the_stages_are_asked_in_their_order_and_keep_the_rates(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("experiments.claims.ask_real.run", lambda path, **given: asked.append(list(given["claims"])))
    ask_real(tmp_path / FILE, tmp_path / "store")
    assert asked == [list(stage) for stage in STAGES]
    known = {name for stage in STAGES for name in stage}
    # Those that the study of the real model answers, and one that the plan leaves out.
    assert CLAIMS.keys() - known == {"ptp-mean", "ptp-spread", "drift"}
    assert rates_of(Results(design=REAL), CLAIMS["norms"]) == {}


def test_a_decoders_whole_prompt_scores_in_the_probe_what_it_scored_in_its_run(tmp_path):
    """Its labels are scored without an end of sequence, as its loss over labels was."""
    design = dataclasses.replace(
        TINY, model="lab-gpt", tasks=("lab/opinion",), units="rms", at_defaults=True, steps=20, test_rows=40
    )
    claims = {"repetition": CLAIMS["repetition"]}
    found = run(tmp_path / "claims.json", store=tmp_path / "store", design=design, claims=claims, progress=False)
    records = [record for cell in found.cells.values() for record in cell.values()]
    assert len(records) == 6
    assert [record["copies"]["whole"] for record in records] == [round(record["score"], 4) for record in records]
