"""Losses over labels: the numbers of a plain float64 reference, the end of sequence, weights, and what is refused."""

import contextlib
import dataclasses
import math
import re
from typing import Any

import pytest
import torch
from softprompt.backbones import DecoderBackbone, Reading, from_model, label_logits, label_logits_each, prefix_pair
from softprompt.backbones._labels import Reads
from softprompt.data import load_rows, split_rows
from softprompt.errors import BadInput
from softprompt.inference.decoding import label_ids
from softprompt.inference.rows import examples_for
from softprompt.inference.scoring_rule import auto_loss, scoring_for
from softprompt.prompts.batch import PromptBatch
from softprompt.prompts.initializers import uniform
from softprompt.prompts.trainable import TrainablePrompt
from softprompt.regularizers import regularizers, row_divergences
from softprompt.regularizers._divergences import DIVERGENCES
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.tasks import task as find_task
from softprompt.training._early import check_request
from softprompt.training._keywords import settings_from
from softprompt.training._loss_rule import refuse_loss, task_loss
from softprompt.training._step import backward
from softprompt.training.objectives import Plain, Regularized, RegularizerContext, TokenLoss, Weighted, acting
from softprompt.training.objectives._terms import Group, Term
from torch.nn import functional

from kit import review_task

LENGTH = 3
ROWS = (0, 1, 2, 3, 4)
# Of one token each without the end, of several, and of one, two and three tokens with a beginning in common.
WORDS = {"one": ("bad", "good"), "several": ("not good", "very bad film"), "mixed": ("yes", "not good", "not bad film")}
NINE = ("a", "the", "movie", "bad", "good", "great", "boring", "terrible", "wonderful")
LOSSES = ("labels", "both")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return review_task(tmp_path_factory.mktemp("reviews") / "data")


@pytest.fixture
def setting(tiny_model, task):
    """A float64 backbone, the task with other label words, and its training rows."""

    def build(family, words=("bad", "good"), dtype=torch.float64, **options):
        backbone = from_model(*tiny_model(family, dtype=dtype, **options))
        declared = dataclasses.replace(task, labels=words, label_values=())
        rows = split_rows(task, load_rows(task)).train
        examples = examples_for(backbone, task, rows, LENGTH)
        gold = [row % len(words) for row in range(len(examples))]
        return backbone, declared, dataclasses.replace(examples, gold=gold, labels=words)

    return build


def prompt_of(backbone, seed=0):
    settings = PromptSettings(options={"prompt_length": LENGTH}, seeds=Seeds.all(seed))
    return TrainablePrompt.build(settings, uniform(), backbone.word_vectors, None).double()


def batch_of(backbone, examples, rows=ROWS, owner=0):
    return examples.batch(list(rows), owner, backbone.pad_id)


def loss_of(backbone, task, examples, **settings):
    return task_loss(TrainSettings(**settings), task, backbone, examples)


def token_log_probabilities(backbone, vectors, ids, label):
    """Of a label's tokens behind one row, by transformers' own pass over that row alone: nothing padded or shared."""
    text = backbone.embed(ids)
    before = torch.cat([vectors.to(text.dtype), text])[None]
    wanted = torch.tensor(label)
    if backbone.kind == "encoder-decoder":
        answered = backbone.model(inputs_embeds=before, labels=wanted[None]).logits[0]
    elif backbone.kind == "decoder":
        whole = torch.cat([before, backbone.embed(wanted[:-1])[None]], 1)
        answered = backbone.model(inputs_embeds=whole).logits[0, before.shape[1] - 1 :]
    else:
        place = LENGTH + int((ids == backbone.tokenizer.mask_token_id).nonzero()[-1])
        answered = backbone.model(inputs_embeds=before).logits[0, place : place + 1]
    return answered.log_softmax(-1).gather(1, wanted[:, None])[:, 0]


def reference_scores(backbone, prompt, examples, labels, rows=ROWS, normalize="sum"):
    """Label scores [b, c], each label of each row read apart."""
    vectors = prompt.vectors()
    combine = {"sum": torch.sum, "mean": torch.mean, "first": lambda found: found[0]}[normalize]
    return torch.stack(
        [
            torch.stack(
                [combine(token_log_probabilities(backbone, vectors, examples.inputs.row(r).long(), x)) for x in labels]
            )
            for r in rows
        ]
    )


def gradient_of(prompt, loss):
    prompt.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in prompt.parameters() if p.grad is not None]


