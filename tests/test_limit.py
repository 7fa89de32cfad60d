"""Prompts of T5s compiled to their limit of a large norm: the formula, its error, and stock libraries that read it."""

import dataclasses
import itertools
import json
import re

import pytest
import torch
from softprompt.backbones import from_model, load_backbone
from softprompt.cli._main import main
from softprompt.errors import BadInput, CannotExport, DamagedFile
from softprompt.export import PromptLimit, export_limit, limit_error, limit_of
from softprompt.inference.asked import worded_for
from softprompt.interop.attach import attach
from softprompt.prompts.prompt import Provenance, SoftPrompt
from softprompt.store import save_prompt
from softprompt.tasks import task

TEXTS = ["a text", "another, longer text"]


def prompt_for(backbone, norm, *, m=1, seed=0, **fields) -> SoftPrompt:
    """A prompt of random directions, every vector of this norm."""
    vectors = torch.randn(m, backbone.embedding_size, generator=torch.Generator().manual_seed(seed))
    provenance = Provenance("ept-star", backbone.identity(), backbone.answers, fields.pop("task", None))
    return SoftPrompt(vectors / vectors.norm(dim=1, keepdim=True) * norm, provenance, **fields)


@pytest.fixture(scope="module")
def lab(lab_t5):
    """The built-in model and a task of its world, as a stored prompt records it."""
    return lab_t5, worded_for(task("lab/opinion"), lab_t5.kind).to_json()


@pytest.fixture
def double(tiny_t5, exact_norms):
    """A tiny T5 in float64 with exact norms, where the limit is all that is left of the error."""
    return from_model(*tiny_t5(dtype=torch.float64), engine="reference")


def logits(backbone, prompt, ids, mask, read):
    """Of the prompt itself, and of its limit."""
    whole = attach(prompt, backbone.model)(input_ids=ids, attention_mask=mask, decoder_input_ids=read).logits
    inputs = limit_of(prompt, model=backbone).inputs(ids, mask, backbone.model)
    return whole, backbone.model(**inputs, decoder_input_ids=read).logits


class TestFormula:
    @pytest.mark.parametrize(("m", "repeats"), [(1, 10), (3, 1), (2, 3)])
    def test_a_prompt_of_endless_norm_has_the_logits_of_its_limit(self, double, m, repeats):
        prompt = prompt_for(double, 1e9, m=m, repeats=repeats)
        ids, mask = torch.tensor([[5, 6, 7, 8, 9, 1], [7, 5, 1, 0, 0, 0]]), torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
        expected, found = logits(double, prompt, ids, mask, torch.tensor([[0, 4, 5], [0, 9, 1]]))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        # Without the prompt the logits are others by far.
        bare = double.model(input_ids=ids, attention_mask=mask, decoder_input_ids=torch.tensor([[0, 4, 5], [0, 9, 1]]))
        assert float((bare.logits - expected).abs().max()) > 1e-2

    def test_the_error_falls_as_one_over_the_norm(self, double):
        ids, mask, read = torch.tensor([[5, 6, 7, 8, 1]]), torch.ones(1, 5, dtype=torch.long), torch.tensor([[0, 4]])
        errors = []
        for norm in (1e3, 1e4, 1e5):
            expected, found = logits(double, prompt_for(double, norm, repeats=10), ids, mask, read)
            errors.append(float((found - expected).abs().max()))
        assert [a / b for a, b in itertools.pairwise(errors)] == pytest.approx([10, 10], rel=0.1)

    def test_copies_of_a_vector_are_one_key(self, double):
        one = limit_of(prompt_for(double, 1e3, repeats=10), model=double)
        assert one.keys[0].shape[1] == len(one.states) == 1
        assert limit_of(prompt_for(double, 1e3, m=2, repeats=3), model=double).keys[0].shape[1] == 2


def test_on_a_trained_model_growing_norms_come_closer_to_the_prompts_answers(lab):
    backbone, record = lab
    errors = []
    for norm in (1e4, 1e5, 1e6):
        prompt = prompt_for(backbone, norm, repeats=10, task=record)
        errors.append(limit_error(limit_of(prompt, model=backbone), prompt, backbone, texts_of(8)))
    assert errors[0].largest > 5 * errors[1].largest > 25 * errors[2].largest
    assert errors[2].largest < 0.01
    assert all(error.mean <= error.largest and error.rows == 8 for error in errors)


def texts_of(count):
    """Passages of the lab's world."""
    verdicts = ["dull", "great", "poor", "wonderful"]
    return [f"everybody finds the {thing} {verdicts[i % 4]} ." for i, thing in enumerate(["cake", "opera"] * count)][
        :count
    ]


