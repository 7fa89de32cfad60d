"""Runs that begin at words: step 0 is the hand-written input, and what is stored is never below it."""

import dataclasses
import itertools
import json
import math
import re

import pytest
import torch
from softprompt.backbones import from_model, load_backbone
from softprompt.data import load_rows, shared_ids, split_rows
from softprompt.errors import BadInput, UnsupportedModel
from softprompt.inference.evaluate import evaluate
from softprompt.inference.in_context import encoded, labelled_text
from softprompt.inference.predict import predict
from softprompt.inference.rows import answer_positions, examples_for
from softprompt.interop.recipes import recipe
from softprompt.prompts.batch import PromptBatch
from softprompt.prompts.prompt import SoftPrompt
from softprompt.prompts.seeds import stream_seed
from softprompt.settings import ModelSpec, PromptSettings, Seeds, TrainSettings
from softprompt.study import RunSpec
from softprompt.tasks import Task
from softprompt.training import Interrupted, Plan, read_plan, resume, train
from softprompt.training._built import build_prompts
from softprompt.training._early import check_request
from softprompt.training._prepare import prepare, training_rows
from softprompt.training._records import read_record
from softprompt.training._restarts import Race
from softprompt.training._scorer import Scorer
from softprompt.training.beginnings.auto import with_beginnings
from softprompt.training.beginnings.examples import context
from softprompt.training.beginnings.words import with_opening

from kit import review_task, same_files, soft

INSTRUCTION = "is the film good and not bad?"
CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
RUN = {"steps": 4, "eval_every": 2, "batch_size": 4, "device": "cpu"}
MODELS = ("gpt2", "llama", "mistral", "opt", "chat", "t5", "bart", "bert", "roberta")


def opening_of(prompt: SoftPrompt) -> list[int]:
    """The tokens that the rows of a stored prompt leave to it."""
    assert prompt.provenance.task is not None
    return prompt.provenance.task["opening_ids"]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    known = review_task(tmp_path_factory.mktemp("rows") / "data")
    return dataclasses.replace(known, instruction=INSTRUCTION, template="movie {text} it is", cue="")


@pytest.fixture(scope="module")
def backbone_of(tiny_gpt, tiny_t5, tiny_bert):
    """Backbones in float64 by family, made once; "chat" is Llama in a chat, "byte-chat" Qwen 2."""
    made = {}

    def build(name):
        options = {"dtype": torch.float64, "max_position_embeddings": 512}
        if name in ("t5", "bart"):
            model, tokenizer = tiny_t5(name, **(options if name == "bart" else {"dtype": torch.float64}))
            return from_model(model, tokenizer)
        if name in ("bert", "roberta"):
            model, tokenizer = tiny_bert(name, **options)
            return from_model(model, tokenizer, answers="label-words")
        family = {"chat": "llama", "byte-chat": "qwen2"}.get(name, name)
        model, tokenizer = tiny_gpt(family, **options)
        tokenizer.chat_template = CHAT
        return from_model(model, tokenizer, answers="tokens" if family == name else "chat")

    def built(name):
        if name not in made:
            made[name] = build(name)
        return made[name]

    return built


def planned(task, backbone, *prompts, **settings):
    splits = split_rows(task, load_rows(task))
    plan = Plan(task=task, model=ModelSpec("tiny"), prompts=prompts, settings=TrainSettings(**settings))
    plan = with_opening(plan, splits.train, backbone)
    return plan, prepare(plan, splits, backbone)


def words_of(plan, run_data):
    """The ids with which the first candidate for each prompt begins."""
    return [candidates[0].ids for candidates in run_data.beginnings]


def scores(backbone, task, examples, vectors):
    """Label scores of all rows behind these vectors."""
    labels = backbone.encode_distinct(task.labels, task.tail + backbone.suffix(task.cue))
    batch = examples.batch(range(len(examples)), 0, backbone.pad_id)
    with torch.no_grad():
        return backbone.label_scores(PromptBatch.stack([vectors]), batch, labels)


def hand_written(backbone, task, shown=()):
    """Label scores of the frozen model without any prompt; `shown` rows stand before each row."""
    rows = split_rows(task, load_rows(task)).validation
    before = "".join(labelled_text(backbone, task, row) for row in shown)
    whole = dataclasses.replace(task, opening_ids=(), instruction=task.instruction)
    if before:
        # As a user would write it: the examples are a part of the template.
        literal = before.replace("{", "{{").replace("}", "}}")
        whole = dataclasses.replace(whole, template=literal + task.template, max_length=500)
    examples = examples_for(backbone, whole, rows, 0)
    return scores(backbone, task, examples, torch.zeros(0, backbone.embedding_size))