def gradients(backbone, prompt, batch, objective, **options):
    prompt.zero_grad()
    result = backward(backbone, [prompt], batch, [0], objective, **options)
    return [p.grad.clone() for p in prompt.parameters() if p.grad is not None], result


def same(found, expected, rtol=1e-7, atol=1e-9):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("loss", ["labels", "both", "tokens"])
@pytest.mark.parametrize("weights", ["", "balanced"])
def test_an_answer_is_wrong_where_the_loss_chooses_another(loss, weights, setting):
    backbone, task, examples = setting("gpt2", WORDS["several"])
    found = loss_of(backbone, task, examples, loss=loss, class_weights=weights)
    batch, prompt_batch = batch_of(backbone, examples), PromptBatch.stack([prompt_of(backbone).vectors()])
    outputs = found.outputs(backbone, prompt_batch, batch)
    if loss == "tokens":
        rows = zip(outputs, batch.targets, strict=True)
        expected = [not logits.argmax(-1)[targets >= 0].equal(targets[targets >= 0]) for logits, targets in rows]
    else:
        expected = [int(scores[0].argmax()) != examples.gold[row] for scores, row in zip(outputs, ROWS, strict=True)]
        assert set(expected) == {True, False}
    assert found.wrong(outputs, batch).tolist() == expected
    # What adversarial swaps stop at.
    context = RegularizerContext.of(backbone, task, found)
    (one,) = regularizers("adv-text:cosine=-1,rate=1,stop_words=false")
    group = Group((Term(0, one, one.alpha, one.share, 7),))
    seen: Any = context.context(group, prompt_batch, batch, outputs, None, lambda anew: contextlib.nullcontext())
    swaps: Any = one.perturbation
    assert swaps._judged(seen, batch.ids)[1].tolist() == expected


CASES = [(f, w) for f in ("t5", "gpt2", "llama", "bart") for w in WORDS] + [("bert", "one")]


@pytest.mark.usefixtures("exact_norms")
@pytest.mark.parametrize(("family", "words"), CASES, ids=lambda value: value)
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_are_those_of_every_label_read_apart(loss, family, words, setting):
    backbone, task, examples = setting(family, WORDS[words])
    prompt, gold = prompt_of(backbone), torch.tensor([examples.gold[r] for r in ROWS])
    labels = label_ids(backbone, task, end=loss == "both")
    objective = Plain(loss_of(backbone, task, examples, loss=loss))
    scores = reference_scores(backbone, prompt, examples, labels)
    expected = functional.cross_entropy(scores, gold)
    if loss == "both":
        tokens = -scores[torch.arange(len(gold)), gold] / torch.tensor([len(label) for label in labels])[gold]
        expected = (expected + tokens.mean()) / 2
    wanted = gradient_of(prompt, expected)
    for parts in ((), ([0, 3], [4], [2, 1])):
        found, result = gradients(backbone, prompt, batch_of(backbone, examples), objective, parts=parts)
        torch.testing.assert_close(result.losses[0], expected.detach(), rtol=1e-6, atol=1e-7)
        # Llama's norm computes in float32, whatever the precision of the model is.
        same(found, wanted, **({"rtol": 1e-4, "atol": 1e-5} if family == "llama" else {}))


@pytest.mark.parametrize("normalize", ["mean", "first"])
def test_the_score_that_is_trained_is_the_one_that_is_evaluated(normalize, setting):
    backbone, task, examples = setting("gpt2", ("good film", "bad"))
    prompt, settings = prompt_of(backbone), TrainSettings(loss="labels", normalize=normalize)
    labels = label_ids(backbone, task, end=False)
    scores = reference_scores(backbone, prompt, examples, labels, normalize=normalize)
    expected = functional.cross_entropy(scores, torch.tensor([examples.gold[r] for r in ROWS]))
    wanted = gradient_of(prompt, expected)
    objective = Plain(task_loss(settings, task, backbone, examples))
    found, result = gradients(backbone, prompt, batch_of(backbone, examples), objective)
    torch.testing.assert_close(result.losses[0], expected.detach())
    same(found, wanted)
    assert scoring_for(settings, task, backbone).to_json() == {"version": 1, "end": False, "normalize": normalize}


