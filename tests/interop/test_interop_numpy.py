"""Prompts as one array in a `.npy` file."""

import dataclasses
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from softprompt.errors import BadInput, CannotExport, UnknownName
from softprompt.interop.numpy import export_numpy, import_numpy
from softprompt.prompts.prompt import BackboneIdentity

from interop_kit import a_prompt


class TestNumpy:
    def saved(self, tmp_path, array) -> Path:
        np.save(tmp_path / "p.npy", array, allow_pickle=True)
        return tmp_path / "p.npy"

    @pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_floats_of_any_form_become_float32(self, tmp_path, dtype, order):
        array = np.random.default_rng(0).normal(size=(5, 16)).astype(dtype, order=order)
        prompt = import_numpy(self.saved(tmp_path, array), backbone_name="google/t5", kind="decoder")
        assert torch.equal(prompt.vectors, torch.tensor(array.astype(np.float32).tolist()))
        assert prompt.provenance.backbone == BackboneIdentity("google/t5", "decoder", 16)
        assert (prompt.provenance.method, prompt.repeats) == ("imported", 1)

    def test_an_exported_array_is_the_expanded_prompt(self, tmp_path):
        prompt = a_prompt(m=2, repeats=3)
        array = np.load(export_numpy(prompt, tmp_path / "p.npy"), allow_pickle=False)
        assert array.dtype == np.float32
        assert np.array_equal(array, prompt.expanded().numpy())
        with pytest.raises(BadInput, match="exists already"):
            export_numpy(prompt, tmp_path / "p.npy")

    def test_a_prompt_with_a_head_does_not_fit_an_array(self, tmp_path):
        with pytest.raises(CannotExport, match="this prompt has a head"):
            export_numpy(a_prompt("encoder", "linear-head"), tmp_path / "p.npy")

    def test_a_prompt_in_the_place_of_an_instruction_is_more_than_an_array(self, tmp_path):
        prompt = a_prompt("decoder")
        provenance = dataclasses.replace(prompt.provenance, task={"name": "t", "opening_ids": [1, 2]})
        with pytest.raises(CannotExport, match="stand in the place of the instruction"):
            export_numpy(dataclasses.replace(prompt, provenance=provenance), tmp_path / "p.npy")
        assert not (tmp_path / "p.npy").exists()

    @pytest.mark.parametrize(
        ("array", "match"),
        [
            (np.ones((5, 16), np.int64), "holds int64"),
            (np.ones((5, 16), complex), "holds complex128"),
            (np.array([["a"]]), "holds <U1"),
            (np.ones(16), r"shape \(16,\)"),
            (np.ones((1, 5, 16)), r"shape \(1, 5, 16\)"),
            (np.ones((0, 16)), r"shape \(0, 16\)|no whole"),
            (np.full((5, 16), np.inf), "NaN or infinity"),
            (np.full((5, 16), 1e300), "NaN or infinity"),
            (np.array([[{}]], dtype=object), "no whole .npy file"),
        ],
    )
    def test_arrays_that_are_no_prompt_are_refused(self, tmp_path, array, match):
        with pytest.raises(BadInput, match=match):
            import_numpy(self.saved(tmp_path, array), backbone_name="t5")

    @pytest.mark.parametrize("content", [b"", b"\x93NUMPY", pickle.dumps([1, 2]), b"PK\x03\x04", b"a,b\n1,2\n"])
    def test_files_that_are_no_array_are_refused(self, tmp_path, content):
        (tmp_path / "p.npy").write_bytes(content)
        with pytest.raises(BadInput, match=r"no whole \.npy file"):
            import_numpy(tmp_path / "p.npy", backbone_name="t5")

    def test_a_header_that_promises_too_much_takes_no_memory(self, tmp_path):
        path = self.saved(tmp_path, np.ones((5, 16), np.float32))
        content = path.read_bytes()
        path.write_bytes(content.replace(b"(5, 16), }" + b" " * 12, b"(2199023255552, 16), }"))
        assert path.read_bytes() != content
        with pytest.raises(BadInput, match=r"no whole \.npy file"):
            import_numpy(path, backbone_name="t5")

    def test_an_archive_of_arrays_is_refused(self, tmp_path):
        np.savez(tmp_path / "p.npz", a=np.ones((5, 16)))
        with pytest.raises(BadInput, match=r"no whole \.npy file"):
            import_numpy(tmp_path / "p.npz", backbone_name="t5")

    def test_an_unknown_kind_is_named_with_the_nearest(self, tmp_path):
        with pytest.raises(UnknownName, match="Did you mean 'encoder'"):
            import_numpy(self.saved(tmp_path, np.ones((5, 16))), backbone_name="t5", kind="encodr")

    @pytest.mark.parametrize(("task", "norm"), [("mrpc", 868), ("rte", 903), ("sst2", 1385)])
    def test_the_published_prompts_have_their_known_norms(self, task, norm):
        if not (root := os.environ.get("SOFTPROMPT_DATA_ROOT")):
            pytest.skip("SOFTPROMPT_DATA_ROOT is not set")
        path = Path(root).parent / "models" / "prompts" / "t5_1_1_lm100k_base" / f"{task}.npy"
        if not path.exists():
            pytest.skip("the published prompts are not there")
        prompt = import_numpy(path, backbone_name="google/t5-base-lm-adapt")
        assert prompt.vectors.shape == (100, 768)
        assert prompt.vectors.norm(dim=1).mean().item() == pytest.approx(norm, abs=0.5)