def rendered(row):
    return f"movie {row['text']} it is"


@pytest.mark.parametrize("name", MODELS)
class TestInstruction:
    def test_step_0_answers_as_the_hand_written_input_does(self, name, task, backbone_of):
        backbone = backbone_of(name)
        plan, run_data = planned(task, backbone, PromptSettings(init="instruction"))
        prompt = soft(build_prompts(run_data)[0])
        assert prompt.length == len(plan.task.opening_ids) > 4
        found = scores(backbone, task, run_data.validation, prompt.folded())
        torch.testing.assert_close(found, hand_written(backbone, task), rtol=0, atol=1e-4)

    def test_rows_are_the_whole_input_without_the_opening(self, name, task, backbone_of):
        backbone = backbone_of(name)
        plan, run_data = planned(task, backbone, PromptSettings(init="instruction"))
        whole = examples_for(backbone, task, split_rows(task, load_rows(task)).train, 0)
        for number in range(len(whole)):
            without = run_data.train.inputs.row(number).tolist()
            assert [*plan.task.opening_ids, *without] == whole.inputs.row(number).tolist()
        assert run_data.train.parts is not None
        assert torch.equal(run_data.train.parts.offsets, run_data.train.inputs.offsets)


@pytest.mark.parametrize("name", ["gpt2", "llama", "chat", "t5", "bert"])
@pytest.mark.parametrize("words", ["is the film bad?", "is the film good"])
def test_another_instruction_stays_whole_though_it_begins_with_the_same_words(name, words, task, backbone_of):
    backbone = backbone_of(name)
    plan, _ = planned(task, backbone, PromptSettings(init="instruction"))
    rows = split_rows(task, load_rows(task)).validation
    other = dataclasses.replace(task, instruction=words)
    held = dataclasses.replace(other, opening_ids=plan.task.opening_ids)
    whole, left = (examples_for(backbone, asked, rows, 0).inputs.row(0).tolist() for asked in (other, held))
    before = whole[: len(whole) - len(left)]
    assert [*before, *left] == whole
    (alone,) = encoded(backbone, [backbone.input_prefix])
    # A beginning of sequence and the opening of a chat are in the prompt, whatever the instruction is.
    assert before == alone[: shared_ids(alone, plan.task.opening_ids)]


@pytest.mark.parametrize("name", ["gpt2", "byte-chat", "t5", "bert"])
def test_examples_stand_behind_the_instruction_as_in_a_hand_written_input(name, task, backbone_of):
    backbone = backbone_of(name)
    plan, run_data = planned(task, backbone, PromptSettings(init="examples:4", seeds=Seeds(draw=3)))
    prompt = soft(build_prompts(run_data)[0])
    ids = words_of(plan, run_data)[0]
    text = backbone.tokenizer.decode(ids)
    assert ids[: len(plan.task.opening_ids) - 1] == plan.task.opening_ids[:-1]
    rows = split_rows(task, load_rows(task)).train
    shown = [row for row in rows if rendered(row) in text]
    assert sorted(row["label"] for row in shown) == ["bad", "bad", "good", "good"]
    shown.sort(key=lambda row: text.index(rendered(row)))
    found = scores(backbone, task, run_data.validation, prompt.folded())
    torch.testing.assert_close(found, hand_written(backbone, task, shown), rtol=0, atol=1e-4)


def test_another_draw_seed_shows_other_examples(task, backbone_of):
    prompts = [PromptSettings(init="examples:4", seeds=Seeds(draw=draw)) for draw in (0, 1)]
    first, other = words_of(*planned(task, backbone_of("gpt2"), *prompts))
    assert first != other


def test_examples_are_drawn_from_the_rows_that_the_prompt_may_see(task, backbone_of):
    backbone = backbone_of("gpt2")
    prompt = PromptSettings(init="examples:2", seeds=Seeds(draw=5))
    plan, run_data = planned(task, backbone, prompt, shots=2)
    text = backbone.tokenizer.decode(words_of(plan, run_data)[0])
    rows = split_rows(task, load_rows(task)).train
    shown = {number for number, row in enumerate(rows) if rendered(row) in text}
    assert shown == set(training_rows(run_data, prompt))


