"""Stored weights: evaluated, predicting, resumed, exported to stock PEFT and imported from it."""

import json

import pytest
import torch
from softprompt.baselines import BASELINES, answering, count, load_peft
from softprompt.baselines.bitfit import missing_biases
from softprompt.cli import main
from softprompt.data import load_rows, split_rows
from softprompt.errors import BadInput, DamagedFile, ModelMismatch
from softprompt.inference.evaluate import evaluate
from softprompt.inference.predict import predict
from softprompt.interop.stored import load, save
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.prompts.prompt import SoftPrompt
from softprompt.prompts.tuned import TunedWeights
from softprompt.store import load_tuned, save_tuned
from softprompt.tasks import TASKS, with_difficulty
from softprompt.training import train
from transformers import T5Config, T5ForConditionalGeneration

from baselines_kit import KEPT, NO_BIASES, SETTINGS, digest, peft_model, plain_logits


class TestStored:
    @pytest.mark.parametrize("method", BASELINES)
    def test_its_folder_is_evaluated_and_predicts_as_it_was_trained(self, method, runs, backbone_of, task):
        run, family = runs[0][method], runs[1][method]
        backbone, tuned = backbone_of(family), load(run.folder)
        assert isinstance(tuned, TunedWeights)
        found = evaluate(tuned, model=backbone)
        assert found.metrics.items() <= run.results[0].metrics["test"].items()
        # As they are in the file: a template may put words around them.
        texts = [{"text": row["text"]} for row in split_rows(task, load_rows(task, None)).test]
        answers = [row["prediction"] for row in found.rows]
        assert [answer["label"] for answer in predict(tuned, texts, model=backbone)] == answers
        kept = sum(values.numel() for name, values in tuned.weights.items() if name in KEPT)
        assert run.results[0].stored == tuned.stored == count(method, backbone, tuned.options) + kept
        before = predict(SoftPrompt(tuned.vectors, tuned.provenance, head=tuned.head), texts, model=backbone)
        assert before != predict(tuned, texts, model=backbone)

    @pytest.mark.parametrize("method", ["lora", "ia3", "prefix-tuning", "cartridge"])
    def test_peft_reads_it_as_its_own_and_computes_the_same_bits(self, method, runs, backbone_of):
        from peft import PeftModel

        run, family = runs[0][method], runs[1][method]
        ours, theirs = backbone_of(family), backbone_of(family)
        peft = PeftModel.from_pretrained(theirs.model, str(run.folder / f"{method}-seed0" / "peft")).eval()
        ids = torch.arange(3, 15).view(2, 6)
        inputs = {"input_ids": ids, **({"decoder_input_ids": ids[:, :3]} if family == "t5" else {})}
        if method in ("prefix-tuning", "cartridge"):
            self.same_rows(run.tuned(), ours, peft)
            return
        with answering(run.tuned(), ours), torch.no_grad():
            logits = ours.model(**inputs).logits
        with torch.no_grad():
            assert torch.equal(logits, peft(**inputs).logits)
            assert not torch.equal(logits, backbone_of(family).model(**inputs).logits)

    def same_rows(self, tuned, backbone, peft):
        """Whether rows of two lengths get the logits and the generated answers that PEFT gives each of them alone."""
        ids = torch.arange(3, 15).view(2, 6)
        mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
        targets = torch.tensor([[5, 6, 7], [8, 9, -100]])
        batch = TextBatch(ids, mask, torch.zeros(2, dtype=torch.long), targets)
        nothing = PromptBatch.stack([torch.zeros(0, backbone.embedding_size)])
        with torch.no_grad():
            expected = plain_logits(backbone, batch, None, model=peft)
            with answering(tuned, backbone):
                logits = backbone.logits(nothing, batch)
                answers = backbone.answer_ids(nothing, batch, max_new_tokens=4, at_least=4)
                scores = backbone.label_scores(nothing, batch, [[5, 6, 7], [8, 9]])
        there = targets != -100
        torch.testing.assert_close(logits[there], expected[there], rtol=1e-4, atol=1e-5)
        chosen = logits[0].log_softmax(-1).gather(1, targets[:1].T).sum()
        torch.testing.assert_close(scores[0, 0], chosen, rtol=1e-4, atol=1e-5)
        given = {"input_ids": ids[:1], "attention_mask": torch.ones_like(ids[:1])}
        generated = peft.generate(**given, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        assert generated[0, -4:].tolist() == answers[0].tolist()

    @pytest.mark.parametrize("method", ["lora", "ia3", "prefix-tuning", "cartridge"])
    def test_a_folder_of_stock_peft_is_read_and_answers_as_peft_does(self, method, backbone_of, tmp_path):
        backbone = backbone_of("gpt2")
        stock = peft_model(backbone_of("gpt2"), 0, method)
        with torch.no_grad():
            for number, values in enumerate(v for v in stock.parameters() if v.requires_grad):
                values += torch.randn(values.shape, generator=torch.Generator().manual_seed(number))
        stock.save_pretrained(tmp_path / "stock")
        tuned = load_peft(tmp_path / "stock", backbone)
        ids = torch.arange(3, 15).view(2, 6)
        if method in ("prefix-tuning", "cartridge"):
            self.same_rows(tuned, backbone, stock.eval())
            return
        with answering(tuned, backbone), torch.no_grad():
            assert torch.equal(backbone.model(ids).logits, stock.eval()(ids).logits)
        assert load_tuned(save_tuned(tuned, tmp_path / "kept")).weights.keys() == tuned.weights.keys()

    @pytest.mark.parametrize(("method", "family"), [("lora", "bert"), ("ia3", "gpt2")])
    def test_our_own_folder_for_peft_answers_as_the_weights_beside_it(
        self, method, family, tiny_model, save_tiny, task, tmp_path
    ):
        model = save_tiny(tmp_path / "model", *tiny_model(family, head=family != "bert"))
        # A loss over labels, which decoders score without the end of sequence.
        settings = {**SETTINGS, "steps": 2, "loss": "labels" if family == "gpt2" else "tokens"}
        run = train(task, str(model), method=method, lr=0.05, output=tmp_path / "run", **settings)
        tuned, folder = run.tuned(), run.folder / f"{method}-seed0" / "peft"
        assert main(["import", str(folder), "--output", str(tmp_path / "kept")]) == 0
        found = load_tuned(tmp_path / "kept")
        assert (found.provenance.scoring, found.provenance.task) == (tuned.provenance.scoring, tuned.provenance.task)
        assert bool(found.provenance.scoring) == (family == "gpt2")
        texts = ["a good film", "a terrible movie", "it was very bad"]
        assert predict(found, texts) == predict(tuned, texts)
        (folder / "softprompt.json").write_text("{}")
        assert main(["import", str(folder), "--output", str(tmp_path / "other")]) == 2

    def test_what_stock_peft_trained_in_another_way_is_refused(self, backbone_of, tmp_path):
        from peft import LoraConfig, VeraConfig, get_peft_model

        for number, (config, error) in enumerate(
            [
                (LoraConfig(use_rslora=True), "use_rslora"),
                (LoraConfig(bias="all"), "biases"),
                (VeraConfig(), "VERA"),
                (LoraConfig(init_lora_weights="pissa"), "'pissa', which changes the weights of the model itself"),
            ]
        ):
            config.fan_in_fan_out = True
            get_peft_model(backbone_of("gpt2").model, config).save_pretrained(tmp_path / str(number))
            with pytest.raises(BadInput, match=error):
                load_peft(tmp_path / str(number), backbone_of("gpt2"))

    @pytest.mark.parametrize(("method", "other"), [("full", "distilbert"), ("bitfit", "opt"), ("lora", "mt5")])
    def test_another_model_is_refused(self, method, other, runs, backbone_of):
        with pytest.raises(ModelMismatch):
            evaluate(runs[0][method].tuned(), model=backbone_of(other, seed=1))

    def test_a_model_with_the_same_words_and_other_layers_is_refused(self, runs, backbone_of):
        backbone = backbone_of("bert", num_hidden_layers=3)
        with torch.no_grad():
            backbone.embeddings.weight.copy_(backbone_of("bert").embeddings.weight)
        with pytest.raises(ModelMismatch, match=r"on one side only"):
            evaluate(runs[0]["full"].tuned(), model=backbone)

    def test_a_flipped_bit_is_found(self, runs, tmp_path):
        from shutil import copytree

        folder = copytree(runs[0]["bitfit"].folder / "bitfit-seed0" / "weights", tmp_path / "weights")
        content = bytearray((folder / "weights.safetensors").read_bytes())
        content[-5] ^= 1
        (folder / "weights.safetensors").write_bytes(bytes(content))
        with pytest.raises(DamagedFile):
            load_tuned(folder)

    def test_a_run_of_a_prompt_and_weights_is_not_taken_for_one_of_them(self, backbone_of, task, tmp_path):
        backbone = backbone_of("t5")
        run = train(task, backbone, method=["ept", "lora"], output=tmp_path / "run", **SETTINGS)
        with pytest.raises(BadInput, match="several prompts: ept-seed0, lora-seed0; give one"):
            load(run.folder)
        for member, kind in (("lora-seed0", TunedWeights), ("ept-seed0", SoftPrompt)):
            assert isinstance(run.stored(member), kind)
            assert isinstance(load(save(run.stored(member), tmp_path / member)), kind)
        assert main(["show", str(run.folder)]) == 0

    def test_it_is_no_prompt_and_a_prompt_is_no_weights(self, runs, tmp_path):
        run = runs[0]["full"]
        for take in (lambda: run.prompt(), lambda: SoftPrompt.load(run.folder)):
            with pytest.raises(BadInput, match=r"trained weights, not a prompt; softprompt\.load reads"):
                take()
        with pytest.raises(BadInput, match="no trained weights"):
            load_tuned(tmp_path)


class TestAddedBiases:
    def test_a_t5_base_has_as_many_as_table_4_of_the_ept_paper_says(self):
        config = T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12, vocab_size=32128)
        with torch.device("meta"):
            model = T5ForConditionalGeneration(config)
        assert sum(width for _, _, width in missing_biases(model)) == 282_496

    def test_a_model_with_some_biases_trains_them_and_gets_those_that_it_lacks(self, backbone_of):
        backbone = backbone_of("gpt2")
        own, whole = (count("bitfit", backbone, {"add_missing": add}) for add in (False, True))
        # The layer before the vocabulary alone has none.
        assert whole - own == backbone.model.lm_head.out_features

    @pytest.mark.parametrize("family", NO_BIASES)
    def test_the_model_is_as_before_and_what_is_stored_answers_as_it_did(self, family, backbone_of, task, tmp_path):
        backbone = backbone_of(family)
        before = digest(backbone.model)
        options = {"options": {"add_missing": True}, "lr": 0.05}
        run = train(task, backbone, method="bitfit", output=tmp_path / "run", **options, **SETTINGS)
        assert digest(backbone.model) == before
        assert all(values.any() for values in run.tuned().weights.values())
        found = evaluate(load(run.folder), model=backbone_of(family))
        assert found.metrics.items() <= run.results[0].metrics["test"].items()
        assert digest(backbone.model) == before