@pytest.mark.usefixtures("exact_norms")
@pytest.mark.parametrize("words", WORDS)
def test_the_packed_engine_gives_the_gradients_of_the_reference(words, tiny_t5, setting):
    """In float32, which the packed engine is for."""
    found = {}
    _, task, examples = setting("t5", WORDS[words])
    for engine in ("packed", "reference"):
        backbone = from_model(*tiny_t5(), engine=engine)
        settings = PromptSettings(options={"prompt_length": LENGTH})
        prompt = TrainablePrompt.build(settings, uniform(), backbone.word_vectors, None)
        assert backbone.engine == engine
        for loss in LOSSES:
            objective = Plain(loss_of(backbone, task, examples, loss=loss))
            found[engine, loss], _ = gradients(backbone, prompt, batch_of(backbone, examples), objective)
    for loss in LOSSES:
        for a, b in zip(found["packed", loss], found["reference", loss], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


class TestHead:
    @pytest.mark.parametrize(
        ("family", "engine"),
        [
            *[(family, "reference") for family in ("gpt2", "bert", "t5", "gemma2")],
            *[("llama", "shared"), ("gpt2", "shared"), ("bert", "packed")],
        ],
    )
    def test_labels_of_one_token_take_a_few_logits_of_a_plain_head(self, family, engine, setting, monkeypatch):
        backbone, task, examples = setting(family, dtype=torch.float32)
        backbone.engine = engine
        labels, prompt_batch = label_ids(backbone, task, end=False), batch_of_prompt(prompt_of(backbone).float())
        batch, widths = batch_of(backbone, examples), []
        inner = functional.linear

        def linear(x, weight, bias=None):
            widths.append(len(weight))
            return inner(x, weight, bias)

        first = label_logits(backbone, prompt_batch, batch, labels)
        monkeypatch.setattr(torch.nn.functional, "linear", linear)
        found = label_logits(backbone, prompt_batch, batch, labels)
        assert widths[-1] == len(labels), "the head computed more than the labels' logits"
        expected = backbone.label_scores(prompt_batch, batch, labels).log_softmax(-1)
        for logits in (first, found):
            torch.testing.assert_close(logits.log_softmax(-1), expected)
        assert backbone.model.get_output_embeddings().forward.__func__ is torch.nn.Linear.forward

    @pytest.mark.parametrize(("family", "engine"), [("gpt2", "reference"), ("llama", "shared")])
    def test_the_head_of_a_bfloat16_decoder_is_a_plain_one(self, family, engine, setting, monkeypatch):
        backbone, task, examples = setting(family, dtype=torch.bfloat16)
        backbone.engine = engine
        labels, prompt = label_ids(backbone, task, end=False), prompt_of(backbone).float()
        batch, widths = batch_of(backbone, examples), []
        with torch.no_grad():
            label_logits(backbone, batch_of_prompt(prompt), batch, labels)
        head = backbone.model.get_output_embeddings()
        before, inner = head.forward, functional.linear

        def linear(x, weight, bias=None):
            widths.append((len(weight), x.dtype))
            return inner(x, weight, bias)

        monkeypatch.setattr(torch.nn.functional, "linear", linear)
        found = label_logits(backbone, batch_of_prompt(prompt), batch, labels).log_softmax(-1)
        monkeypatch.undo()
        assert widths[-1] == (len(labels), torch.bfloat16), "the head computed more than the labels' logits"
        assert found.dtype == torch.float32
        assert head.forward is before
        tokens = [label[0] for label in labels]
        row = dataclasses.replace(batch, targets=torch.tensor(tokens[:1]).expand(len(batch.ids), 1))
        expected = backbone.logits(batch_of_prompt(prompt), row)[:, 0, tokens].log_softmax(-1)
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)

    @pytest.mark.parametrize(("family", "engine"), [("llama", "shared"), ("gpt2", "reference"), ("bert", "packed")])
    def test_rows_of_several_tasks_take_the_logits_of_the_words_of_all_tasks(
        self, family, engine, setting, monkeypatch
    ):
        backbone, task, examples = setting(family, dtype=torch.float32)
        backbone.engine = engine
        tasks = [task, dataclasses.replace(task, labels=("yes", "bad", "no"), label_values=())]
        one_token = [Reading.of(label_ids(backbone, one, end=False)) for one in tasks]
        prompt_batch, batch = batch_of_prompt(prompt_of(backbone).float()), batch_of(backbone, examples)
        which, widths, inner = torch.tensor([0, 1, 1, 0, 1]), [], functional.linear

        def linear(x, weight, bias=None):
            widths.append(len(weight))
            return inner(x, weight, bias)

        label_logits_each(backbone, prompt_batch, batch, one_token, which)
        monkeypatch.setattr(torch.nn.functional, "linear", linear)
        found = label_logits_each(backbone, prompt_batch, batch, one_token, which)
        monkeypatch.undo()
        assert widths[-1] == 4, "the head computed more than the logits of four words"
        expected = backbone.label_scores_each(prompt_batch, batch, one_token, which)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours.log_softmax(-1), theirs.log_softmax(-1))
        # With an end, or with a task of longer words among them, everything is computed.
        longer = [one_token[0], Reading.of([[*label, label[0]] for label in one_token[1].labels])]
        if backbone.kind == "decoder":
            for ours, theirs in zip(
                label_logits_each(backbone, prompt_batch, batch, longer, which),
                backbone.label_scores_each(prompt_batch, batch, longer, which),
                strict=True,
            ):
                assert torch.equal(ours, theirs)

    def test_a_model_with_a_bias_behind_its_head_takes_all(self, setting):
        backbone, task, examples = setting("bart")
        # BART's own answers begin with <s>, and are two tokens: there the shorter way is never tried.
        labels = [row[1:2] for row in label_ids(backbone, task)]
        backbone.model.final_logits_bias.uniform_(0, 3)
        prompt_batch, batch = batch_of_prompt(prompt_of(backbone)), batch_of(backbone, examples)
        found = label_logits(backbone, prompt_batch, batch, labels).log_softmax(-1)
        torch.testing.assert_close(found, backbone.label_scores(prompt_batch, batch, labels).log_softmax(-1))
        assert backbone.heads_agree is False