def test_a_random_prompt_of_the_run_stands_behind_the_opening(task, backbone_of):
    backbone = backbone_of("gpt2")
    _, run_data = planned(task, backbone, PromptSettings(init="instruction"), PromptSettings())
    words, behind = map(soft, build_prompts(run_data))
    n = words.length
    assert behind.length == n + 10
    assert torch.equal(behind.folded()[:n], words.folded())


def test_deep_prompts_of_a_decoder_begin_at_the_instruction_in_every_layer(task, backbone_of):
    backbone = backbone_of("llama")
    _, run_data = planned(task, backbone, PromptSettings(init="instruction", deep=True))
    prompt = soft(build_prompts(run_data)[0])
    labels = backbone.encode_distinct(task.labels, task.tail)
    batch = run_data.validation.batch(range(16), 0, backbone.pad_id)
    prompt_batch = PromptBatch.stack([prompt.folded()], deep=[prompt.folded_deep()])
    with torch.no_grad():
        found = backbone.label_scores(prompt_batch, batch, labels)
    torch.testing.assert_close(found, hand_written(backbone, task), rtol=0, atol=1e-4)


class TestAuto:
    def begun(self, task, backbone, *prompts):
        return [(prompt.init, prompt.lr) for prompt in with_beginnings(prompts, task, backbone)]

    def test_prompt_tuning_on_a_decoder_begins_as_the_instruction_at_a_tenth_of_the_rate(self, task, backbone_of):
        assert self.begun(task, backbone_of("llama"), PromptSettings()) == [("instruction", pytest.approx(0.03))]
        assert self.begun(task, backbone_of("chat"), PromptSettings(lr=0.2)) == [("instruction", 0.2)]

    @pytest.mark.parametrize("name", ["t5", "bart", "bert"])
    def test_other_models_begin_at_random(self, task, backbone_of, name):
        assert self.begun(task, backbone_of(name), PromptSettings()) == [("uniform", pytest.approx(0.3))]

    @pytest.mark.parametrize(
        "prompt",
        [PromptSettings(method="ept"), PromptSettings(options={"prompt_length": 3}), PromptSettings(deep=True)],
    )
    def test_a_prompt_of_its_own_length_or_method_begins_at_random_and_those_beside_it_too(
        self, task, backbone_of, prompt
    ):
        begun = self.begun(task, backbone_of("llama"), prompt, PromptSettings())
        assert [init for init, _ in begun] == ["uniform", "uniform"]
        assert begun[1][1] == pytest.approx(0.3)

    def test_a_task_without_an_instruction_begins_at_random(self, task, backbone_of):
        bare = dataclasses.replace(task, instruction="")
        assert self.begun(bare, backbone_of("llama"), PromptSettings())[0][0] == "uniform"

    def test_the_record_of_a_run_says_what_it_stood_for(self, task, backbone_of, tmp_path):
        train(task, backbone_of("llama"), steps=1, eval_rows=2, output=tmp_path / "run")
        (prompt,) = read_plan(tmp_path / "run").prompts
        assert (prompt.init, prompt.lr) == ("instruction", pytest.approx(0.03))

    def test_the_name_of_a_study_run_changes_only_where_the_model_may_be_a_decoder(self, task):
        def spec(init, model, **prompt):
            return RunSpec(task=task, model=model, prompt=PromptSettings(init=init, **prompt))

        assert spec("auto", "lab-t5").name == spec("uniform", "lab-t5").name
        assert spec("auto", "lab-gpt", method="ept").name == spec("uniform", "lab-gpt", method="ept").name
        names = {spec(init, "lab-gpt").name for init in ("auto", "uniform", "instruction")}
        assert len(names) == 3
        passes = {spec(init, "lab-gpt").pass_key() for init in ("auto", "uniform", "instruction")}
        assert len(passes) == 3


