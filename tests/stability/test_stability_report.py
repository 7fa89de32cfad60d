"""What a comparison of spreads says: arms, verdicts and warnings."""

import dataclasses
import json
import math

import numpy as np
import pytest
from softprompt.errors import BadInput
from softprompt.study import RunSpec, grid
from softprompt.study._stored import StoredRun
from softprompt.study.power import (
    detectable_ratio,
)
from softprompt.study.stability import (
    Arm,
    against,
    remarks,
    report,
    tables,
    text,
    write,
)
from softprompt.study.statistics import holm, ratio_interval
from softprompt.tasks import with_difficulty

from stability_kit import BASE, FIRST, SECOND, arm


def stored(spec, score, majority: float | None = 0.5, losses=(), train=None):
    metrics = {} if score is None else {"test": {"score": score}, **({"train": {"score": train}} if train else {})}
    return StoredRun(
        name=spec.name, spec=spec, metrics=metrics, majority=majority, best_step=2, trainable=1, head=0, stored=1,
        seconds=1.0, status="finished", prompt_steps=20, curve={"step": list(range(len(losses))), "loss": list(losses)},
    )  # fmt: skip


class TestArm:
    def test_it_holds_what_the_runs_say(self):
        specs = grid(**BASE, seed=[3, 4])
        losses = [float(i) for i in range(20)]
        runs = [stored(specs[0], 0.7, losses=losses, train=0.9), stored(specs[1], None)]
        found = Arm.of("a", runs)
        assert found.seeds == ((3, 3, 3, 3), (4, 4, 4, 4))
        assert found.scores == (0.7, None)
        assert found.chance == 0.5
        assert found.train_scores == (0.9, None)
        # The last tenth of twenty steps.
        assert found.train_losses == (18.5, None)
        assert found.prompt_steps == (20, 20)

    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    def test_what_is_no_finite_number_is_no_score(self, number):
        found = arm("a", [0.6, number, 0.7], train_scores=(0.9, number, 0.9), train_losses=(number, 1.0, 1.0))
        assert found.scores == (0.6, None, 0.7)
        assert (found.train_scores, found.train_losses) == ((0.9, None, 0.9), (None, 1.0, 1.0))
        judged = report({"none": arm("none", [0.6, 0.65, 0.7]), "a": found})
        assert (judged.spreads[1].dropped, judged.spreads[1].mean) == (1, pytest.approx(0.65))
        assert (judged.comparisons[0].n, judged.comparisons[0].difference) == (2, 0)

    def test_free_text_has_a_chance_of_zero(self):
        spec = RunSpec(task="lab/purchase", model="m")
        assert Arm.of("a", [stored(spec, 0.7, majority=None)]).chance == 0

    def test_what_is_not_one_setting_is_refused(self):
        specs = [*grid(**BASE, seed=0), *grid(**{**BASE, "task": "lab/color"}, seed=1)]
        with pytest.raises(BadInput, match=r"runs of lab/color, lab/opinion; judge one task"):
            Arm.of("a", [stored(spec, 0.5) for spec in specs])
        hard = with_difficulty(specs[0].declared, noise=6)
        with pytest.raises(BadInput, match=r"runs of lab/opinion, lab/opinion \(noise=6\); judge one task"):
            Arm.of("a", [stored(spec, 0.5) for spec in (specs[0], *grid(**{**BASE, "task": hard}, seed=1))])
        with pytest.raises(BadInput, match="'a' has a seed twice"):
            Arm.of("a", [stored(spec, 0.5) for spec in grid(**BASE, lr=[0.1, 0.3])])
        with pytest.raises(BadInput, match="2 scores of 3 seeds"):
            Arm(name="a", seeds=(1, 2, 3), scores=(0.5, 0.5))


