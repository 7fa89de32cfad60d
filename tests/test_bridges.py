"""Our prompts in other tools' hands: PEFT models, transformers' Trainer and pipelines, TRL."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from softprompt.backbones import from_model, scale_embeddings
from softprompt.errors import BadInput, ModelMismatch, NotTrainable, UnknownName, UnsupportedModel
from softprompt.inference.calibration import Calibration
from softprompt.inference.predict import predict
from softprompt.inference.scoring import Scoring
from softprompt.interop._trained_model import passes_of
from softprompt.interop.as_peft import as_peft
from softprompt.interop.peft import import_peft
from softprompt.interop.trainer import RegularizedLoss
from softprompt.prompts.batch import SPECIAL, PromptBatch, TextBatch
from softprompt.prompts.methods import METHODS
from softprompt.prompts.prompt import LinearHead, Provenance, SoftPrompt
from softprompt.prompts.reparam import REPARAMETERIZATIONS
from softprompt.regularizers import regularizers
from softprompt.tasks import Task
from softprompt.training._step import backward
from softprompt.training.objectives import Plain, Regularized, RegularizerContext, acting

from kit import review_task

TEXTS = ["the film was good", "a terrible movie, and not in paris", "it is very bad", "yes"]
ANSWERS = ["good", "bad", "bad", "good"]
PROMPTS = [name for name, method in METHODS.items() if method.m and not method.takes_sources]
# A rate at which the vectors move and no loss overflows.
SGD = 0.1
NO_DROPOUT = {
    "t5": {"dropout_rate": 0.0},
    "gpt2": dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    "bert": dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0),
}


def rows_of(tokenizer, model) -> Any:
    """Token rows of texts and answers, as a data collator of transformers takes them."""
    if model.config.is_encoder_decoder:
        return [
            {"input_ids": tokenizer(text).input_ids, "labels": tokenizer(answer).input_ids}
            for text, answer in zip(TEXTS, ANSWERS, strict=True)
        ]
    rows = []
    if tokenizer.mask_token:
        for text, answer in zip(TEXTS, ANSWERS, strict=True):
            ids, target = tokenizer(f"{text} [MASK]").input_ids, tokenizer.convert_tokens_to_ids(answer)
            rows.append({"input_ids": ids, "labels": [target if i == tokenizer.mask_token_id else -100 for i in ids]})
        return rows
    for text, answer in zip(TEXTS, ANSWERS, strict=True):
        ids, target = tokenizer(text).input_ids, tokenizer(" " + answer, add_special_tokens=False).input_ids
        rows.append({"input_ids": ids + target, "labels": [-100] * len(ids) + target})
    return rows


def trainer_of(model, tokenizer, folder, rows=None, **options) -> Any:
    """A Trainer of plain gradient descent, whose first batches are the rows in their order."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    arguments = {"max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "report_to": "none",
                 "max_grad_norm": 0.0, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True,
                 "train_sampling_strategy": "sequential", "lr_scheduler_type": "constant"}  # fmt: skip
    arguments |= options.pop("arguments", {})
    return Trainer(
        model=model,
        args=TrainingArguments(str(folder), **arguments),
        train_dataset=rows or rows_of(tokenizer, model),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        optimizers=(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], SGD), None),
        **options,
    )


def pipeline_of(task, **options) -> Any:
    """A pipeline of transformers on the CPU; its types know only models of its own."""
    from transformers import pipeline

    build: Any = pipeline
    return build(task, device="cpu", **options)


def encoder_of(model) -> Any:
    return model.prompt_encoder[model.active_adapter]