def batch_of_prompt(prompt):
    return PromptBatch.stack([prompt.vectors()])


def test_inference_scores_are_those_of_the_pass_with_gradients(setting):
    for family in ("gpt2", "llama", "t5"):
        backbone, task, examples = setting(family, WORDS["mixed"])
        prompt_batch, batch = batch_of_prompt(prompt_of(backbone)), batch_of(backbone, examples)
        for end in (True, False):
            labels = label_ids(backbone, task, end=end)
            trained = backbone.label_scores(prompt_batch, batch, labels)
            with torch.no_grad():
                torch.testing.assert_close(backbone.label_scores(prompt_batch, batch, labels), trained.detach())
            assert trained.requires_grad


def test_a_model_that_cannot_go_on_from_a_cache_scores_alike(setting):
    backbone, task, examples = setting("gpt2", WORDS["mixed"])
    prompt_batch, batch = batch_of_prompt(prompt_of(backbone)), batch_of(backbone, examples)
    with torch.no_grad():
        found = []
        for continues in (True, False):
            assert isinstance(backbone, DecoderBackbone)
            backbone.continues = continues
            found.append(backbone.label_scores(prompt_batch, batch, label_ids(backbone, task)))
    torch.testing.assert_close(*found)


def test_labels_that_begin_alike_are_read_together():
    labels = [[5], [6], [7, 8, 9], [7, 8, 3], [7, 4], [2, 1]]
    reads = Reads.of(labels)
    assert set(reads.sequences) == {(7, 8), (2,)}
    read = [reads.sequences[place][: len(label) - 1] for place, label in zip(reads.places, labels, strict=True)]
    assert read == [tuple(label[:-1]) for label in labels]
    assert Reads.of([[1], [2]]).sequences == ((),)