def test_generate_takes_the_folder_with_beams_too(tiny_t5, save_tiny, tmp_path):
    backbone = load_backbone(str(save_tiny(tmp_path / "model", *tiny_t5())), engine="reference")
    prompt = prompt_for(backbone, 1e6, m=2, repeats=2)
    compiled = PromptLimit.load(export_limit(prompt, tmp_path / "c", model=backbone, calibration=TEXTS))
    encoded = compiled.encode(TEXTS, backbone.tokenizer)
    inputs = compiled.inputs(encoded.input_ids, encoded.attention_mask, backbone.model)
    for beams in (1, 3):
        options = {"num_beams": beams, "do_sample": False, "max_new_tokens": 20}
        expected = attach(prompt, backbone.model).generate(**encoded, **options)
        assert torch.equal(backbone.model.generate(**inputs, **options), expected)


class TestCommand:
    def test_a_prompt_of_the_lab_is_compiled_with_its_measured_error(self, lab, tmp_path, capsys):
        backbone, record = lab
        prompt = save_prompt(prompt_for(backbone, 1e6, repeats=10, task=record), tmp_path / "p")
        (tmp_path / "rows.txt").write_text("\n".join(texts_of(4)))
        arguments = ["compile", str(prompt), "--calibration", str(tmp_path / "rows.txt"), "--output"]
        assert main([*arguments, str(tmp_path / "c"), "--license", "mit"]) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / "c")
        measured = json.loads((tmp_path / "c" / "limit.json").read_text())["measured"]
        assert 0 < measured["largest_error"] < measured["tolerance"] == 0.01
        card, error = (tmp_path / "c" / "README.md").read_text(), measured["largest_error"]
        for said in ("the frozen `lab-t5`", "---\nlicense: mit\n", "- Task: lab/opinion", "- Method: ept-star",
                     f"On 4 rows no probability of a next token differs by more than {error:.2g}"):  # fmt: skip
            assert said in card, said
        assert main([*arguments, str(tmp_path / "d"), "--tolerance", "1e-9"]) == 2
        assert re.search(r"a probability differs by up to \S+, 1e-09 is allowed", capsys.readouterr().err)
        assert not (tmp_path / "d").exists()
        assert main(["predict", str(tmp_path / "c"), "a text"]) == 2
        assert "holds a compiled prompt, for stock transformers" in capsys.readouterr().err
        path = tmp_path / "c" / "limit.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(DamagedFile):
            PromptLimit.load(tmp_path / "c")

    def test_a_decoder_has_no_error_to_allow(self, tiny_gpt, tmp_path, capsys):
        backbone = from_model(*tiny_gpt())
        prompt = save_prompt(prompt_for(backbone, 1.0), tmp_path / "p")
        assert main(["compile", str(prompt), "--tolerance", "0.1", "--output", str(tmp_path / "c")]) == 2
        assert "leave --tolerance and --calibration out" in capsys.readouterr().err


class TestRefused:
    def test_a_prompt_of_small_norm(self, lab, tmp_path):
        backbone, record = lab
        with pytest.raises(CannotExport, match=r"on 4 rows a probability differs by up to \S+, 0\.01 is allowed"):
            export_limit(
                prompt_for(backbone, 1.0, repeats=10, task=record),
                tmp_path / "c",
                model=backbone,
                calibration=texts_of(4),
            )
        assert not (tmp_path / "c").exists()

    def test_another_family_a_deep_prompt_and_a_vector_without_a_direction(self, tiny_t5):
        bart = from_model(*tiny_t5("bart"), engine="reference")
        with pytest.raises(CannotExport, match="only prompts of T5 and mT5"):
            limit_of(prompt_for(bart, 1e4), model=bart)
        backbone = from_model(*tiny_t5(), engine="reference")
        prompt = prompt_for(backbone, 1e4)
        with pytest.raises(CannotExport, match="vectors for 2 layers"):
            limit_of(dataclasses.replace(prompt, deep=torch.ones(1, 1, 16)), model=backbone)
        with pytest.raises(CannotExport, match="only zeros"):
            limit_of(dataclasses.replace(prompt, vectors=torch.zeros(1, 16)), model=backbone)

    def test_texts_padded_on_the_left_and_no_rows_to_measure_on(self, tiny_t5, tmp_path):
        backbone = from_model(*tiny_t5(), engine="reference")
        prompt = prompt_for(backbone, 1e4)
        with pytest.raises(BadInput, match="pad them on the right"):
            limit_of(prompt, model=backbone).inputs(torch.tensor([[0, 5]]), torch.tensor([[0, 1]]), backbone.model)
        with pytest.raises(BadInput, match="give texts by `calibration`"):
            export_limit(prompt, tmp_path / "c", model=backbone)
        with pytest.raises(BadInput, match=r"holds no limit\.json"):
            PromptLimit.load(tmp_path)
