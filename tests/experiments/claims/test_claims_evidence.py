"""Evidence that the claims take from other studies: stability, the real model, the confirmation."""

import dataclasses
import json

import pytest
from experiments.claims import (
    CLAIMS,
    Results,
    page,
    read_results,
    tables,
)
from experiments.claims.evidence import take_evidence
from experiments.claims.perturbation import comparisons, mean_checks, spread_checks, spread_rows, without_ptp
from experiments.claims.real_model import REAL_CHECKS, own_runs, real_evidence
from experiments.stability import study as stability
from experiments.which_method import results as which_method
from softprompt.errors import DamagedFile

from claims_kit import COMMITTED, TINY

STABILITY = {
    "lab/color": {
        "nothing": [0.5 + 0.02 * n for n in range(8)],
        "rn-emb:sigma=0.3": [0.7 + 0.02 * n for n in range(8)],
        "adv-emb": [0.6] * 4 + [0.61] * 4,
        "restarts 3": [0.99] * 8,
        "deep, rn-emb": [0.1] * 8,
    }
}


def stability_file(folder, part="confirm", values=STABILITY):
    cells = {
        f"{task}|{name}": {str(s): {"score": v, "majority": 0.4} for s, v in enumerate(scores)}
        for task, settings in values.items()
        for name, scores in settings.items()
    }
    stability.FILE.write(stability.path_of(part, folder), {"cells": cells})


def test_ptp_is_judged_from_the_stability_study(tmp_path):
    """What is 0.2 above nothing at every seed raises the mean and not the spread; what hardly varies lowers it."""
    stability_file(tmp_path)
    found = Results(design=TINY)
    take_evidence(found, tmp_path)
    means = {one.condition: one for one in mean_checks(found)}
    # Restarts are no regulariser, and a deep prompt has no deep one to be compared with here.
    assert list(means) == ["adv-emb on lab/color", "rn-emb:sigma=0.3 on lab/color"]
    assert means["rn-emb:sigma=0.3 on lab/color"].mean == pytest.approx(0.2)
    assert means["rn-emb:sigma=0.3 on lab/color"].outcome == "met"
    spreads = {one.condition: one.outcome for one in spread_checks(found)}
    assert spreads == {"rn-emb:sigma=0.3 on lab/color": "refuted", "adv-emb on lab/color": "met"}
    assert "[PTP lowers the spread over seeds](#ptp-spread) | holds in part (1 / 1 / 0) | not asked |" in page(found)
    assert "- **Holds for:** adv-emb on lab/color\n- **Refuted for:** rn-emb:sigma=0.3 on lab/color" in page(found)


def real_file(folder, arm, scores, norms, size="k32"):
    records = [
        {"arm": arm, "seed": seed, "test": score, "token_norms": norm, "majority": 0.5}
        for seed, (score, norm) in enumerate(zip(scores, norms, strict=True))
    ]
    place = folder / "real_lm_small"
    place.mkdir(exist_ok=True)
    values = {"format": 1, "task": "glue/sst2", "size": size, "records": records}
    (place / f"{size}-{arm}.json").write_text(json.dumps(values))


def test_the_real_model_is_asked_with_the_same_rules(tmp_path):
    """One vector 0.1 above ten random ones with twenty times their norm, and noise that halves the spread."""
    scores = [0.60 + 0.02 * seed for seed in range(8)]
    real_file(tmp_path, "pt", scores, [1.0] * 8)
    real_file(tmp_path, "ept-star", [score + 0.1 for score in scores], [20.0] * 8)
    real_file(tmp_path, "rn", [0.67 + 0.3 * (score - 0.67) for score in scores], [1.0] * 8)
    # The frozen scores and the loss over tokens are not asked.
    real_file(tmp_path, "pt-tokens", scores, [1.0] * 8)
    real_file(tmp_path, "majority", [0.5], [None], size="frozen")
    found = Results(design=TINY)
    take_evidence(found, tmp_path)
    checks = {name: [(one.n, one.outcome) for one in check(found)] for name, check in REAL_CHECKS.items()}
    assert checks == {
        "norms": [(8, "met")], "equal-steps": [(8, "met")], "ptp-mean": [(8, "open")], "ptp-spread": [(8, "met")],
    }  # fmt: skip
    (better,) = REAL_CHECKS["equal-steps"](found)
    assert better.mean == pytest.approx(0.1)
    assert list(found.evidence["real_lm"]["glue/sst2 k32"]) == ["EPT*", "prompt tuning", "prompt tuning, rn-emb"]
    assert "(#equal-steps) | not decided (0 / 0 / 4) | holds (1 / 0 / 0) |" in page(found)


