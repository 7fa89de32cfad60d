"""CPT: prompts that begin as labelled rows, stay near their words, and learn the labels that they show."""

import dataclasses
from typing import Any

import peft
import pytest
import torch
from softprompt.backbones import from_model
from softprompt.data import load_rows, split_rows
from softprompt.errors import BadInput, UnsupportedModel
from softprompt.prompts.batch import PromptBatch
from softprompt.settings import ModelSpec, PromptSettings, Seeds, TrainSettings
from softprompt.training import Interrupted, Plan, resume, train
from softprompt.training._built import build_prompts
from softprompt.training._early import check_request
from softprompt.training._loop import Loop
from softprompt.training._prepare import prepare
from softprompt.training._records import read_record
from softprompt.training._start import start_members
from softprompt.training.beginnings.words import with_opening
from softprompt.training.objectives import Passes, Plain, ShownLabels, WithShownLabels

from kit import review_task, same_files, soft

DECAY, SHIFT = 0.9, 0.05
CPT = {"init": "examples:4", "context_loss": DECAY, "max_shift": SHIFT}
RUN = {"steps": 4, "eval_every": 2, "batch_size": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    known = review_task(tmp_path_factory.mktemp("rows") / "data")
    return dataclasses.replace(known, instruction="is the film good?", template="movie {text} it is", cue="")


@pytest.fixture(scope="module")
def tiny(tiny_gpt):
    return tiny_gpt("llama", dtype=torch.float64, max_position_embeddings=512)


@pytest.fixture(scope="module")
def backbone(tiny):
    return from_model(*tiny)


@pytest.fixture(scope="module")
def folder(tiny_gpt, tmp_path_factory):
    """A model on disk, so that a run can be resumed."""
    model, tokenizer = tiny_gpt("llama", max_position_embeddings=512)
    path = tmp_path_factory.mktemp("models") / "llama"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def planned(task, backbone, **prompt):
    splits = split_rows(task, load_rows(task))
    settings = TrainSettings(steps=4, batch_size=4)
    plan = Plan(task=task, model=ModelSpec("tiny"), prompts=(PromptSettings(**prompt),), settings=settings)
    plan = with_opening(plan, splits.train, backbone)
    return plan, prepare(plan, splits, backbone)


def begun(task, backbone, **prompt):
    plan, run_data = planned(task, backbone, **prompt)
    ((beginning,),) = run_data.beginnings
    return plan, run_data, beginning


def present(value: Any) -> Any:
    """The value, which has to be there."""
    assert value is not None
    return value


def vectors_of(backbone, ids):
    return backbone.embed(torch.tensor(ids)).detach().clone().requires_grad_()


def test_shown_labels_are_the_label_words_of_the_examples(task, backbone):
    _, _, beginning = begun(task, backbone, **CPT)
    words = [backbone.tokenizer.decode([beginning.ids[place] for place in label]) for label in beginning.labels]
    assert sorted(word.strip() for word in words) == sorted(2 * list(task.labels))
    # They stand in their order, and all of them lie within the prompt.
    places = [place for label in beginning.labels for place in label]
    assert places == sorted(places)
    assert places[-1] < beginning.length


def test_the_loss_on_shown_labels_is_the_cross_entropy_of_one_plain_pass(task, backbone, tiny):
    _, _, beginning = begun(task, backbone, **CPT)
    shown = present(beginning.shown_labels)
    vectors = vectors_of(backbone, beginning.ids)
    loss = shown.loss(backbone, vectors)
    (gradient,) = torch.autograd.grad(loss, vectors)

    logits = tiny[0](inputs_embeds=vectors[None]).logits[0].log_softmax(-1)
    expected = torch.zeros((), dtype=torch.float64)
    for number, label in enumerate(beginning.labels):
        for place in label:
            expected = expected - DECAY ** (4 - number) * logits[place - 1, beginning.ids[place]]
    (plain,) = torch.autograd.grad(expected, vectors)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6, check_dtype=False)
    torch.testing.assert_close(gradient, plain, rtol=1e-4, atol=1e-6)


