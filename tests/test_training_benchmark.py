"""The benchmark of a training step compares like with like, counts what it says, and its tables say what it found."""

import dataclasses
import importlib
import json
import statistics
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def machine(benchmark):
    turns = benchmark("against_peft.turns")
    return turns.Machine(device=torch.device("cpu"), pairs=2, matrix=16)


def quick(benchmark, number, **changes):
    """A cell of tiny shape."""
    return dataclasses.replace(benchmark("against_peft.cells").QUICK[number], **changes)


@pytest.mark.parametrize("number", [0, 1], ids=["prompt-tuning", "p-tuning"])
def test_peft_and_every_engine_give_the_same_loss_and_prompt_gradient(benchmark, machine, number):
    turns, cell = benchmark("against_peft.turns"), quick(benchmark, number)
    with turns.made(cell, machine) as made:
        checks = turns.equal(made, "fp32")
    assert list(checks) == list(cell.variants)
    assert all(one["loss"] <= 1e-5 and one["gradient"] <= 1e-5 for one in checks.values())


def test_a_cell_whose_sides_start_from_other_vectors_is_refused(benchmark, machine):
    turns = benchmark("against_peft.turns")
    with turns.made(quick(benchmark, 0, variants=("B", "reference")), machine) as made:
        with torch.no_grad():
            made.variants["reference"].prompts[0].trainable.initial[0, 0] += 1
        with pytest.raises(turns.Unequal, match="reference"):
            turns.equal(made, "fp32")


def test_the_trainer_and_our_loop_take_the_same_steps(benchmark, machine):
    """Optimiser, schedule and clipping of both sides are one: answers are of one length here, dropout is off."""
    turns = benchmark("against_peft.turns")
    cell = quick(benchmark, 2, fleet=1, variants=("B2", "reference"))
    with turns.made(cell, machine) as made:
        peer, ours = made.variants["B2"], made.variants["reference"]
        before = ours.prompts[0].trainable.initial.detach().clone()
        peer.start()
        for _ in made.batches:
            peer.step()
            ours.step()
        found = peer.model.prompt_encoder["default"].embedding.weight.detach()
        expected = ours.prompts[0].trainable.initial.detach()
    assert (expected - before).abs().min() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_packed_engine_needs_fewer_operations_and_keeps_less(benchmark, machine, monkeypatch):
    turns = benchmark("against_peft.turns")
    # Else layers so narrow are padded, which is faster than another call.
    monkeypatch.setitem(importlib.import_module("softprompt.backbones.fast.blocks").CALL, "cpu", 0.0)
    with turns.made(quick(benchmark, 0, rows="realistic", variants=("reference", "packed")), machine) as made:
        reference, packed = (turns.costs_of(one, made.batches[1], machine.device) for one in made.variants.values())
    assert packed["flops"] < 0.5 * reference["flops"]
    assert packed["kept_bytes"] < 0.25 * reference["kept_bytes"]


def test_operations_are_those_of_the_formulas_attention_on_a_cpu_included(benchmark):
    measure = benchmark("against_peft.measure")
    one, two = torch.randn(3, 5), torch.randn(5, 7)
    assert measure.flops(lambda: one @ two) == 2 * 3 * 5 * 7
    if measure.ONEDNN is not None:
        assert measure.flops(lambda: measure.ONEDNN(one, two.t(), None, "none", [], "")) == 2 * 3 * 5 * 7
    b, h, s, d = 2, 3, 11, 8
    query, key, value = (torch.randn(b, h, s, d, requires_grad=True) for _ in range(3))
    attend = torch.nn.functional.scaled_dot_product_attention
    product = 2 * b * h * s * s * d
    assert measure.flops(lambda: attend(query, key, value).detach()) == 2 * product
    # Backward: scores and their gradient, and those of query, key and value.
    assert measure.flops(lambda: attend(query, key, value).sum().backward()) == 7 * product


def test_kept_bytes_are_activations_without_weights_each_once(benchmark):
    measure = benchmark("against_peft.measure")
    values, weight = torch.randn(4, 10, requires_grad=True), torch.randn(10, 6)

    def run():
        hidden = (values @ weight).exp()
        (hidden * hidden).sum().backward()

    # exp keeps its result and the product keeps it twice; the weight stays.
    assert measure.kept_bytes(run) == 4 * 6 * 4