def test_the_committed_page_has_the_committed_results_of_the_real_model():
    evidence = read_results(COMMITTED).evidence
    assert evidence["real_lm"] == real_evidence(COMMITTED.parent)
    assert evidence.get("real_claims", {}) == own_runs(COMMITTED.parent)


def test_a_spread_is_smaller_only_where_holms_p_says_so_too(tmp_path):
    """A ratio with an interval below 1 whose p is above 0.05; and one whose p is, until it is one of three settings."""
    nothing = [0.5 + 0.02 * n for n in range(8)]
    closer = [0.57 + 0.88 * (score - 0.57) for score in nothing]
    halved = [0.57 + 0.45 * (score - 0.57) for score in nothing]
    spreads = {}
    for name, settings in {
        "weak": {"ptp-rn": closer}, "alone": {"ptp-rn": halved},
        "of three": {"ptp-rn": halved, "ptp-adv": closer, "rn-emb": closer},
    }.items():  # fmt: skip
        stability_file(tmp_path, values={"lab/color": {"nothing": nothing, **settings}})
        found = Results(design=TINY)
        take_evidence(found, tmp_path)
        spreads[name] = {one.condition: one for one in spread_checks(found)}["ptp-rn on lab/color"]
    assert all(one.high is not None and one.high < 1 for one in spreads.values())
    assert {name: one.outcome == "met" for name, one in spreads.items()} == {
        "weak": False, "alone": True, "of three": False,
    }  # fmt: skip


def test_settings_compared_with_different_references_are_corrected_together(tmp_path):
    """Each of two is above its own reference at p = 0.0078: by the number of settings of the task it is 0.0156."""
    scores = {"nothing": 0.5, "deep": 0.6, "ptp-rn": 0.7, "deep, ptp-rn": 0.8}
    values = {name: [mean + 0.01 * n for n in range(8)] for name, mean in scores.items()}
    stability_file(tmp_path, values={"lab/color": values})
    found = Results(design=TINY)
    take_evidence(found, tmp_path)
    assert [one.p_holm for _, _, one in comparisons(found)] == pytest.approx([2 / 128, 2 / 128])


def test_both_directions_of_a_spread_are_counted(tmp_path):
    stability_file(
        tmp_path,
        values={
            "lab/color": {
                "nothing": [0.5 + 0.02 * n for n in range(8)],
                "ptp-rn": [0.4 + 0.08 * n for n in range(8)],
                "ptp-adv": [0.6] * 4 + [0.61] * 4,
            }
        },
    )
    found = Results(design=TINY)
    take_evidence(found, tmp_path)
    (row,) = spread_rows(found)
    assert row == {
        "runs": "confirm, lab/color", "seeds": 8, "settings": 2, "narrower / wider": "1 / 1",
        "narrower / wider, by interval": "1 / 1", "narrower / wider, Holm p below 0.05": "1 / 1",
    }  # fmt: skip


def test_a_setting_of_ptp_is_compared_with_the_same_without_its_regularizer():
    named = {
        "rn-emb:sigma=0.1,alpha=0.3": "nothing",
        "ptp-adv": "nothing",
        "deep, ptp-rn": "deep",
        "rms units, lr 0.3, ptp-rn": "rms units, lr 0.3",
        "restarts 3, adv-emb:radius=1.0,alpha=0.1": "restarts 3",
        **dict.fromkeys(("restarts 3", "scaled, restarts 8", "nothing", "deep", "r-drop")),
    }
    assert {name: without_ptp(name) for name in named} == named