def test_the_command_line_trains_evaluates_and_predicts(tmp_path, capsys):
    task = with_difficulty(TASKS["lab/opinion"], train=64, validation=16, test=16)
    run = str(tmp_path / "run")
    row = next(iter(load_rows(task, None)["test"]))
    train_it = ["train", "--task", "lab/opinion", "--model", "lab-t5-small", "--method", "full", "--steps", "4"]
    short = ["--eval-every", "4", "--eval-rows", "16", "--quiet", "--output", run]
    for option in ("train=64", "validation=16", "test=16"):
        short += ["--task-option", option]
    assert main([*train_it, *short]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--json"]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["metrics"]["score"] <= 1
    assert main(["predict", run, row[task.columns[0]], "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in task.labels
    assert main(["export", run, "--format", "peft", "--output", str(tmp_path / "out")]) == 2
    assert "holds trained weights, not a prompt" in capsys.readouterr().err


def test_the_command_line_imports_weights_of_stock_peft(tiny_gpt, save_tiny, backbone_of, tmp_path, capsys):
    model, tokenizer = tiny_gpt("gpt2")
    folder = save_tiny(tmp_path / "model", model, tokenizer)
    stock = peft_model(backbone_of("gpt2"), 0, "ia3")
    stock.save_pretrained(tmp_path / "stock")
    assert main(["import", str(tmp_path / "stock"), "--output", str(tmp_path / "kept")]) == 2
    assert "name it with --model" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "stock"), "--model", str(folder), "--output", str(tmp_path / "kept")]) == 0
    tuned = load_tuned(tmp_path / "kept")
    assert tuned.kind == "ia3"
    assert tuned.provenance.training == {"imported_from": "PEFT IA3"}
    assert main(["import", str(tmp_path / "stock"), "--model", str(folder), "--output", str(tmp_path / "kept")]) == 2
