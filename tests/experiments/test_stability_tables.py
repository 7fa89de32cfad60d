"""The page of the stability study says what its committed results say."""

import shutil
import statistics

from experiments.common.page import write_page
from experiments.stability import tables as page_tables


def test_the_page_has_the_tables_of_the_committed_results(tmp_path):
    page = tmp_path / "stability.md"
    shutil.copy(page_tables.PAGE, page)
    write_page(page, "\n".join(page_tables.of_the_page()) + "\n", page_tables.BEGIN)
    assert page.read_text() == page_tables.PAGE.read_text()


def found(scores, first=1000):
    return {
        str(first + number): {"score": score, "train": 1.0, "loss": 0.1, "steps": 250, "majority": 0.5}
        for number, score in enumerate(scores)
    }


class TestWide:
    def test_a_row_compares_over_the_seeds_that_both_have(self):
        nothing, other = (0.6, 0.7, 0.9, 0.8), (0.7, 0.9, 0.9)
        cell = {"nothing": found(nothing), "a": found(other, first=1002)}
        results = {"lab/weekend": cell, "glue/rte": {"nothing": found(nothing)}}
        header, _, first, second = page_tables.wide(results, {"nothing": "nothing", "a": "nothing"})
        assert header == "| setting | seeds | `weekend`, 64 rows | ratio | `glue/rte`, 32 rows | ratio |"
        assert first.startswith("| nothing | 4 | 0.750 ± 0.129 |  |")
        _, called, seeds, mean, deviations, *missing = second.strip().split("|")
        assert (called, seeds, missing) == (" a ", " 2, 0 ", ["  ", "  ", ""])
        assert mean.startswith(f" {statistics.mean(other):.3f}; -0.050 (-0.200 to +0.100)")
        assert deviations.startswith(" 2.00 (")

    def test_a_setting_stands_against_what_differs_in_one_thing(self):
        regularized, restarted = page_tables.without("regularizer"), page_tables.without("restarts")
        assert regularized["deep, rn-emb:sigma=0.3"] == "deep"
        assert regularized["rms units, lr 0.3, ptp-rn"] == "rms units, lr 0.3"
        assert regularized["ptp-adv"] == restarted["restarts 8"] == "nothing"
        assert restarted["rms units, lr 0.3, restarts 8"] == "rms units, lr 0.3"
        both = "restarts 3, adv-emb:radius=1.0,alpha=0.1"
        assert (regularized[both], restarted[both]) == ("restarts 3", "adv-emb:radius=1.0,alpha=0.1")
        assert "restarts 8" not in regularized
        assert "deep" not in restarted


def test_the_later_seeds_are_counted_apart():
    cell = {"nothing": found([0.5, 0.6] * 6), "restarts 8": found([0.9, 0.8] * 6)}
    _, _, every, later = page_tables.against_nothing({"lab/weekend": cell}, "restarts 8")
    assert every.split("|")[2] == " 12 "
    assert later.split("|")[2] == " the later 4 "
    assert "0.550 ± 0.058" in later


def test_restarts_stand_beside_the_run_that_costs_as_much():
    """The gain is over pairs where they were kept, else between means: 0.05 +- 1.96 sqrt(2 (0.03^2 + 0.04^2)) / 2."""

    def row(called, cost, mean):
        return {"row": called, "cost": cost, "mean": mean, "std": 0.1}

    rows = [row("1 x 250 steps", 250, 0.8), row("3 restarts, equal steps", 450, 0.9)]
    rows += [row("3 restarts, equal cost", 249, 0.7), row("1, at the cost of 3 restarts", 450, 0.85)]
    short, long, alone = "3 restarts, equal cost", "3 restarts, equal steps", "1, at the cost of 3 restarts"
    paired = [{"row": short, "against": "1 x 250 steps", "difference": -0.1, "low": -0.2, "high": 0.0}]
    by_task = [{"row": long, "task": task, "mean": 0.9, "se": 0.03} for task in "ab"]
    by_task += [{"row": alone, "task": task, "mean": 0.85, "se": 0.04} for task in "ab"]
    results = {"rows": rows, "rows by task": by_task, "against a single run": paired}
    first, second = list(page_tables.equal_cost(results))[2:]
    assert first == "| 250 steps | 0.800 ± 0.100 | 3: 0.700 ± 0.100 | -0.100 (-0.200 to +0.000) |"
    assert second == "| 450 steps | 0.850 ± 0.100 | 3: 0.900 ± 0.100 | +0.050 (-0.019 to +0.119), unpaired |"
    results["against a run as long"] = [{"row": long, "against": alone, "difference": 0.05, "low": 0.01, "high": 0.09}]
    assert list(page_tables.equal_cost(results))[3].endswith("| +0.050 (+0.010 to +0.090) |")