class TestAsPeft:
    @pytest.mark.parametrize(
        ("family", "method"), [*(("t5", method) for method in PROMPTS), ("gpt2", "residual"), ("bert", "ept-star")]
    )
    def test_every_method_trains_and_stock_peft_reloads_the_folded_vectors(self, tiny_model, tmp_path, family, method):
        from peft import PeftModel

        model, tokenizer = tiny_model(family)
        prompted = as_peft(model, method, seed=3)
        assert prompted.get_nb_trainable_parameters()[0] == METHODS[method].trainable(16)
        ids = torch.tensor([tokenizer(TEXTS[0]).input_ids])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs |= {"decoder_input_ids": ids} if family == "t5" else {}
        prompted.train()(**inputs).logits.square().mean().backward()
        trained = {name for name, p in prompted.named_parameters() if p.grad is not None and p.grad.any()}
        assert "trainable.initial" in " ".join(trained)
        prompted.save_pretrained(tmp_path / "adapter")
        stock = PeftModel.from_pretrained(tiny_model(family)[0], tmp_path / "adapter").eval()
        torch.testing.assert_close(stock(**inputs).logits, prompted.eval()(**inputs).logits, rtol=0, atol=1e-5)

    def test_the_methods_above_are_of_every_reparameterisation(self):
        assert {METHODS[name].reparameterization for name in PROMPTS} == set(REPARAMETERIZATIONS)

    def test_it_starts_as_our_own_training_does(self, tiny_t5):
        model, _ = tiny_t5()
        vectors = encoder_of(as_peft(model, "prompt-tuning", init="vocabulary", seed=1)).embedding.weight
        table = model.get_input_embeddings().weight
        distances = (vectors[:, None] - table).norm(dim=2)
        # Ten different words.
        assert len(set(distances.argmin(1).tolist())) == 10
        assert distances.amin(1).max() < 1e-3

    def test_it_starts_at_words_or_at_a_stored_prompt(self, tiny_gpt):
        model, tokenizer = tiny_gpt()
        ids = tokenizer(" good film", add_special_tokens=False).input_ids
        words = model.get_input_embeddings().weight[torch.tensor(ids)].detach().clone()
        begun = as_peft(model, "prompt-tuning", init="text: good film", tokenizer=tokenizer, options={"m": 2})
        torch.testing.assert_close(encoder_of(begun).embedding.weight, words)
        model, _ = tiny_gpt()
        stored = SoftPrompt(words, Provenance("imported", from_model(copy.deepcopy(model), tokenizer).identity()))
        # As long as the stored one, which has two vectors.
        again = as_peft(model, "prompt-tuning", init=stored)
        torch.testing.assert_close(encoder_of(again).embedding.weight, words)

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"method": "lora"}, "trains no prompt"),
            ({"method": "linear-probe"}, "trains no prompt"),
            ({"deep": True}, "enters the first layer only"),
            ({"regularizer": "ptp-rn"}, "belongs to the loss"),
            ({"method": "residual", "options": {"dropout": 0.1}}, "a draw of its dropout"),
            ({"method": "prompt-tuning", "init": "text:good"}, "give the tokenizer"),
            ({"method": "spot", "sources": "a"}, "'spot' begins from prompts of other tasks"),
        ],
    )
    def test_what_peft_cannot_hold_is_refused(self, tiny_gpt, options, match):
        with pytest.raises(BadInput, match=match):
            as_peft(tiny_gpt()[0], **options)

    def test_a_stored_prompt_of_another_model_or_of_several_layers_is_no_beginning(self, tiny_gpt):
        model, tokenizer = tiny_gpt()
        stored = SoftPrompt(
            torch.ones(2, 16), Provenance("imported", from_model(copy.deepcopy(model), tokenizer).identity())
        )
        with pytest.raises(ModelMismatch, match="with other word embeddings"):
            as_peft(tiny_gpt(seed=1)[0], "prompt-tuning", init=stored, options={"m": 2})
        with pytest.raises(BadInput, match="vectors for 3 layers, PEFT's prompt tuning for one"):
            as_peft(
                model, "prompt-tuning", init=dataclasses.replace(stored, deep=torch.ones(2, 2, 16)), options={"m": 2}
            )

    def test_a_stored_prompt_is_brought_to_the_models_scale(self, tiny_t5):
        model, tokenizer = tiny_t5()
        stored = SoftPrompt(
            torch.ones(2, 16), Provenance("imported", from_model(copy.deepcopy(model), tokenizer).identity())
        )
        scale_embeddings(model, 4.0)
        begun = as_peft(model, "prompt-tuning", init=stored, options={"m": 2})
        torch.testing.assert_close(encoder_of(begun).embedding.weight, torch.full((2, 16), 4.0))

    def test_one_prompt_fits_before_a_model(self, tiny_gpt, classifier):
        model, tokenizer = tiny_gpt()
        stored = SoftPrompt(
            torch.ones(2, 16), Provenance("imported", from_model(copy.deepcopy(model), tokenizer).identity())
        )
        encoder, _, _, of_encoder = classifier
        for prompt, attached in (
            (stored, stored.attach(model)),
            (of_encoder, of_encoder.attach(encoder, head=True)),
        ):
            for put in (prompt.attach, as_peft):
                with pytest.raises(BadInput, match="has a prompt already; give the model without it"):
                    put(attached)
        with pytest.raises(UnsupportedModel, match="only one prompt fits before a text: give the model without it"):
            as_peft(as_peft(model))

    @pytest.mark.parametrize("name", ["restarts", "max_shift", "lr", "seeds", "prompt_length", "optoins"])
    def test_a_setting_that_would_do_nothing_is_refused(self, tiny_gpt, name):
        settings: dict[str, Any] = {name: 1}
        with pytest.raises(UnknownName, match=f"setting of as_peft '{name}'"):
            as_peft(tiny_gpt()[0], **settings)

    def test_an_unknown_start_is_refused(self, tiny_gpt):
        with pytest.raises(UnknownName, match="initialiser 'instruction'"):
            as_peft(tiny_gpt()[0], init="instruction")

    def test_a_decoder_under_a_classification_head_is_refused(self, tiny_gpt):
        from transformers import GPT2ForSequenceClassification

        with pytest.raises(BadInput, match="reads the state of a pad"):
            as_peft(GPT2ForSequenceClassification(tiny_gpt()[0].config))

    def test_loaded_vectors_answer_but_train_no_further(self, tiny_gpt, tmp_path):
        first = as_peft(tiny_gpt()[0], "ept", seed=1)
        first.save_pretrained(tmp_path / "adapter")
        second = as_peft(tiny_gpt()[0], "ept", seed=2)
        second.load_adapter(str(tmp_path / "adapter"), "default")
        ids = torch.tensor([[5, 6, 7]])
        assert torch.equal(second.eval()(input_ids=ids).logits, first.eval()(input_ids=ids).logits)
        with pytest.raises(NotTrainable, match="without the network"):
            second.train()(input_ids=ids)


