"""What a prefix begins as: the experiment trains what its file lacks."""

import json
import sys

from experiments.prefix_begin import __main__ as prefix_begin
from experiments.real_lm.cells import measure_cells


def record(rate):
    return {"share": rate, "seed": 900, "validation": 0.5, "test": 0.5, "best_step": 25}


def test_what_is_in_the_file_is_not_trained_again(tmp_path, monkeypatch):
    trained, path = [], tmp_path / "results.json"
    rates = prefix_begin.RATES["lab"]
    whole = {arm: [record(rate) for rate in rates] for arm in prefix_begin.ARMS}
    whole["cartridge"] = whole["cartridge"][1:]
    path.write_text(json.dumps({"cells": {"lab-gpt:lab/opinion": whole}}))

    def first(task, backbone, arm, seeds, rate):
        trained.append((task.name, backbone.name, arm, seeds, rate))
        return [record(rate)]

    monkeypatch.setattr(prefix_begin, "trained", first)
    cells = ["--cells", "lab-gpt:lab/opinion", "lab-t5:lab/opinion"]
    monkeypatch.setattr(sys, "argv", ["prefix_begin", *cells, "--seeds", "1", "--results", str(path)])
    found = measure_cells("prefix_begin", None, prefix_begin.CELLS, prefix_begin.measure)
    assert trained == [
        ("lab/opinion", "lab-gpt", "cartridge", 1, rates[0]),
        # Layers of an encoder-decoder share entries, so that nothing but random numbers can be tried.
        *(("lab/opinion", "lab-t5", "prefix-tuning, random", 1, rate) for rate in rates),
    ]
    assert json.loads(path.read_text())["cells"] == found
    assert list(found["lab-t5:lab/opinion"]) == ["prefix-tuning, random"]