class TestRefusals:
    @pytest.mark.parametrize(
        ("init", "changes", "message"),
        [
            ("instruction", {"instruction": ""}, "no instruction .*give --instruction TEXT"),
            ("instruction", {"instruction": "film " * 600}, "the instruction has .* tokens"),
            ("examples:49", {}, "shows 49 rows, and the prompt has 48"),
            ("examples:46", {}, "longest text with its answer needs .* give --init=examples:[0-9]+ at the most"),
        ],
    )
    def test_what_cannot_begin_is_refused_in_one_line(self, init, changes, message, task, backbone_of):
        with pytest.raises(BadInput) as caught:
            planned(dataclasses.replace(task, **changes), backbone_of("gpt2"), PromptSettings(init=init))
        assert re.search(message, caught.value.message)
        assert "\n" not in caught.value.message

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"init": "examples:0"}, "at least 1"),
            ({"init": "examples:abc"}, "at least 1"),
            ({"init": "examples"}, "at least 1"),
            ({"init": "instruction:be good"}, "instruction"),
            ({"init": "instruction", "method": "polar"}, "polar"),
            ({"init": "instruction", "options": {"prompt_length": 5}}, "as long as its words"),
        ],
    )
    def test_wrong_settings_are_refused_before_the_model_is_loaded(self, settings, message, task):
        with pytest.raises(BadInput, match=message):
            check_request(task, split_rows(task, load_rows(task)), [PromptSettings(**settings)], TrainSettings())

    def test_a_linear_head_has_no_hand_written_input(self, task, tiny_bert):
        backbone = from_model(*tiny_bert(head=False))
        with pytest.raises(BadInput, match="linear head"):
            planned(task, backbone, PromptSettings(init="instruction"))

    def test_a_deep_prompt_of_an_encoder_cannot_begin_at_words(self, task, backbone_of):
        _, run_data = planned(task, backbone_of("bert"), PromptSettings(init="instruction", deep=True))
        with pytest.raises(UnsupportedModel, match="cannot begin at words"):
            build_prompts(run_data)


@pytest.fixture(scope="module")
def folder(tiny_gpt, save_tiny, tmp_path_factory):
    model = tiny_gpt("gpt2", max_position_embeddings=256)
    return str(save_tiny(tmp_path_factory.mktemp("model") / "gpt2", *model))


