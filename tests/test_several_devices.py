"""One run in several processes: each with a share of the rows, all with the numbers of one process."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from softprompt.backbones import from_model, load_backbone
from softprompt.cli import main
from softprompt.errors import UnsupportedModel
from softprompt.inference.answers import Answers
from softprompt.prompts.prompt import SoftPrompt
from softprompt.training import Processes, read_record, train
from softprompt.training import _processes as processes_module
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from kit import review_task

WANTED = os.environ.get("SOFTPROMPT_TORCHRUN_TESTS") == "1"
OPTIONS = ["--steps", "4", "--eval-every", "2", "--batch-size", "5", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_t5, save_tiny):
    folder = tmp_path_factory.mktemp("devices")
    save_tiny(folder / "t5", *tiny_t5())
    review_task(folder / "data")
    return folder


def arguments(place: Path, output: str, *more: str) -> list[str]:
    files = [f"--{name}-data={place / 'data' / f'{name}.csv'}" for name in ("validation", "test")]
    words = ["--text-column", "text", "--label-column", "label", "--no-frozen", "--model", str(place / "t5")]
    task = ["train", "--data", str(place / "data" / "train.csv"), *files, *words]
    return [*task, "--output", str(place / output), *OPTIONS, *more]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def in_processes(count: int, command: list[str], scratch: Path) -> list[int]:
    """The exit codes of a command in as many processes as torchrun would start, copies of this one."""
    port, children = free_port(), []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                # The process ends before it could remove its own folders; pytest removes them.
                tempfile.tempdir = str(scratch)
                # What an earlier test told Accelerate is of one process.
                PartialState._reset_state()
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(count)}
                code = main(command)
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def rows(run: Path) -> list[dict[str, Any]]:
    return [row for record in sorted(run.glob("*/metrics.jsonl")) for row in read_record(record)]


def numbers(run: Path) -> list[dict[str, float]]:
    """The rows without the names of splits, which approx does not compare."""
    found = [{name: value for name, value in row.items() if not isinstance(value, str)} for row in rows(run)]
    assert len(found) > 4
    return found


@pytest.mark.parametrize("more", [("--method", "residual", "--seed", "0", "--seed", "1"), ("--method", "lora",
                                  "--lr", "0.01", "--grad-accumulation", "2")], ids=["fleet", "weights"])  # fmt: skip
def test_two_processes_equal_one_within_a_hundred_thousandth(place, more, request):
    name = request.node.callspec.id
    assert main(arguments(place, f"{name}-one", *more)) == 0
    assert in_processes(2, arguments(place, f"{name}-two", *more), place) == [0, 0]
    one, two = place / f"{name}-one", place / f"{name}-two"
    assert sorted(path.relative_to(one) for path in one.rglob("*.json*")) == sorted(
        path.relative_to(two) for path in two.rglob("*.json*")
    )
    for ours, theirs in zip(numbers(two), numbers(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
    for prompt in one.glob("*/prompt"):
        vectors = (SoftPrompt.load(path).vectors for path in (prompt, two / prompt.relative_to(one)))
        torch.testing.assert_close(*vectors, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not WANTED, reason="starts Python three times: set SOFTPROMPT_TORCHRUN_TESTS=1")
def test_torchrun_itself_starts_a_run_of_two_processes_and_goes_on_with_it(place):
    assert main(arguments(place, "alone")) == 0
    # After the first launch the run is put back to its second step of four, as if it had been killed there.
    for words in (arguments(place, "started"), ["train", "--resume", str(place / "started"), "--quiet"]):
        torchrun = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
        command = [sys.executable, "-m", *torchrun, "-m", "softprompt", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=place)
        assert done.returncode == 0, done.stderr
        for ours, theirs in zip(numbers(place / "started"), numbers(place / "alone"), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
        for path in (place / "started").glob("*/result.json"):
            path.unlink()
        shutil.rmtree(place / "started" / "checkpoints" / "step-000004", ignore_errors=True)


def test_a_run_is_resumed_by_two_processes_where_one_has_left_it(place):
    assert main(arguments(place, "whole")) == 0
    assert main(arguments(place, "left")) == 0
    left = place / "left"
    # As it was after the second step: the newest checkpoint and what followed it are gone.
    for path in (*left.glob("*/result.json"), *left.glob("checkpoints/step-000004/*")):
        path.unlink()
    (left / "checkpoints" / "step-000004").rmdir()
    assert in_processes(2, ["train", "--resume", str(left), "--device", "cpu", "--quiet"], place) == [0, 0]
    for ours, theirs in zip(numbers(left), numbers(place / "whole"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)


def test_an_output_that_exists_ends_all_processes_with_the_line_of_the_first(place, capfd):
    assert main(arguments(place, "taken")) == 0
    capfd.readouterr()
    codes = in_processes(1, arguments(place, "taken"), place)
    assert codes == [2]
    assert "already holds a run" in capfd.readouterr().err


def test_answers_of_shares_are_put_together_in_the_order_of_the_rows(monkeypatch):
    rows = list(range(5))
    shares = [Answers(part, [str(v) for v in part], torch.tensor([[float(v)] for v in part])) for part in
              (Processes(rank, 2).of(rows) for rank in range(2))]  # fmt: skip
    joined = processes_module._woven(shares)
    assert joined.values == rows
    assert joined.texts == ["0", "1", "2", "3", "4"]
    assert joined.scores is not None
    assert joined.scores.flatten().tolist() == rows


def test_a_model_that_is_spread_gives_the_losses_of_one_on_its_own(place):
    assert main(arguments(place, "on-one", "--engine", "reference")) == 0
    # On a machine without GPUs all layers are on the processor.
    spread = [word if word != "cpu" else "spread" for word in arguments(place, "spread")]
    assert main(spread) == 0
    assert rows(place / "spread") == rows(place / "on-one")


def test_layers_that_are_kept_on_disk_give_the_gradients_of_layers_in_memory(place, tmp_path):
    model = str(place / "t5")
    # The embeddings belong to encoder and decoder, and stay.
    on_cpu = ("shared", "encoder", "decoder.embed_tokens", "decoder.final_layer_norm", "decoder.dropout", "lm_head")
    layers = dict.fromkeys(on_cpu, "cpu") | {"decoder.block": "disk"}
    kept = AutoModelForSeq2SeqLM.from_pretrained(model, device_map=layers, offload_folder=str(tmp_path / "weights"))
    assert any(weight.is_meta for weight in kept.parameters()), "they are in memory only while they compute"
    settings = {"steps": 3, "eval_every": 3, "batch_size": 4, "seeds": [0]}
    runs = []
    for name, backbone in (
        ("disk", from_model(kept, AutoTokenizer.from_pretrained(model), name=model, engine="reference")),
        ("memory", load_backbone(model, engine="reference", device="cpu")),
    ):
        task = review_task(tmp_path / f"data-{name}")
        runs.append(train(task, backbone, output=tmp_path / name, **settings).folder)
    assert rows(runs[0]) == rows(runs[1])


def test_engines_that_read_weights_where_they_are_are_refused_for_spread_models(place):
    with pytest.raises(UnsupportedModel, match="computes by engine='reference' alone, not by packed"):
        load_backbone(str(place / "t5"), device="spread", engine="packed")