class TestTrainer:
    def test_trains_ept_star_and_stock_peft_reloads_it(self, tiny_t5, tmp_path):
        from peft import PeftModel

        model, tokenizer = tiny_t5()
        prompted = as_peft(model, "ept-star")
        start = encoder_of(prompted).embedding.weight.clone()
        trainer = trainer_of(prompted, tokenizer, tmp_path / "run", arguments={"max_steps": 3})
        trainer.train()
        trainer.save_model(str(tmp_path / "trained"))
        ids = torch.tensor([tokenizer(TEXTS[1]).input_ids])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": ids[:, :2].clone()}
        stock = PeftModel.from_pretrained(tiny_t5()[0], tmp_path / "trained").eval()
        assert not [m for m in stock.modules() if type(m).__module__.startswith("softprompt")]
        vectors = encoder_of(prompted).embedding.weight
        assert not torch.equal(vectors, start)
        assert torch.equal(stock.get_prompt(1)[0], vectors)
        assert torch.equal(import_peft(tmp_path / "trained").vectors, vectors)
        torch.testing.assert_close(stock(**inputs).logits, prompted.eval()(**inputs).logits, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("family", "regularizer"),
        [
            ("t5", "rn-emb:alpha=0.5"),
            ("t5", "vat+adv-text:rate=0.5,cosine=-1,share=0.5"),
            ("bert", "rn-emb"),
            ("gpt2", "adv-emb:delay=0.5"),
            ("gpt2", "rn-text:rate=0.5"),
        ],
    )
    def test_losses_and_vectors_are_those_of_our_own_loop(self, tiny_model, tmp_path, family, regularizer):
        # Without dropout, which our own training leaves off.
        model, tokenizer = tiny_model(family, **NO_DROPOUT[family])
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        backbone = from_model(copy.deepcopy(model), tokenizer)
        prompted = as_peft(model, "scaled", seed=5)
        ours = copy.deepcopy(encoder_of(prompted).trainable)
        words = ("good", "bad") if family == "t5" else (" good", " bad")
        loss = RegularizedLoss(regularizer, tokenizer, label_words=words, seed=7)
        trainer = trainer_of(prompted, tokenizer, tmp_path / "run", compute_loss_func=loss, callbacks=[loss.callback()])
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        task = review_task(tmp_path / "task")
        expected = own_losses(backbone, ours, batch_of(backbone, rows_of(tokenizer, model)), task, regularizer)
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(encoder_of(prompted).trainable.folded(), ours.folded(), rtol=1e-4, atol=1e-5)

    def test_passes_of_a_step_add_up_to_the_loss_of_the_whole_batch(self, tiny_t5, tmp_path):
        ends = []
        for number, passes in enumerate((1, 2)):
            model, tokenizer = tiny_t5(dropout_rate=0.0)
            prompted = as_peft(model, "scaled")
            loss = RegularizedLoss("rn-emb:sigma=1e-9", tokenizer)
            sizes = {"per_device_train_batch_size": 4 // passes, "gradient_accumulation_steps": passes}
            trainer_of(
                prompted, tokenizer, tmp_path / str(number), arguments=sizes,
                compute_loss_func=loss, callbacks=[loss.callback()],
            ).train()  # fmt: skip
            ends.append(encoder_of(prompted).trainable.folded())
        torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)

    def test_a_last_step_of_fewer_passes_weighs_them_as_trainer_does(self, tiny_t5, tmp_path):
        # Three batches in two steps an epoch.
        sizes = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "num_train_epochs": 2,
                 "max_steps": -1}  # fmt: skip
        logs = []
        for name in ("plain", "ours"):
            model, tokenizer = tiny_t5(dropout_rate=0.0)
            loss = RegularizedLoss("rn-emb:alpha=0,share=0.5,sigma=1e-9", tokenizer)
            options = {"compute_loss_func": loss, "callbacks": [loss.callback()]} if name == "ours" else {}
            trainer = trainer_of(
                as_peft(model, "scaled"), tokenizer, tmp_path / name, arguments=dict(sizes),
                rows=rows_of(tokenizer, model)[:3], **options,
            )  # fmt: skip
            # T5 does not count items, which the wrapper around it hides: Trainer would not divide at all.
            trainer.model_accepts_loss_kwargs = False
            trainer.train()
            logs.append([(e["loss"], e["grad_norm"]) for e in trainer.state.log_history if "loss" in e])
        assert len(logs[0]) == 4
        torch.testing.assert_close(torch.tensor(logs[1]), torch.tensor(logs[0]), rtol=1e-3, atol=1e-4)

    def test_passes_of_a_step_are_counted_where_the_batches_are_known(self):
        assert [passes_of(step, 4, range(10)) for step in range(5)] == [4, 4, 2, 4, 4]
        assert [passes_of(step, 4, range(8)) for step in range(3)] == [4, 4, 4]
        assert passes_of(9, 4, iter(range(3))) == 4

    def test_a_lone_label_word_is_one_word(self, tiny_t5):
        tokenizer = tiny_t5()[1]
        assert RegularizedLoss("rn-text", tokenizer, label_words="yes").label_words == [
            tokenizer("yes", add_special_tokens=False).input_ids
        ]

    @pytest.mark.parametrize("drawn", [True, False])
    def test_the_perturbed_pass_has_the_dropout_of_the_clean_one_but_for_r_drop(self, tiny_t5, tmp_path, drawn):
        model, tokenizer = tiny_t5(dropout_rate=0.3)
        # With noise of size 0 the two passes are one pass twice, if their dropout is the same.
        loss = RegularizedLoss("r-drop:alpha=1" if drawn else "rn-emb:sigma=1e-12,alpha=1,share=0", tokenizer)
        divergences = []
        judged = loss._regularized

        def watched(task, clean, targets):
            whole = judged(task, clean, targets)
            divergences.append(float((whole - task).detach()))
            return whole

        loss._regularized = watched
        trainer_of(
            as_peft(model, "scaled"), tokenizer, tmp_path, arguments={"max_steps": 1},
            compute_loss_func=loss, callbacks=[loss.callback()],
        ).train()  # fmt: skip
        assert (abs(divergences[0]) > 1e-3) == drawn

    def test_evaluation_gives_the_task_loss_alone(self, tiny_t5, tmp_path):
        model, tokenizer = tiny_t5()
        loss = RegularizedLoss("rn-emb:alpha=9", tokenizer)
        trainer = trainer_of(
            as_peft(model, "scaled"), tokenizer, tmp_path, compute_loss_func=loss, callbacks=[loss.callback()]
        )
        # Without a training before: it may be a base line.
        rows = trainer.data_collator(rows_of(tokenizer, model))
        expected = trainer.model.eval()(**rows).logits.log_softmax(-1)
        expected = -expected.gather(2, rows["labels"].clamp(min=0)[:, :, None])[:, :, 0]
        present = rows["labels"] != -100
        expected = ((expected * present).sum(1) / present.sum(1)).mean()
        found = trainer.evaluate(trainer.train_dataset)["eval_loss"]
        assert found == pytest.approx(float(expected), abs=1e-4)

    @pytest.mark.parametrize(
        ("regularizer", "match"),
        [
            ("", "no regulariser to add"),
            ("rn-emb:over=labels", "over=labels"),
            ("rn-emb:where=prompt", "where=prompt"),
            ("rn-emb:template=false", "template=false"),
            ("rn-text:column=2", "column=2"),
            ("freelb", "runs backward after every step"),
        ],
    )
    def test_what_its_rows_cannot_serve_is_refused(self, tiny_t5, regularizer, match):
        with pytest.raises(BadInput, match=match):
            RegularizedLoss(regularizer, tiny_t5()[1])

    def test_a_missing_callback_collator_or_label_is_one_line(self, tiny_t5, tmp_path):
        from transformers import DataCollatorWithPadding

        model, tokenizer = tiny_t5()
        prompted = as_peft(model, "scaled")
        loss = RegularizedLoss("rn-emb", tokenizer)
        with pytest.raises(BadInput, match="needs its callback"):
            trainer_of(prompted, tokenizer, tmp_path / "a", compute_loss_func=loss).train()
        options = {"compute_loss_func": loss, "callbacks": [loss.callback()]}
        trainer = trainer_of(prompted, tokenizer, tmp_path / "b", **options)
        trainer.data_collator = DataCollatorWithPadding(tokenizer)
        trainer.train_dataset = [{"input_ids": [5, 6], "labels": [7]}] * 4
        with pytest.raises(BadInput, match="DataCollatorForSeq2Seq"):
            trainer.train()
        rows = [{"input_ids": [5, 6], "labels": [-100]}] * 4
        with pytest.raises(BadInput, match="a row has none"):
            trainer_of(prompted, tokenizer, tmp_path / "c", rows=rows, **options).train()


