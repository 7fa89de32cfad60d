"""PEFT folders: read back, from elsewhere, damaged, and what they cannot hold."""

import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from softprompt.errors import BadInput, CannotExport, DamagedFile, ModelMismatch
from softprompt.interop.importing import import_stored
from softprompt.interop.peft import export_peft, import_peft

from interop_kit import a_prompt, tiny_models
from kit import equal


class TestPeftAndBack:
    @pytest.mark.parametrize("name", ["t5", "head", "words", "decoder", "unknown"])
    def test_an_export_comes_back_bit_for_bit(self, stock, name):
        assert equal(import_peft(stock.root / "exports" / name), stock.prompts[name])

    def test_the_unused_half_of_a_default_peft_file_is_dropped_and_said(self, stock, caplog):
        stored = load_file(stock.root / "made" / "prompt-tuning" / "adapter_model.safetensors")["prompt_embeddings"]
        assert stored.shape == (8, 16)
        prompt = import_peft(stock.root / "made" / "prompt-tuning")
        assert torch.equal(prompt.vectors, stock.found["prompt-tuning rows"])
        assert prompt.provenance.training == {"imported_from": "PEFT PROMPT_TUNING", "dropped_rows": 4}
        assert "stores 8 rows; PEFT reads the first 4" in caplog.text

    def test_p_tuning_files_hold_the_final_rows(self, stock):
        prompt = import_peft(stock.root / "made" / "p-tuning")
        assert torch.equal(prompt.vectors, stock.found["p-tuning rows"])
        backbone = prompt.provenance.backbone
        assert (backbone.kind, backbone.embedding_size, backbone.embedding_sha256) == ("encoder", 16, None)
        assert (prompt.provenance.method, prompt.provenance.answers) == ("imported", "label-words")
        assert backbone.name == str(stock.root / "models" / "encoder")

    def test_another_method_of_peft_is_refused_by_name(self, stock):
        with pytest.raises(BadInput, match="is of type 'LORA'"):
            import_peft(stock.root / "made" / "lora")

    def test_a_task_type_with_a_classifier_of_its_own_is_refused(self, stock):
        with pytest.raises(BadInput, match="task type 'SEQ_CLS'"):
            import_peft(stock.root / "made" / "classes")

    def test_a_changed_export_is_refused(self, tmp_path):
        folder = export_peft(a_prompt(), tmp_path / "p")
        save_file({"prompt_embeddings": torch.ones(3, 16)}, folder / "adapter_model.safetensors")
        with pytest.raises(DamagedFile, match=r"adapter_model\.safetensors' is not what was written"):
            import_peft(folder)