class TestEndOfSequence:
    def test_it_belongs_to_labels_only_where_one_is_the_beginning_of_another(self, setting):
        backbone, task, _ = setting("gpt2")
        prefixes = dataclasses.replace(task, labels=("not", "not good"))
        assert prefix_pair([[3, 4], [9], [3, 4, 5]]) == ([3, 4], [3, 4, 5])
        assert prefix_pair([[3, 4], [3, 5]]) is None
        assert scoring_for(TrainSettings(loss="labels"), task, backbone).end is False
        assert scoring_for(TrainSettings(loss="labels"), prefixes, backbone).end is True
        assert scoring_for(TrainSettings(loss="both"), task, backbone).end is True
        assert scoring_for(TrainSettings(loss="tokens"), task, backbone).to_json() == {}

    def test_a_loss_that_nobody_chose_is_over_the_labels_of_a_decoder(self, setting):
        """Unless it writes its answers, or reads a row more often than a loss over tokens does."""
        backbone, task, _ = setting("gpt2", WORDS["mixed"])
        assert auto_loss(task, backbone, TrainSettings()) == "labels"
        assert auto_loss(task, backbone, TrainSettings(decode="generate")) == "tokens"
        many = dataclasses.replace(task, labels=tuple(f"{word} film" for word in NINE))
        assert auto_loss(many, backbone, TrainSettings()) == "tokens"
        number = dataclasses.replace(task, answer="number", labels=(), label_values=())
        assert auto_loss(number, backbone, TrainSettings()) == "tokens"
        for family in ("t5", "bert"):
            other, task, _ = setting(family)
            assert auto_loss(task, other, TrainSettings()) == "tokens"

    @pytest.mark.parametrize("family", ["gpt2", "t5", "llama"])
    def test_without_it_labels_are_their_words_alone(self, family, setting):
        backbone, task, _ = setting(family, WORDS["mixed"])
        words, ended = label_ids(backbone, task, end=False), label_ids(backbone, task)
        assert [[*row, backbone.ends[0]] for row in words] == ended

    def test_labels_that_would_always_tie_are_refused_without_it(self, setting):
        backbone, task, _ = setting("gpt2")
        with pytest.raises(BadInput, match=r"the label 'not' is the beginning of 'not good'.*\n?.*always win"):
            label_ids(backbone, dataclasses.replace(task, labels=("not good", "not")), end=False)

    def test_a_mask_and_a_linear_head_have_none(self, setting):
        backbone, task, examples = setting("bert")
        assert label_ids(backbone, task, end=False) == label_ids(backbone, task)
        backbone, task, examples = setting("bert", head=False)
        settings = TrainSettings(loss="labels")
        assert scoring_for(settings, task, backbone).to_json() == {}
        assert task_loss(settings, task, backbone, examples) == TokenLoss()


class TestWeightsAndSmoothing:
    def test_of_labels(self, setting):
        backbone, task, examples = setting("gpt2", WORDS["mixed"])
        prompt, gold = prompt_of(backbone), torch.tensor([examples.gold[r] for r in ROWS])
        weights = torch.tensor([1.0, 2.5, 0.5], dtype=torch.float64)
        loss = loss_of(backbone, task, examples, loss="labels", label_smoothing=0.2, class_weights="1,2.5,0.5")
        scores = reference_scores(backbone, prompt, examples, label_ids(backbone, task, end=False))
        p = scores.log_softmax(-1)
        rows = -0.8 * p[torch.arange(len(gold)), gold] - 0.2 * p.mean(-1)
        wanted = gradient_of(prompt, (weights[gold] * rows).mean())
        found, _ = gradients(backbone, prompt, batch_of(backbone, examples), Plain(loss))
        same(found, wanted)

    def test_of_tokens(self, setting):
        backbone, task, examples = setting("t5")
        batch, prompt = batch_of(backbone, examples), prompt_of(backbone)
        loss = loss_of(backbone, task, examples, label_smoothing=0.1)
        log_p = backbone.logits(batch_of_prompt(prompt), batch).log_softmax(-1)
        right = log_p.gather(2, batch.targets[:, :, None])[:, :, 0]
        wanted = gradient_of(prompt, (-0.9 * right - 0.1 * log_p.mean(-1)).mean())
        found, _ = gradients(backbone, prompt, batch, Plain(loss))
        same(found, wanted)

    def test_balanced_weights_make_each_class_count_alike(self, setting):
        backbone, task, examples = setting("gpt2", WORDS["mixed"])
        skewed = dataclasses.replace(examples, gold=[0] * 36 + [1] * 12)
        loss = loss_of(backbone, task, skewed, loss="tokens", class_weights="balanced")
        assert isinstance(loss, Weighted)
        assert loss.weights == (48 / (3 * 36), 48 / (3 * 12), 0.0)
        assert loss.loss == TokenLoss()


