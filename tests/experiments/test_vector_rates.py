"""The rates of random vectors: the experiment trains what its file lacks, and compares rates over tasks."""

from typing import Any

from experiments.vector_rates import __main__ as vector_rates


def record(rate, seed, test=0.5):
    return {"share": rate, "seed": seed, "validation": 0.5, "test": test, "best_step": 25}


def test_what_is_in_the_file_is_not_trained_again(monkeypatch):
    trained, kept = [], []
    # Nothing is trained, so neither task nor model is looked at.
    nothing: Any = None
    found = {vector_rates.ARM: [record(0.1, 900)]}

    def all_at_once(_task, _backbone, prompts, _settings, rates):
        seeds = [prompt.seeds.initialization for prompt in prompts]
        trained.append(list(zip(rates, [prompt.lr for prompt in prompts], seeds, strict=True)))
        return [record(*each) for each in zip(rates, seeds, strict=True)]

    monkeypatch.setattr(vector_rates, "train_prompts", all_at_once)
    for _ in range(2):
        vector_rates.measure("smollm2", nothing, nothing, 2, found, lambda: kept.append(1))
    missing = [(0.3, 900), (0.3, 901), (0.1, 901), (0.03, 900), (0.03, 901)]
    assert trained == [[(rate, rate, seed) for rate, seed in missing]]
    assert kept == [1]
    assert len(found[vector_rates.ARM]) == 6


def test_rates_are_compared_by_the_tasks_of_a_model():
    cells = {
        "one:a": {vector_rates.ARM: [record(0.3, 900, 1.0), record(0.3, 901, 0.5), record(0.1, 900, 0.6)]},
        "one:b": {vector_rates.ARM: [record(0.3, 900, 0.25)]},
        "two:a": {vector_rates.ARM: [record(0.3, 900, 0.75)]},
    }
    rows = [tuple(row.values()) for row in vector_rates.means(cells)]
    assert rows == [("one", "0.3", 2, 0.5, 0.375), ("one", "0.1", 1, 0.6, 0.6), ("two", "0.3", 1, 0.75, 0.75)]