class TestPeftFoldersThatCannotBeRead:
    def folder(self, path: Path, rows=None, **changes) -> Path:
        path = path / "foreign"
        path.mkdir()
        config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4, "token_dim": 16}
        (path / "adapter_config.json").write_text(json.dumps(config | changes))
        rows = torch.randn(4, 16) if rows is None else rows
        save_file({"prompt_embeddings": rows, "other": torch.ones(1)}, path / "adapter_model.safetensors")
        return path

    def test_the_plain_folder_is_read(self, tmp_path):
        assert import_peft(self.folder(tmp_path, torch.eye(4, 16))).vectors.equal(torch.eye(4, 16))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_other_precisions_become_float32(self, tmp_path, dtype):
        rows = torch.randn(4, 16).to(dtype)
        prompt = import_peft(self.folder(tmp_path, rows))
        assert torch.equal(prompt.vectors, rows.to(torch.float32))

    def test_a_pickle_is_refused_unread(self, tmp_path):
        folder = self.folder(tmp_path)
        (folder / "adapter_model.safetensors").unlink()
        (folder / "adapter_model.bin").write_bytes(pickle.dumps({"prompt_embeddings": [1.0]}))
        with pytest.raises(BadInput, match=r"only adapter_model\.bin, a pickle"):
            import_peft(folder)

    @pytest.mark.parametrize("peft_type", ["PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", None, ["PROMPT_TUNING"]])
    def test_types_that_are_more_than_rows(self, tmp_path, peft_type):
        with pytest.raises(BadInput, match="more than rows before the input"):
            import_peft(self.folder(tmp_path, peft_type=peft_type))

    @pytest.mark.parametrize("kind", [None, "decoder"])
    @pytest.mark.parametrize("task_type", ["TOKEN_CLS", "nonsense", ["CAUSAL_LM"]])
    def test_task_types_that_do_not_tell_the_kind(self, tmp_path, task_type, kind):
        # With a kind alone the head of such a model would be lost in silence.
        with pytest.raises(BadInput, match=r"whose head cannot be read here; give a folder of SEQ_2_SEQ_LM, FEAT"):
            import_peft(self.folder(tmp_path, task_type=task_type), kind=kind)

    def test_without_a_task_type_the_kind_is_given_or_that_of_a_model_that_is_here(self, tmp_path):
        folder = self.folder(tmp_path, torch.eye(4, 16), task_type=None)
        with pytest.raises(BadInput, match=r"names no task type and no model that is here.*; give `kind`: "):
            import_stored(folder)
        found = import_stored(folder, kind="encoder")
        assert (found.provenance.backbone.kind, found.provenance.answers) == ("encoder", "label-words")
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "lab-gpt"}))
        assert import_stored(folder).provenance.backbone.kind == "decoder"
        with pytest.raises(BadInput, match=r"is of 'lab-gpt' \(decoder\), as it says itself; leave"):
            import_stored(folder, kind="encoder")

    def test_a_folder_that_names_no_model_takes_the_given_one(self, tmp_path):
        found = import_stored(self.folder(tmp_path, torch.eye(4, 16), task_type=None), model="lab-gpt")
        assert (found.provenance.backbone.name, found.provenance.backbone.kind) == ("lab-gpt", "decoder")

    @pytest.mark.parametrize(("rows", "n"), [(8, 4), (3, 4), (4, None), (4, "4"), (4, 0)])
    def test_rows_that_contradict_the_configuration(self, tmp_path, rows, n):
        with pytest.raises(BadInput, match="virtual tokens and stores"):
            import_peft(self.folder(tmp_path, torch.ones(rows, 16), num_virtual_tokens=n))

    def test_a_width_that_contradicts_the_configuration(self, tmp_path):
        with pytest.raises(BadInput, match="says width 32 and stores 16"):
            import_peft(self.folder(tmp_path, token_dim=32))

    def test_numbers_that_are_not_finite(self, tmp_path):
        with pytest.raises(BadInput, match="NaN or infinity"):
            import_peft(self.folder(tmp_path, torch.full((4, 16), float("nan"))))

    @pytest.mark.parametrize("rows", [torch.ones(4, 16, dtype=torch.int8), torch.ones(64), torch.ones(0, 16)])
    def test_tensors_that_are_no_rows(self, tmp_path, rows):
        with pytest.raises(BadInput, match="needs 'prompt_embeddings'"):
            import_peft(self.folder(tmp_path, rows))

    def test_a_folder_that_is_not_pefts(self, tmp_path):
        with pytest.raises(BadInput, match=r"holds no adapter_config\.json"):
            import_peft(tmp_path)


class TestPromptsThatPeftCannotHold:
    def refused(self, tmp_path, prompt, match, **options):
        with pytest.raises(CannotExport, match=match):
            export_peft(prompt, tmp_path / "p", **options)
        assert not (tmp_path / "p").exists()

    def test_a_head_without_a_prompt(self, tmp_path):
        self.refused(tmp_path, a_prompt("encoder", "linear-head", m=0), "a head without a prompt")

    def test_an_unknown_kind_of_backbone(self, tmp_path):
        self.refused(tmp_path, a_prompt("diffusion"), "kind 'diffusion'")

    @pytest.mark.parametrize(
        ("kind", "answers"), [("decoder", "linear-head"), ("encoder", "tokens"), ("decoder", "words")]
    )
    def test_an_answer_that_no_stock_model_gives(self, tmp_path, kind, answers):
        self.refused(tmp_path, a_prompt(kind, answers), f"kind '{kind}' answers by '{answers}'")

    def test_a_lost_head(self, tmp_path):
        prompt = dataclasses.replace(a_prompt("encoder", "linear-head"), head=None)
        self.refused(tmp_path, prompt, "has a head exactly if")

    def test_a_model_of_another_width(self, tmp_path):
        with pytest.raises(ModelMismatch, match="this prompt is 8 wide, this model's embeddings 16"):
            export_peft(a_prompt("encoder", "label-words", e=8), tmp_path / "p", model=tiny_models()["encoder"])