def test_a_step_has_the_gradient_of_stock_cpt(task, backbone, tiny_gpt):
    """PEFT takes the mean over all labels of row and context, which is the same up to a factor for equal lengths."""
    _, run_data, beginning = begun(task, backbone, **CPT)
    vectors = vectors_of(backbone, beginning.ids)
    batch = run_data.train.batch(range(3), 0, backbone.pad_id)
    targets = present(batch.targets)
    own = (targets >= 0).sum(1)
    assert len(set(own.tolist())) == 1
    leaves = PromptBatch.stack([vectors])
    leaves.vectors.retain_grad()
    passes = Passes(backbone, leaves, batch, 1, 1.0, None)
    WithShownLabels(Plain(), [beginning.shown_labels]).backward(passes)

    model, _ = tiny_gpt("llama", dtype=torch.float64, max_position_embeddings=512)
    kinds = [1] * len(beginning.ids)
    for number, label in enumerate(beginning.labels):
        for place in label:
            kinds[place] = 4 * (number + 1)
    config = peft.CPTConfig(
        task_type="CAUSAL_LM",
        cpt_token_ids=list(beginning.ids),
        cpt_mask=[1] * len(kinds),
        cpt_tokens_type_mask=kinds,
        opt_weighted_loss_type="decay",
        opt_loss_decay_factor=DECAY,
    )
    stock = peft.get_peft_model(model, config)
    rows = []
    for row in range(3):
        ids = torch.cat([batch.ids[row][batch.mask[row]], targets[row][targets[row] >= 0]])[None]
        text = int(batch.mask[row].sum())
        kind = torch.tensor([[1.0] * text + [4.0] * int(own[row])])
        loss = stock(input_ids=ids, labels=ids.clone(), input_type_mask=kind, attention_mask=torch.ones_like(ids)).loss
        rows.append(loss * (len(present(beginning.shown_labels).places) + own[row]))
    torch.stack(rows).mean().backward()
    encoder: Any = stock.prompt_encoder
    stock_gradient = encoder["default"].delta_embedding.weight.grad
    # The row's own answer counts by its tokens in PEFT, by their mean here.
    lengths = int(own[0])
    plain = PromptBatch.stack([vectors])
    plain.vectors.retain_grad()
    Plain().backward(Passes(backbone, plain, batch, 1, 1.0, None))
    ours = present(leaves.vectors.grad)[0] + (lengths - 1) * present(plain.vectors.grad)[0]
    # Stock CPT moves no label token of its context.
    moves = torch.tensor([kind == 1 for kind in kinds])
    torch.testing.assert_close(ours[moves].float(), stock_gradient[moves].float(), rtol=1e-4, atol=1e-6)


def test_rows_in_parts_count_the_labels_once(task, backbone):
    _, run_data, beginning = begun(task, backbone, **CPT)
    batch = run_data.train.batch(range(5), 0, backbone.pad_id)
    objective = WithShownLabels(Plain(), [beginning.shown_labels])

    def run(*parts):
        leaf = vectors_of(backbone, beginning.ids)
        prompt_batch = PromptBatch.stack([leaf])
        found = []
        for rows in parts:
            found.append(objective.backward(Passes(backbone, prompt_batch, batch, 1, 1.0, None, rows)))
        losses, apart = (torch.stack(values).sum(0) for values in zip(*found, strict=True))
        return losses, apart, leaf.grad

    whole = run(None)
    parts = run(torch.tensor([0, 3]), torch.tensor([1, 2, 4]))
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_loss_on_shown_labels_draws_dropout_by_its_seed(task, tiny_gpt):
    backbone = from_model(*tiny_gpt("gpt2", n_positions=512))
    _, run_data, beginning = begun(task, backbone, **CPT)
    backbone.dropout(True)
    objective = WithShownLabels(Plain(), [beginning.shown_labels])

    def run(draw, dropout_seed):
        torch.manual_seed(draw)
        prompt_batch = PromptBatch.stack([vectors_of(backbone, beginning.ids)])
        batch = run_data.train.batch(range(5), 0, backbone.pad_id)
        return objective.backward(Passes(backbone, prompt_batch, batch, 1, 1.0, dropout_seed))[1].item()

    assert run(0, 3) == run(1, 3)
    assert run(0, 3) != run(0, 4)