def own_losses(backbone, trainable, batch, task, regularizer, *, seed=7, steps=2):
    """The losses of our own loop over the same batch: plain gradient descent at the same rate."""
    context = RegularizerContext.of(backbone, task)
    optimizer = torch.optim.SGD(trainable.parameters(), SGD)
    losses = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        terms = acting([regularizers(regularizer)], [seed], step, steps, 0)
        result = backward(backbone, [trainable], batch, [0], Regularized(Plain(), terms, context))
        losses.append(float(result.losses + result.divergences))
        optimizer.step()
    return losses


def batch_of(backbone, rows):
    """The rows as our own training reads them: a decoder's answer apart from its text."""
    from torch.nn.utils.rnn import pad_sequence

    def padded(values, fill):
        return pad_sequence([torch.tensor(value) for value in values], batch_first=True, padding_value=fill)

    decoder = backbone.kind == "decoder"
    texts = [[t for t, label in zip(row["input_ids"], row["labels"], strict=False) if label == -100] for row in rows]
    texts = texts if decoder else [row["input_ids"] for row in rows]
    answers = [[label for label in row["labels"] if label != -100] for row in rows]
    ids, mask = padded(texts, 0), padded([[1] * len(text) for text in texts], 0).bool()
    special = torch.isin(ids, torch.tensor(backbone.tokenizer.all_special_ids))
    parts = torch.where(special, SPECIAL, 1)
    return TextBatch(ids, mask, torch.zeros(len(ids), dtype=torch.long), padded(answers, -100), parts)