@pytest.mark.parametrize(
    "text", ["rn-emb:divergence=js", "adv-emb:alpha=0.5", "freelb", "vat", "rn-text:rate=0.5,divergence=kl"]
)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_regulariser_runs_on_a_loss_over_labels(loss, text, setting):
    backbone, task, examples = setting("gpt2", WORDS["several"])
    prompt, batch = prompt_of(backbone), batch_of(backbone, examples)
    plain = Plain(loss_of(backbone, task, examples, loss=loss))
    context = RegularizerContext.of(backbone, task, plain.loss)
    found = {}
    for parts in ((), ([0, 3], [4, 1], [2])):
        terms = acting([regularizers(text)], [3], 1, 1, 0)
        grads, result = gradients(backbone, prompt, batch, Regularized(plain, terms, context), parts=parts, check=True)
        found[bool(parts)] = [*grads, result.losses, result.divergences]
        assert all(torch.isfinite(value).all() for value in found[bool(parts)])
    for a, b in zip(*found.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("over", ["vocabulary", "labels"])
def test_the_divergence_compares_distributions_over_labels(over, setting):
    backbone, task, examples = setting("gpt2", WORDS["several"])
    prompt, batch = prompt_of(backbone), batch_of(backbone, examples)
    plain = Plain(loss_of(backbone, task, examples, loss="labels"))
    context = RegularizerContext.of(backbone, task, plain.loss)
    text = f"rn-emb:sigma=0.3,alpha=0.7,divergence=symmetric-kl,over={over}"
    seen = []
    outputs = type(plain.loss).outputs

    def watching(self, *arguments):
        seen.append(outputs(self, *arguments))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(plain.loss), "outputs", watching)
        terms = acting([regularizers(text)], [3], 1, 1, 0)
        _, result = gradients(backbone, prompt, batch, Regularized(plain, terms, context))
    clean, perturbed = (x.detach() for x in seen)
    assert clean.shape == (len(ROWS), 1, 2)
    places = torch.ones(len(ROWS), 1, dtype=torch.bool)
    expected = 0.7 * row_divergences(DIVERGENCES["symmetric-kl"], clean, perturbed, places).mean()
    torch.testing.assert_close(result.divergences[0], expected)
    assert expected > 0


NUMBER, TEXT = find_task("glue/stsb"), find_task("lab/visit")


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"loss": "labels", "decode": "generate"}, "--loss=labels is about scores of the label words.*generate"),
            ({"calibrate": True, "decode": "generate"}, "--calibrate is about scores of the label words"),
            ({"loss": "both", "normalize": "first"}, "--loss=both needs all tokens of a label"),
            ({"class_weights": "1,2,3"}, "--class-weights has 3 numbers, the task has 2 labels"),
            ({"class_weights": "balanced", "shots": 4}, "--class-weights=balanced: few-shot draws"),
        ],
    )
    def test_of_what_contradicts_itself_before_a_model_is_loaded(self, settings, message, task):
        splits = split_rows(task, load_rows(task))
        with pytest.raises(BadInput) as refused:
            check_request(task, splits, [PromptSettings()], TrainSettings(**settings))
        assert re.search(message, refused.value.message)

    @pytest.mark.parametrize("declared", [NUMBER, TEXT], ids=["number", "text"])
    @pytest.mark.parametrize(
        ("option", "value"), [("loss", "labels"), ("loss", "both"), ("class_weights", "balanced"), ("calibrate", True)]
    )
    def test_of_tasks_without_labels(self, declared, option, value):
        settings = TrainSettings(**{option: value})
        with pytest.raises(BadInput) as refused:
            refuse_loss(settings, declared)
        assert re.match(rf"--{option.replace('_', '-')}\S* is for tasks with label words", refused.value.message)

    def test_numbers_are_not_smoothed_but_texts_are(self):
        refuse_loss(TrainSettings(label_smoothing=0.1), TEXT)
        with pytest.raises(BadInput, match=r"label.smoothing. is for tasks with label words"):
            refuse_loss(TrainSettings(label_smoothing=0.1), NUMBER)

    @pytest.mark.parametrize("weights", ["1,x", [1, -2], "even", [math.nan, 1]])
    def test_of_weights_that_are_no_positive_numbers(self, weights):
        with pytest.raises(BadInput, match=r"class.weights. is balanced or positive numbers"):
            settings_from(None, {"class_weights": weights})

    def test_of_a_share_outside_its_range(self):
        with pytest.raises(BadInput, match=r"label.smoothing. is a share"):
            TrainSettings(label_smoothing=1.0)

    def test_weights_may_be_a_list_in_python(self):
        assert settings_from(None, {"class_weights": [1, 2.5]}) == TrainSettings(class_weights="1,2.5")

    def test_of_a_label_longer_than_the_context_leaves_room_for(self, setting, task):
        backbone, _, _ = setting("gpt2")
        long = dataclasses.replace(task, labels=("good", " ".join(["film"] * 200)))
        with pytest.raises(BadInput, match="longest label"):
            examples_for(backbone, long, split_rows(task, load_rows(task)).train, LENGTH)
