"""Checkpoints keep every bit, and the newest whole one is found."""

import logging
import os
import random
import time

import pytest
import torch
from softprompt.errors import DamagedFile
from softprompt.store import latest_checkpoint, save_checkpoint


class TestCheckpoints:
    def test_tensors_keep_dtype_and_bits_and_floats_are_exact(self, tmp_path):
        generator = torch.Generator().manual_seed(0)
        parameter = torch.randn(4, 6, generator=generator)
        tensors = {
            "f32": parameter,
            "row of f32": parameter[1],
            "turned": parameter.T,
            "f64": torch.randn(3, generator=generator, dtype=torch.float64),
            "bf16": torch.randn(3, generator=generator).bfloat16(),
            "nan": torch.tensor([float("nan"), -float("nan"), float("inf"), -0.0]),
            "step": torch.tensor(17.0),
            "int": torch.tensor([2**62, -1]),
            "rng": generator.get_state(),
            "none": torch.zeros(0, 6),
        }
        rng = random.Random(0)
        floats = [rng.uniform(-1, 1) * 10 ** rng.randint(-300, 300) for _ in range(2000)] + [
            5e-324,
            -0.0,
            0.1 + 0.2,
        ]
        state = {"floats": floats, "best": float("-inf"), "big": 2**200, "text": "\u00e9\u4e2d", "none": None}
        save_checkpoint(tmp_path, 7, tensors, state)
        found = latest_checkpoint(tmp_path)
        assert found is not None
        assert found.step == 7
        assert found.state == state
        assert [x.hex() for x in found.state["floats"]] == [x.hex() for x in floats]
        assert found.tensors.keys() == tensors.keys()
        for name, tensor in tensors.items():
            mine = found.tensors[name]
            assert (mine.dtype, mine.shape) == (tensor.dtype, tensor.shape)
            assert mine.numpy(force=True).tobytes() == tensor.numpy().tobytes() if name != "bf16" else True
            assert torch.equal(mine.nan_to_num(), tensor.nan_to_num()) if name == "bf16" else True

    def test_a_loaded_tensor_does_not_change_with_its_file(self, tmp_path):
        path = save_checkpoint(tmp_path, 1, {"v": torch.ones(1000)}, {})
        found = latest_checkpoint(tmp_path)
        assert found is not None
        with (path / "state.safetensors").open("r+b") as file:
            file.seek(200)
            file.write(b"\xff" * 1000)
        assert torch.equal(found.tensors["v"], torch.ones(1000))

    def test_the_newest_two_are_kept(self, tmp_path):
        for step in (1, 50, 900, 1_000_000):
            save_checkpoint(tmp_path, step, {}, {"step": step})
        assert sorted(os.listdir(tmp_path)) == ["step-000900", "step-1000000"]
        found = latest_checkpoint(tmp_path)
        assert found is not None
        assert found.step == 1_000_000

    def test_a_damaged_future_goes_when_the_run_has_gone_on(self, tmp_path):
        for step in (100, 200):
            save_checkpoint(tmp_path, step, {}, {})
        (tmp_path / "step-000200" / "manifest.json").unlink()
        save_checkpoint(tmp_path, 150, {}, {})
        assert sorted(os.listdir(tmp_path)) == ["step-000100", "step-000150"]

    def test_a_damaged_step_is_written_anew(self, tmp_path):
        save_checkpoint(tmp_path, 100, {}, {})
        (tmp_path / "step-000100" / "manifest.json").unlink()
        save_checkpoint(tmp_path, 100, {}, {"again": True})
        found = latest_checkpoint(tmp_path)
        assert found is not None
        assert found.state == {"again": True}

    def test_the_damaged_file_is_named_in_the_warning(self, tmp_path, caplog):
        for step in (100, 200):
            save_checkpoint(tmp_path, step, {}, {})
        os.truncate(tmp_path / "step-000200" / "state.json", 1)
        with caplog.at_level(logging.WARNING, "softprompt"):
            latest_checkpoint(tmp_path)
        assert "checkpoint of step 200 is not used" in caplog.text
        assert "state.json' has 1 bytes" in caplog.text

    def test_only_damaged_checkpoints_are_an_error_and_not_a_fresh_start(self, tmp_path):
        save_checkpoint(tmp_path, 100, {}, {})
        os.truncate(tmp_path / "step-000100" / "state.json", 1)
        with pytest.raises(DamagedFile, match="every checkpoint"):
            latest_checkpoint(tmp_path)

    def test_no_checkpoint_is_none(self, tmp_path):
        assert latest_checkpoint(tmp_path / "nowhere") is None
        assert latest_checkpoint(tmp_path) is None

    def test_what_a_killed_writer_left_is_ignored_and_then_removed_but_not_what_one_may_still_write(self, tmp_path):
        save_checkpoint(tmp_path, 100, {}, {})
        leftover, alive = tmp_path / ".step-000200.0123abcd.tmp", tmp_path / ".step-000200.4567abcd.tmp"
        for folder in (leftover, alive):
            folder.mkdir()
            (folder / "state.json").write_text("{")
        for path in (leftover, leftover / "state.json"):
            os.utime(path, (time.time() - 700, time.time() - 700))
        found = latest_checkpoint(tmp_path)
        assert found is not None
        assert found.step == 100
        save_checkpoint(tmp_path, 300, {}, {})
        assert sorted(os.listdir(tmp_path)) == [alive.name, "step-000100", "step-000300"]

    def test_a_step_being_replaced_when_killed_is_found(self, tmp_path):
        save_checkpoint(tmp_path, 100, {}, {"kept": 1})
        os.rename(tmp_path / "step-000100", tmp_path / ".step-000100.old")
        found = latest_checkpoint(tmp_path)
        assert found is not None
        assert (found.step, found.state) == (100, {"kept": 1})