def test_a_prompt_never_leaves_the_ball_around_its_words(task, backbone):
    _, run_data, beginning = begun(task, backbone, init="examples:4", max_shift=SHIFT, method="prompt-tuning")
    (prompt,) = map(soft, build_prompts(run_data))
    words = backbone.embed(torch.tensor(beginning.ids)).detach().float()
    with torch.no_grad():
        prompt.initial[1::2] = 3.0
        prompt.initial[::2] = 1e-6
    before = prompt.folded()
    prompt.project()
    distance = (prompt.folded() - words).norm(dim=1) / prompt.words.token_norm
    torch.testing.assert_close(distance[1::2], torch.full_like(distance[1::2], SHIFT), rtol=1e-3, atol=1e-5)
    assert torch.equal(prompt.folded()[::2], before[::2])


def test_a_run_stays_in_the_ball_learns_its_labels_and_resumes_to_the_same_bytes(task, folder, tmp_path, monkeypatch):
    first = train(task, folder, output=tmp_path / "a", lr=0.5, **CPT, **RUN)
    prompt, name = first.prompt(0), first.results[0].prompt
    rows = [row for row in read_record(tmp_path / "a" / name / "metrics.jsonl") if "loss" in row]
    assert rows[-1]["divergence"] < rows[0]["divergence"]
    assert prompt.provenance.training["context_loss"] == DECAY
    optimize, moved = Loop._optimize, []

    def stopped(loop):
        if loop.step == 4:
            (trained,) = (soft(member.trainable) for member in loop.members)
            moved.append((trained.folded() - present(trained.base)).norm(dim=1).max() / trained.words.token_norm)
            raise KeyboardInterrupt
        return optimize(loop)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_optimize", stopped)
        with pytest.raises((Interrupted, KeyboardInterrupt)):
            train(task, folder, output=tmp_path / "b", lr=0.5, **CPT, **RUN)
    assert 0 < moved[0] <= 1.001 * SHIFT
    resume(tmp_path / "b", device="cpu")
    ignored = ("timing.jsonl", "state.json", "manifest.json", "run.json")
    assert same_files(tmp_path / "a", tmp_path / "b", ignore=ignored)


def test_only_the_prompt_that_wants_it_learns_its_labels(task, backbone, tmp_path):
    splits = split_rows(task, load_rows(task))
    prompts = (PromptSettings(init="examples:4"), PromptSettings(**CPT, seeds=Seeds.all(1)))
    plan = Plan(task=task, model=ModelSpec("tiny"), prompts=prompts, settings=TrainSettings(steps=4))
    plan = with_opening(plan, splits.train, backbone)
    run_data = prepare(plan, splits, backbone)
    members = list(start_members(run_data, build_prompts(run_data), tmp_path, {}))
    assert [member.shown_labels is not None for member in members] == [False, True]
    for member in members:
        member.close()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"context_loss": 0.9}, "context.loss. learns the labels of the examples"),
        ({"context_loss": 0.9, "init": "instruction"}, "context.loss. learns the labels of the examples"),
        ({"context_loss": 0.9, "init": "examples:2", "deep": True}, "a deep prompt has more"),
        ({"max_shift": 0.1}, "max.shift. is a distance from words"),
        ({"max_shift": 0.1, "init": "examples:2", "method": "ept-star"}, "'ept-star' trains more"),
        ({"max_shift": 0.1, "init": "examples:2", "deep": True}, "a deep prompt trains more"),
    ],
)
def test_options_that_would_do_nothing_are_refused(prompt, message, task):
    splits = split_rows(task, load_rows(task))
    with pytest.raises(BadInput, match=message):
        check_request(task, splits, [PromptSettings(**prompt)], TrainSettings())


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5, float("nan")])
def test_a_factor_outside_its_range_is_refused(value):
    with pytest.raises(BadInput, match=r"context.loss. is a factor above 0 and at most 1"):
        PromptSettings(init="examples:4", context_loss=value)


def test_an_encoder_decoder_predicts_no_token_of_its_prompt(task, tiny_t5):
    backbone = from_model(*tiny_t5("t5"))
    with pytest.raises(UnsupportedModel, match=r"context.loss. needs a decoder"):
        begun(task, backbone, **CPT)


def test_shown_labels_weigh_each_earlier_example_less():
    shown = ShownLabels.of([5, 6, 7, 8, 9], [[1], [2, 3], [4]], 0.5)
    assert (shown.places, shown.ids, shown.weights) == ((1, 2, 3, 4), (6, 7, 8, 9), (0.125, 0.25, 0.25, 0.5))