class TestRuns:
    def test_a_prompt_is_never_below_its_words_on_validation_rows(self, folder, task, tmp_path):
        # At this rate every trained step is noise.
        run = train(task, folder, init="instruction", lr=50.0, output=tmp_path / "run", **RUN)
        result, rows = run.results[0], list(read_record(tmp_path / "run" / run.results[0].prompt / "metrics.jsonl"))
        scored = {row["step"]: row["score"] for row in rows if row.get("split") == "validation"}
        assert set(scored) == {0, 2, 4}
        assert result.metrics["validation"]["score"] == max(scored.values()) >= scored[0]
        prompt = run.prompt()
        assert opening_of(prompt)
        assert prompt.length == len(opening_of(prompt))
        report = evaluate(prompt, split="validation", device="cpu")
        assert report.metrics["score"] == pytest.approx(scored[result.best_step])

    def test_words_that_nothing_beats_are_what_is_stored(self, folder, task, tmp_path, monkeypatch):
        plain, times = Scorer.scores, itertools.count(1)

        def falling(self, *given):
            score = 1 / next(times)
            reports = [one for one in plain(self, *given) if one is not None]
            return [dataclasses.replace(one, metrics={**one.metrics, "score": score}) for one in reports]

        monkeypatch.setattr(Scorer, "scores", falling)
        run = train(task, folder, init="instruction", output=tmp_path / "run", **RUN)
        assert run.results[0].best_step == 0
        backbone = load_backbone(folder)
        ids = opening_of(run.prompt())
        assert torch.equal(run.prompt().vectors, backbone.embed(torch.tensor(ids)).detach())

    @pytest.mark.parametrize("restarts", [1, 3])
    def test_a_stopped_run_goes_on_to_the_same_bytes(self, restarts, folder, task, tmp_path, monkeypatch):
        settings = {"init": "instruction", "restarts": restarts, **RUN}
        settings |= {"restart_steps": 3} if restarts > 1 else {}
        train(task, folder, output=tmp_path / "whole", **settings)
        from softprompt.training import _loop

        plain = _loop.Loop._optimize
        stopped = []

        def optimize(self):
            if self.step == 3 and not stopped:
                stopped.append(True)
                raise KeyboardInterrupt
            return plain(self)

        monkeypatch.setattr(_loop.Loop, "_optimize", optimize)
        with pytest.raises((Interrupted, KeyboardInterrupt)):
            train(task, folder, output=tmp_path / "cut", **settings)
        resume(tmp_path / "cut", device="cpu")
        assert same_files(
            tmp_path / "whole", tmp_path / "cut", ignore=("timing.jsonl", "state.json", "manifest.json", "run.json")
        )

    def test_restarts_begin_as_instruction_examples_and_random_vectors(self, folder, task, tmp_path):
        run = train(task, folder, init="instruction", restarts=3, restart_steps=2, output=tmp_path / "run", **RUN)
        chosen = run.results[0].restarts
        assert chosen is not None
        assert chosen["init"] == ["instruction", "examples:4", "uniform"][chosen["chosen"]]
        rows = list(read_record(tmp_path / "run" / run.results[0].prompt / "metrics.jsonl"))
        begins = [row for row in rows if row.get("split") == "validation" and row["step"] == 0]
        assert len(begins) == (chosen["init"] != "uniform")

    def test_restarts_of_an_instruction_show_as_many_examples_as_there_are_positions_for(
        self, task, backbone_of, monkeypatch
    ):
        backbone = backbone_of("gpt2")
        prompt = PromptSettings(init="instruction", restarts=3)
        plan, run_data = planned(task, backbone, prompt, steps=4)
        splits = split_rows(task, load_rows(task))

        def inits():
            run_data = prepare(plan, splits, backbone)
            (candidates,) = run_data.beginnings
            assert [one.length for one in candidates] == [soft(one).length for one in build_prompts(run_data)]
            return [one.settings.init for one in candidates]

        assert inits() == ["instruction", "examples:4", "uniform"]
        rest = int(run_data.train.lengths.max()) + answer_positions(backbone, plan.task)
        seed = stream_seed(0, "examples/1")
        lengths = {
            count: len(context(backbone, plan.task, splits.train, run_data.train.gold, count=count, seed=seed))
            for count in (1, 2, 4)
        }
        for count, short, shown in (
            (4, 0, "examples:4"),
            (2, 0, "examples:2"),
            (1, 0, "examples:1"),
            (1, 1, "uniform"),
        ):
            positions = lengths[count] + rest - short
            monkeypatch.setattr(type(backbone), "max_positions", property(lambda _, positions=positions: positions))
            assert inits() == ["instruction", shown, "uniform"]
        with pytest.raises(BadInput, match="4 examples have"):
            planned(task, backbone, PromptSettings(init="examples:4"))

    def test_the_winner_of_restarts_with_few_rows_says_how_many_examples_it_shows(
        self, folder, task, tmp_path, monkeypatch
    ):
        settings = {"init": "instruction", "restarts": 2, "restart_steps": 2, "shots": 2}
        losses = iter((1.0, 0.0))
        monkeypatch.setattr(Race, "_loss", lambda *_: next(losses))
        run = train(task, folder, output=tmp_path / "run", **settings, **RUN)
        chosen = run.results[0].restarts
        assert chosen is not None
        assert (chosen["chosen"], chosen["init"]) == (1, "examples:2")

    def test_a_stored_prompt_answers_new_texts_and_other_rows_without_the_opening(self, folder, task, tmp_path):
        run = train(task, folder, init="instruction", lr=1e-9, output=tmp_path / "run", **RUN, loss="tokens")
        prompt = run.prompt()
        plan = read_plan(tmp_path / "run")
        assert plan.task.opening_ids == tuple(opening_of(prompt))
        assert f"input_ids[:, {prompt.length}:]" in recipe(prompt)
        (answer,) = predict(prompt, ["a great movie"], device="cpu")
        backbone = load_backbone(folder)
        rows = [{"text": "a great movie", "label": "good"}]
        whole = examples_for(backbone, task, rows, 0)
        expected = scores(backbone, task, whole, torch.zeros(0, backbone.embedding_size))[0].softmax(0)
        assert answer["scores"]["good"] == pytest.approx(expected[1].item(), abs=1e-4)
        other = evaluate(prompt, rows, task=Task.from_json(task.to_json()), device="cpu")
        assert math.isfinite(other.metrics["score"])


def test_a_task_of_before_has_no_opening(task):
    values = json.loads(json.dumps(task.to_json()))
    assert "opening_ids" not in values
    assert Task.from_json(values) == task
    held = dataclasses.replace(task, opening_ids=(1, 2))
    assert Task.from_json(json.loads(json.dumps(held.to_json()))) == held