def test_units_and_depth_are_compared_with_themselves(tmp_path):
    scores = {"nothing": [0.5] * 8, "deep": [0.7] * 8, "ptp-rn": [0.6] * 8, "deep, ptp-rn": [0.6] * 8}
    stability_file(tmp_path, values={"lab/color": scores})
    found = Results(design=TINY)
    take_evidence(found, tmp_path)
    means = {one.condition: one.mean for one in mean_checks(found)}
    assert means == {
        "ptp-rn on lab/color": pytest.approx(0.1), "deep, ptp-rn on lab/color": pytest.approx(-0.1),
    }  # fmt: skip


@pytest.mark.parametrize("content", ["[", "[]", '{"lab/color": {"nothing": {"0": {"majority": 0.5}}}}'])
def test_damaged_evidence_is_named(tmp_path, content):
    (tmp_path / "stability_confirm.json").write_text(content)
    with pytest.raises(DamagedFile, match=r"stability_confirm\.json"):
        take_evidence(Results(design=TINY), tmp_path)


def confirmed_file(folder, cells):
    """A confirmation study's results: "part/model/task/method" -> scores of seeds from 2000, None of dropped runs."""
    values = {
        key: {
            str(2000 + n): {
                **dict.fromkeys(which_method.NUMBERS),
                "score": v,
                "majority": 0.5,
                "steps": 40,
                "lr": 0.1,
                "status": "finished",
            }
            for n, v in enumerate(scores)
        }
        for key, scores in cells.items()
    }
    which_method.FILE.write(folder / "confirm.json", {"cells": values, "rates": {}})


def test_equal_steps_are_judged_on_the_other_backbones_of_the_confirmation_study(tmp_path):
    cells = {f"real/other/glue/{task}/{name}": [v] * 3 for task in ("sst2", "rte") for name, v in
             {"prompt-tuning": 0.7, "ept": 0.8, "head-only": 0.75, "scaled": 1.0}.items()}  # fmt: skip
    cells |= {f"size/wide/lab/color/{name}": scores for name, scores in
              {"prompt-tuning": [0.9] * 6, "ept-star": [0.6] * 5 + [None], "full": [1.0] * 6}.items()}  # fmt: skip
    confirmed_file(tmp_path, cells)
    found = Results(design=TINY)
    take_evidence(found, tmp_path)
    checks = {one.condition: one for one in CLAIMS["equal-steps"].checks(found) if one.n}
    assert {name: one.outcome for name, one in checks.items()} == {
        "EPT on other, 40 steps (real)": "met", "EPT\\* on wide, 40 steps (size)": "refuted",
    }  # fmt: skip
    assert checks["EPT on other, 40 steps (real)"].mean == pytest.approx(0.1)
    # A dropped run counts as the most frequent class: (5 x 0.3 + 0.4) / 6.
    assert checks["EPT\\* on wide, 40 steps (size)"].mean == pytest.approx(-1.9 / 6)
    row = "| other, 40 steps (real) | EPT | 6 | +0.100 (+0.100 to +0.100; 6) | +0.050 (+0.050 to +0.050; 6) |"
    assert row in tables(found)
    assert "equal-steps: the confirmation study" not in page(found)
    assert "equal-steps: the confirmation study" in page(Results(design=TINY))


@pytest.mark.parametrize("cells", [{"core/x": {}, "a": {"1": {}}}, {"core/m/lab/t/ept": {"2000": {"score": 1}}}, [1]])
def test_a_damaged_confirmation_is_named(tmp_path, cells):
    (tmp_path / "confirm.json").write_text(json.dumps({"cells": cells}))
    with pytest.raises(DamagedFile, match=r"confirm\.json"):
        take_evidence(Results(design=TINY), tmp_path)


def test_learning_rates_come_from_the_confirmation_study_where_it_has_them(tmp_path):
    rates = {"ept": {"chosen": 0.7, "edge": True, "steps": 2}, "ept-star": {"chosen": None, "edge": False, "steps": 2}}
    values = {"cells": {}, "rates": {TINY.model: rates, "other": {"residual": {}}}}
    which_method.FILE.write(tmp_path / "confirm.json", values)
    found = Results(design=TINY)
    take_evidence(found, tmp_path)
    assert {name: one["lr"] for name, one in found.rates.items()} == {"ept": 0.7}
    assert found.rates["ept"]["edge"]
    # Of another number of steps it is another rate.
    other = Results(design=dataclasses.replace(TINY, steps=3))
    take_evidence(other, tmp_path)
    assert other.rates == {}
