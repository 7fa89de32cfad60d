"""A packed file of prompts: the same prompts as in their folders, and nothing of a file that was changed."""

import json

import pytest
import torch
from softprompt import cli
from softprompt.backbones import from_model
from softprompt.errors import BadInput, DamagedFile
from softprompt.serving import BankFile, read_bank, write_bank
from softprompt.store import read_prompt, save_prompt, to_document

from serving_kit import bank_of, some_prompts


@pytest.fixture(scope="module")
def backbone(tiny_bert):
    return from_model(*tiny_bert("bert"), name="tiny-bert", answers="linear-head")


@pytest.fixture(scope="module")
def prompts(backbone):
    return some_prompts(backbone, 12)


def test_a_folder_is_packed_into_a_file_that_holds_the_same_prompts(backbone, prompts, tmp_path, capsys):
    for name, prompt in prompts.items():
        save_prompt(prompt, tmp_path / "prompts" / name)
    file = tmp_path / "all.bank"
    assert cli.main(["bank", str(tmp_path / "prompts"), "-o", str(file)]) == 0
    assert capsys.readouterr().out.strip() == str(file)
    packed = dict(read_bank(file))
    assert packed.keys() == prompts.keys()
    for name, prompt in packed.items():
        folder = read_prompt(tmp_path / "prompts" / name)
        assert json.dumps(to_document(prompt)) == json.dumps(to_document(folder))
        assert all(
            torch.equal(ours, theirs)
            for ours, theirs in zip(prompt.tensors().values(), folder.tensors().values(), strict=True)
        )
    assert cli.main(["bank", str(tmp_path / "prompts"), "-o", str(file)]) == 2
    (tmp_path / "prompts" / "p0" / "prompt.json").unlink()
    assert cli.main(["bank", str(tmp_path / "prompts"), "-o", str(tmp_path / "other.bank")]) == 2
    assert not (tmp_path / "other.bank").exists()


def test_prompts_come_and_go_with_the_file(backbone, prompts, tmp_path):
    bank, path = bank_of(backbone, {}), tmp_path / "some.bank"
    write_bank(path, list(prompts.items())[:3])
    file = BankFile(path, bank)
    assert file.read() == []
    assert list(bank.prompts) == ["p0", "p1", "p2"]
    same = bank.get("p0")
    assert file.read() == []
    assert bank.get("p0") is same
    write_bank(tmp_path / "new.bank", list(prompts.items())[2:4]).replace(path)
    file.read()
    assert list(bank.prompts) == ["p2", "p3"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedFile):
        file.read()
    assert list(bank.prompts) == ["p2", "p3"]


def test_a_changed_byte_is_found_wherever_it_is(prompts, tmp_path):
    content = write_bank(tmp_path / "whole", prompts.items()).read_bytes()
    for place in range(0, len(content), len(content) // 40):
        (tmp_path / "changed").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises((DamagedFile, BadInput)):
            list(read_bank(tmp_path / "changed"))


def test_what_is_no_bank_is_refused(prompts, tmp_path):
    with pytest.raises(BadInput, match="no prompts to pack"):
        write_bank(tmp_path / "a", [])
    with pytest.raises(BadInput, match="two prompts are called 'a'"):
        write_bank(tmp_path / "a", [("a", prompts["p0"])] * 2)
    with pytest.raises(BadInput, match="no name of a prompt"):
        write_bank(tmp_path / "a", [("../a", prompts["p0"])])
    save_prompt(prompts["p0"], tmp_path / "prompt")
    with pytest.raises(BadInput, match="no bank of prompts"):
        list(read_bank(tmp_path / "prompt" / "prompt.safetensors"))
    with pytest.raises(BadInput, match="cannot read"):
        list(read_bank(tmp_path / "nothing"))