def test_what_is_measured_can_be_stored_and_becomes_tables(benchmark, machine, tmp_path):
    turns, report, training = (benchmark(name) for name in ("against_peft.turns", "against_peft.report", "training"))
    cell = quick(benchmark, 2)
    environment = training.environment(training.parser().parse_args([]))
    training.write(tmp_path / "found.json", {cell.key: {**turns.measured(cell, machine), "environment": environment}})
    cells = training.read(tmp_path / "found.json")
    found = cells[cell.key]
    # A fleet's step is shared by its two runs.
    assert report.per_run(found, "reference") == [seconds / 2 for seconds in found["variants"]["reference"]["seconds"]]
    first, second = (found["variants"][name]["seconds"][0] for name in ("B", "reference"))
    assert report.quotients(found, "B", "reference")[0] == pytest.approx(2 * first / second)
    text = report.tables(cells)
    assert f"threads 1, pairs 5, torch {torch.__version__}" in text
    assert "B / reference |" in text
    text = report.tables(cells, details=True)
    assert text.count("| tiny b4 equal-12 prompt-tuning n10 k2 fp32 |") == 1 + len(found["variants"])


def test_wanted_ratios_are_told_as_reached_or_missed(benchmark):
    report = benchmark("against_peft.report")
    variants = {name: {"seconds": [time] * 3, "kept_bytes": size, "flops": 60}
                for name, time, size in (("A", 4.0, 9), ("B", 3.0, 6), ("B2", 2.5, 4), ("packed", 1.0, 1),
                                         ("packed, no oneDNN", 2.0, 1))}  # fmt: skip
    cell = {"cell": {"fleet": 1}, "variants": variants, "matrix_rate": [90, 100, 95], "probed_round": 0}
    lines = report.wanted({report.SMALL: cell}).splitlines()[2:]
    assert [line.split(" | ")[-2:] for line in lines] == [
        ["4.00 (4.00 to 4.00) reached", "2.00 (2.00 to 2.00) **missed** |"],
        ["3.00 (3.00 to 3.00) **missed**", "1.50 (1.50 to 1.50) **missed** |"],
        ["2.50 (2.50 to 2.50) reached", "1.25 (1.25 to 1.25) **missed** |"],
        ["6.0 reached", " |"],
        ["60% reached", "30% **missed** |"],
    ]


def test_a_cell_that_is_measured_is_not_measured_again(benchmark, monkeypatch, tmp_path):
    training, turns = benchmark("training"), benchmark("against_peft.turns")
    asked = []
    monkeypatch.setattr(training, "cells", lambda arguments: [quick(benchmark, 0), quick(benchmark, 2)])
    fake = {"variants": {}, "cell": {"fleet": 1}}
    monkeypatch.setattr(turns, "measured", lambda cell, machine: asked.append(cell.key) or fake)
    known = quick(benchmark, 0)
    results = tmp_path / "found.json"
    results.write_text(json.dumps({known.key: {"variants": {name: {} for name in known.variants}}}))
    for setting in ("set_flush_denormal", "set_num_threads"):
        monkeypatch.setattr(torch, setting, lambda value: None)
    training.measure(training.parser().parse_args(["--results", str(results), "--quick"]))
    assert asked == [quick(benchmark, 2).key]
    assert set(training.read(results)) == {known.key, *asked}


def test_tables_go_between_the_marks_of_a_page(benchmark, tmp_path):
    training = benchmark("training")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{training.MARKS[0]}old\n{training.MARKS[1]}\nafter\n")
    training.fill(page, "new")
    assert page.read_text() == f"before\n{training.MARKS[0]}new\n{training.MARKS[1]}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="no marks"):
        training.fill(page, "new")


def test_the_pages_tell_what_was_measured(benchmark):
    training, report = benchmark("training"), benchmark("against_peft.report")
    cells = training.read(training.RESULT)
    _, _, rest = (BENCHMARKS.parent / "docs/results/speed.md").read_text().partition(training.MARKS[0])
    assert rest.partition(training.MARKS[1])[0].strip() == report.tables(cells)
    assert (BENCHMARKS / "results/training.md").read_text().strip() == report.tables(cells, details=True)
    opening, _, below = (BENCHMARKS.parent / "docs/results/speed.md").read_text().partition("\n## ")
    small = cells[report.SMALL]
    for ours in ("packed", report.OTHER):
        ratios = [f"{statistics.median(report.quotients(small, slow, ours)):.2f}" for slow in ("A", "B", "B2")]
        assert all(ratio in opening for ratio in ratios)
    kept = [small["variants"][name]["kept_bytes"] for name in ("B", "packed")]
    assert f"1/{kept[0] / kept[1]:.1f} of the activations of B" in below