class TestReport:
    def test_settings_are_compared_with_the_first_and_corrected_for_all(self):
        third = (FIRST + 0.01).tolist()
        arms = {"none": arm("none", SECOND.tolist()), "a": arm("a", FIRST.tolist()), "b": arm("b", third)}
        found = report(arms, about={"task": "lab/opinion"})
        assert [one.setting for one in found.spreads] == ["none", "a", "b"]
        assert [(one.setting, one.reference) for one in found.comparisons] == [("a", "none"), ("b", "none")]
        for raw, whole in (("p", "p_holm"), ("p_ratio", "p_ratio_holm")):
            ps = [getattr(against(arms[name], arms["none"]), raw) for name in "ab"]
            assert [getattr(one, whole) for one in found.comparisons] == holm(ps)
        assert found.ceiling == max(SECOND.max(), max(third))
        assert found.ceiling is not None
        assert found.spreads[1].stuck == np.mean([s < (0.5 + found.ceiling) / 2 for s in FIRST])
        assert found.power.ratio == detectable_ratio(20)

    def test_it_warns_of_what_would_be_read_wrongly(self):
        wide = arm("none", [0.5, 0.9, 0.7, 0.8])
        flat, lossy = arm("flat", [0.5] * 4), arm("lossy", [0.8, 0.9, None, 0.7])
        same = dataclasses.replace(wide, name="same")
        found = report({one.name: one for one in (wide, flat, lossy, same)})
        assert found.warnings == (
            "flat: all 4 scores are equal, so nothing can be said of spread",
            "lossy: 1 of 4 seeds have no score and are in no mean or deviation; they count as failed",
            "flat: its standard deviation is 0.00 times that of none, but its mean lost 100% of the way above chance: "
            "that is no stability",
            "lossy: 1 seed has no partner and is left out of the comparison",
            "same: every score equals that of none: the setting changed nothing here",
        )
        narrow = arm("narrow", [0.65, 0.71, 0.7, 0.73])
        assert report({"none": arm("none", [0.6, 0.9, 0.65, 0.85]), "narrow": narrow}).warnings == (
            "narrow: its mean is lower by 21% of the way above chance, though not for sure: its smaller standard "
            "deviation may be no stability",
        )
        gaps = report({"none": arm("none", [None, 0.6, 0.7]), "a": arm("a", [0.5, None, 0.7])})
        # Of a single pair nothing is said.
        assert [line for line in gaps.warnings if line.startswith("a: ")][1:] == [
            "a: 2 seeds have no partner and are left out of the comparison"
        ]
        nothing = report({"none": flat, "a": wide})
        assert any("flat, the reference, is at chance (0.500)" in line for line in nothing.warnings)

    @pytest.mark.parametrize(
        ("arms", "message"),
        [
            ([], "nothing to judge"),
            ([arm("a", [0.5])], "'a' has 1 seeds; a spread needs at least 2"),
            ([arm("a", [0.5, 0.6]), arm("b", [0.5, 0.6], chance=0.3)], "chances of 0.300 and 0.500 are of other tasks"),
        ],
    )
    def test_what_cannot_be_judged_is_refused(self, arms, message):
        with pytest.raises(BadInput, match=message):
            report({one.name: one for one in arms})

    def test_it_is_json_even_where_a_ratio_is_infinite(self):
        found = report({"none": arm("none", [0.6] * 3), "a": arm("a", [0.6, 0.7, 0.8])})
        assert found.comparisons[0].ratio == math.inf
        values = json.loads(json.dumps(found.to_json(), allow_nan=False))
        assert values["comparisons"][0]["ratio"] is None
        assert values["arms"]["a"]["scores"] == [0.6, 0.7, 0.8]

    def test_its_text_has_every_setting_and_what_the_sample_can_show(self):
        found = report({"none": arm("none", SECOND.tolist()), "a|b": arm("a|b", FIRST.tolist())})
        shown = text(found)
        assert shown.startswith("# Stability, 20 seeds, chance 0.500\n")
        assert f"| a\\|b | 20 | {FIRST.mean():.3f} | " in shown
        (row,) = tables(found)["Standard deviations against none"]
        low, high = ratio_interval(FIRST, SECOND) or (0, 0)
        assert (row["95 %"], row["verdict"]) == (f"{low:.3f} .. {high:.3f}", "smaller")
        assert "a ratio of standard deviations of 0.52 or less" in shown
        assert "0.46 by the Brown-Forsythe test" in shown
        assert "0.66 standard deviations of the paired differences" in shown
        assert "takes 19 seeds an arm at best" in shown

    def test_a_name_begins_no_link_code_or_line_in_its_text(self):
        evil = "x\n# [here](http://evil) `code` <b>"
        arms = {"none": arm("none", [0.5, 0.5]), evil: arm(evil, [0.5, 0.6]), "b": arm("b", [None, 0.6])}
        for first in (evil, "none"):
            found = report({first: arms[first], **arms}, about={"task": evil})
            shown = text(dataclasses.replace(found, warnings=(f"{evil}: is odd",)))
            assert not any(sign in shown for sign in ("](", "`", "<b>", "\n# ["))

    @pytest.mark.parametrize(
        ("first", "verdict"),
        [([0.5, 0.51, 0.52, 0.5], "no stability: the mean fell"), ([0.1] * 4, "no stability: the mean fell"),
         ([0.66, 0.8, 0.85, 0.69], "not shown"),
         ([0.72, 0.71, 0.7, 0.73], "smaller, but the mean may have fallen"), ([0.8, 0.81, 0.8, 0.81], "smaller")],
    )  # fmt: skip
    def test_a_verdict_follows_the_interval_unless_the_mean_fell(self, first, verdict):
        found = report({"none": arm("none", [0.6, 0.9, 0.65, 0.85]), "a": arm("a", first)})
        (row,) = tables(found)["Standard deviations against none"]
        assert row["verdict"] == verdict

    def test_equal_spreads_over_few_seeds_are_seldom_called_different(self):
        scores = np.random.default_rng(0).normal(0.8, 0.03, (100, 2, 3))
        found = [report({"none": arm("none", a.tolist()), "a": arm("a", b.tolist())}) for a, b in scores]
        verdicts = [row["verdict"] for each in found for row in tables(each)["Standard deviations against none"]]
        assert sum(verdict.startswith(("smaller", "larger")) for verdict in verdicts) <= 5

    def test_causes_are_told_beside_what_they_make_together(self):
        sets = {"init": {"a": arm("a", [0.6, 0.7])}, "together": {"a": arm("a", [0.6, 0.8])}}
        found = report(sets["together"], causes=sets)
        first, last = tables(found)["Standard deviations by what varies"]
        assert (first["varied"], first["std"], first["of together"]) == ("init", "0.071", "0.500")
        assert (last["varied"], last["of together"]) == ("together", "1.000")
        assert any("need not add up" in line for line in remarks(found))

    def test_files_are_written_and_replaced(self, tmp_path):
        pytest.importorskip("matplotlib", reason="figures need the extra `plots`")
        sets = {"init": {"a": arm("a", [0.6, None])}, "together": {"a": arm("a", [0.6, 0.8])}}
        found = report(sets["together"], causes=sets)
        written = write(found, tmp_path / "r")
        assert [path.name for path in written] == ["report.json", "report.md", "strip.png", "causes.png"]
        assert json.loads(written[0].read_text()) == json.loads(json.dumps(found.to_json()))
        assert written[1].read_text() == text(found)
        before = [path.read_bytes() for path in written]
        assert [path.read_bytes() for path in write(found, tmp_path / "r")] == before
        write(report(sets["together"]), tmp_path / "r")
        assert not (tmp_path / "r" / "causes.png").exists()