@pytest.fixture(scope="module")
def classifier(tiny_bert):
    """An encoder with its tokenizer, our backbone of it, and a prompt with a linear head."""
    model, tokenizer = tiny_bert()
    backbone = from_model(copy.deepcopy(model), tokenizer, answers="linear-head")
    draw = torch.Generator().manual_seed(0)
    head = LinearHead(torch.randn(3, 16, generator=draw), torch.randn(3, generator=draw))
    provenance = Provenance("imported", backbone.identity(), "linear-head", {"labels": ["a", "b", "c"]})
    return model, tokenizer, backbone, SoftPrompt(torch.randn(4, 16, generator=draw), provenance, head=head)


class TestPipelines:
    def test_text_classification_answers_by_the_prompts_head(self, classifier):
        model, tokenizer, backbone, prompt = classifier
        attached = prompt.attach(model, head=True)
        classify = pipeline_of("text-classification", model=attached, tokenizer=tokenizer)
        found = classify(TEXTS, batch_size=3, top_k=None)
        rows = tokenizer(TEXTS, padding=True, return_tensors="pt")
        owner = torch.zeros(len(TEXTS), dtype=torch.long)
        batch = TextBatch(rows.input_ids, rows.attention_mask.bool(), owner)
        expected = backbone.label_scores(PromptBatch.of(prompt), batch, [[0], [1], [2]]).exp()
        for answers, row in zip(found, expected, strict=True):
            scores = {answer["label"]: answer["score"] for answer in answers}
            assert [scores[label] for label in "abc"] == pytest.approx(row.tolist(), abs=1e-5)

    def test_text_classification_is_calibrated_as_predict_is(self, classifier):
        model, tokenizer, backbone, prompt = classifier
        values = {"name": "t", "source": {"files": {"train": "x.csv"}}, "template": "{text} film"}
        task = Task.from_json({**values, "metrics": ["accuracy"], "labels": ["a", "b", "c"]})
        # A bias that changes answers.
        scoring = Scoring(calibration=Calibration(2.0, (3.0, -6.0, 3.0), ("a", "b", "c"))).to_json()
        provenance = dataclasses.replace(prompt.provenance, task=task.to_json(), scoring=scoring)
        prompt = dataclasses.replace(prompt, provenance=provenance)
        classify = pipeline_of("text-classification", model=prompt.attach(model, head=True), tokenizer=tokenizer)
        found = classify([task.render({"text": text}).text for text in TEXTS], top_k=None)
        expected, plain = (predict(prompt, TEXTS, model=backbone, calibrate=on) for on in (True, False))
        for answers, answer in zip(found, expected, strict=True):
            scores = {one["label"]: one["score"] for one in answers}
            assert scores == pytest.approx(answer["scores"], abs=1e-5)
        assert [answer["label"] for answer in expected] != [answer["label"] for answer in plain]

    def test_a_label_gives_the_loss_and_a_tuple_comes_on_demand(self, classifier):
        model, _, _, prompt = classifier
        attached = prompt.attach(model, head=True)
        ids, labels = torch.tensor([[5, 6, 7], [8, 9, 5]]), torch.tensor([0, 2])
        output = attached(input_ids=ids, labels=labels)
        expected = torch.nn.functional.cross_entropy(output.logits, labels)
        torch.testing.assert_close(output.loss, expected)
        assert torch.equal(attached(input_ids=ids, return_dict=False)[0], output.logits)

    def test_a_head_is_callable_on_pooled_states(self, classifier):
        head, states = classifier[3].head, torch.randn(2, 5, 16)
        torch.testing.assert_close(head(states), states @ head.weight.T + head.bias)
        assert head(states.double()).dtype == torch.float32

    def test_a_head_that_is_not_there_is_refused(self, tiny_gpt):
        model, tokenizer = tiny_gpt()
        identity = from_model(copy.deepcopy(model), tokenizer).identity()
        with pytest.raises(BadInput, match="has no linear head"):
            SoftPrompt(torch.ones(1, 16), Provenance("imported", identity)).attach(model, head=True)

    def test_text_generation_goes_on_behind_prompt_and_text(self, tiny_gpt):
        model, tokenizer = tiny_gpt("llama")
        tokenizer.pad_token = tokenizer.eos_token
        backbone = from_model(copy.deepcopy(model), tokenizer)
        prompt = SoftPrompt(torch.randn(3, 16), Provenance("imported", backbone.identity()))
        write = pipeline_of("text-generation", model=prompt.attach(model), tokenizer=tokenizer)
        found = write(TEXTS, batch_size=2, max_new_tokens=4, do_sample=False, return_full_text=False)
        for text, answers in zip(TEXTS, found, strict=True):
            ids = torch.tensor([tokenizer(text).input_ids])
            batch = TextBatch(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros(1, dtype=torch.long))
            expected = backbone.generate(PromptBatch.of(prompt), batch, max_new_tokens=4)
            assert answers[0]["generated_text"].strip() == expected[0]


def test_trl_trains_a_prompt_that_stock_peft_reloads(tiny_gpt, tmp_path):
    pytest.importorskip("trl", reason="needs trl")
    from datasets import Dataset
    from peft import PeftModel
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    model, tokenizer = tiny_gpt("llama")
    tokenizer.pad_token = tokenizer.eos_token
    prompted = as_peft(model, "ept-star")
    start = encoder_of(prompted).embedding.weight.clone()
    rows = Dataset.from_list([{"prompt": t, "completion": f" {a}"} for t, a in zip(TEXTS, ANSWERS, strict=True)])
    build: Any = SFTConfig
    arguments = build(
        str(tmp_path / "run"), max_steps=2, learning_rate=0.3, report_to="none", use_cpu=True, bf16=False,
        disable_tqdm=True, save_strategy="no", gradient_checkpointing=None,
    )  # fmt: skip
    trainer = SFTTrainer(prompted, args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    trainer.save_model(str(tmp_path / "trained"))
    stock = PeftModel.from_pretrained(tiny_gpt("llama")[0], tmp_path / "trained")
    vectors = encoder_of(prompted).embedding.weight
    assert not torch.equal(vectors, start)
    assert torch.equal(stock.get_prompt(1)[0], vectors)
