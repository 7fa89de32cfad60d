"""Decoders as backbones: what they have beyond the conformance tests, on tiny random models, against transformers."""

import copy

import pytest
import torch
from softprompt.backbones import from_model
from softprompt.backbones.decoder import ANSWER_CUE, DecoderBackbone
from softprompt.data import Ragged
from softprompt.errors import BadInput, UnsupportedModel
from softprompt.inference.asked import task_of
from softprompt.inference.evaluate import evaluate
from softprompt.inference.predict import predict
from softprompt.inference.rows import answer_positions, examples_for, text_limit
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.prompts.prompt import Provenance, SoftPrompt
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.training import train

from backbones_kit import TEXTS, batch_of, random_prompt, word_ids
from kit import review_task, targets_of
from tiny import DECODERS

DOUBLE = {"rtol": 0, "atol": 1e-6}
PADDED = {"rtol": 0, "atol": 1e-5}
PROMPTS = ["very good film", "the", "question answer"]
OWNERS = [2, 0, 1]
LABELS = ("good", "not good", "very bad film")
SIDES = ["left", "right"]


def as_it_enters(backbone, words):
    """The vectors of real tokens as the model's own embedding module gives them."""
    return backbone.embeddings(word_ids(backbone, words))[0].detach().clone()


def batch_of_words(backbone):
    return PromptBatch.stack([as_it_enters(backbone, words) for words in PROMPTS])


def whole_rows(backbone, texts=TEXTS):
    """Each row as plain ids: the words of its prompt, then its text with the cue, without the end of sequence."""
    for text, own in zip(texts, OWNERS, strict=True):
        ids = backbone.tokenizer(text + backbone.input_suffix).input_ids
        ids = ids[:-1] if ids[-1] == backbone.tokenizer.eos_token_id else ids
        yield torch.cat([word_ids(backbone, PROMPTS[own]), torch.tensor([ids])], 1)


@pytest.fixture
def ready(tiny_gpt):
    """A frozen decoder in float64; Gemma 2 has only an attention that computes in float32."""

    def build(family, dtype=None, **options):
        dtype = dtype or (torch.float32 if family == "gemma2" else torch.float64)
        return from_model(*tiny_gpt(family, dtype=dtype, **options))

    return build


@pytest.mark.parametrize("family", DECODERS)
class TestEveryDecoder:
    @pytest.mark.parametrize("side", SIDES)
    @pytest.mark.parametrize("normalize", ["sum", "mean"])
    def test_label_scores_equal_the_losses_of_transformers(self, family, normalize, side, ready):
        backbone = ready(family)
        labels = backbone.encode_answers(LABELS)
        batch = batch_of(backbone, TEXTS, owner=OWNERS, side=side)
        found = backbone.label_scores(batch_of_words(backbone), batch, labels, normalize=normalize)
        for i, ids in enumerate(whole_rows(backbone)):
            for c, label in enumerate(labels):
                whole = torch.cat([ids, torch.tensor([label])], 1)
                wanted = torch.cat([torch.full_like(ids, -100), torch.tensor([label])], 1)
                expected = -backbone.model(input_ids=whole, labels=wanted).loss
                expected = expected * (len(label) if normalize == "sum" else 1)
                # Transformers computes this loss in float32.
                torch.testing.assert_close(found[i, c].float(), expected, rtol=1e-6, atol=1e-5)

    @pytest.mark.parametrize("side", SIDES)
    def test_logits_behind_ragged_prompts_equal_those_of_transformers(self, family, side, ready):
        backbone = ready(family)
        answers = ["not good", "yes", "very bad film"]
        targets = targets_of(backbone, answers)
        assert targets is not None
        batch = batch_of(backbone, TEXTS, owner=OWNERS, side=side, targets=targets)
        found = backbone.logits(batch_of_words(backbone), batch)
        assert found.shape[:2] == targets.shape
        for i, (ids, label) in enumerate(zip(whole_rows(backbone), backbone.encode_answers(answers), strict=True)):
            expected = backbone.model(input_ids=torch.cat([ids, torch.tensor([label[:-1]])], 1)).logits
            torch.testing.assert_close(found[i, : len(label)], expected[0, ids.shape[1] - 1 :], **PADDED)

    def test_first_token_scores_are_those_of_the_last_text_position(self, family, ready):
        backbone = ready(family)
        labels = backbone.encode_answers(["good", "bad", "yes"])
        batch = batch_of(backbone, TEXTS, owner=OWNERS, side="left")
        found = backbone.label_scores(batch_of_words(backbone), batch, labels, normalize="first")
        for i, ids in enumerate(whole_rows(backbone)):
            expected = backbone.model(input_ids=ids).logits[0, -1].log_softmax(-1)[[label[0] for label in labels]]
            torch.testing.assert_close(found[i], expected, **PADDED)

    @pytest.mark.parametrize("side", SIDES)
    @pytest.mark.parametrize("use_cache", [True, False])
    def test_greedy_answers_equal_those_of_transformers_on_the_words(self, family, use_cache, side, ready):
        """With and without its cache; ours are padded and behind ragged prompts, theirs alone."""
        backbone = ready(family)
        batch = batch_of(backbone, TEXTS, owner=OWNERS, side=side)
        answers = backbone.generate(batch_of_words(backbone), batch, max_new_tokens=12)
        expected = []
        for ids in whole_rows(backbone):
            options = {"eos_token_id": backbone.ends, "pad_token_id": backbone.pad_id, "use_cache": use_cache}
            out = backbone.model.generate(ids, do_sample=False, max_new_tokens=12, **options)
            expected.append(backbone.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip())
        assert answers == expected
        assert len(set(answers)) > 1

    def test_states_do_not_depend_on_padding(self, family, ready):
        backbone = ready(family)
        prompt_batch = PromptBatch.stack([random_prompt(backbone, 3)])
        batch = batch_of(backbone, TEXTS, side="left")
        together = backbone.text_states(prompt_batch, batch)
        for i, text in enumerate(TEXTS):
            alone = batch_of(backbone, [text])
            count = int(alone.mask.sum()) - backbone._ends_texts
            torch.testing.assert_close(
                together[i, :count], backbone.text_states(prompt_batch, alone)[0, :count], **PADDED
            )

    def test_answers_follow_the_text_after_a_blank_and_end_once(self, family, ready):
        """Behind the cue, text and answer are tokenised apart as they would be together."""
        backbone = ready(family)
        for word, row in zip(LABELS, backbone.encode_answers([" good", "not good ", "very bad film"]), strict=True):
            whole = backbone.tokenizer(f"the film{ANSWER_CUE} {word}", add_special_tokens=False).input_ids
            text = backbone.tokenizer(f"the film{ANSWER_CUE}", add_special_tokens=False).input_ids
            assert [*text, *row[:-1]] == whole
            assert row.count(backbone.tokenizer.eos_token_id) == 1
            assert row[-1] == backbone.tokenizer.eos_token_id

    def test_no_row_of_logits_is_computed_beside_the_labels(self, family, ready):
        backbone = ready(family)
        batch = batch_of(backbone, TEXTS, targets=targets_of(backbone, ["good", "bad", "bad"]))
        head, seen = backbone.model.get_output_embeddings(), []
        with head.register_forward_hook(lambda module, arguments, output: seen.append(tuple(output.shape[:2]))):
            backbone.logits(PromptBatch.stack([random_prompt(backbone, 2)]), batch)
        assert seen == [(3, 2)]

    def test_rows_beyond_the_last_position_are_refused_and_answers_end_there(self, family, ready):
        backbone = ready(family)
        assert backbone.max_positions == 64
        batch = batch_of(backbone, TEXTS[:1], targets=targets_of(backbone, ["very bad film"]))
        text, room = int(batch.mask.sum()) - backbone._ends_texts, 2
        n = 64 - text - room
        prompt_batch = PromptBatch.stack([random_prompt(backbone, n)])
        with pytest.raises(BadInput, match=f"prompt of {n}, a text of {text} and an answer of 3 tokens need 65 pos"):
            backbone.logits(prompt_batch, batch)
        with pytest.raises(BadInput, match="an answer of 3 tokens"):
            backbone.label_scores(prompt_batch, batch, backbone.encode_answers(["good", "very bad film"]))
        backbone.ends = [-1]
        written = []
        generate = backbone.model.generate
        backbone.model.generate = lambda **given: written.append(generate(**given)) or written[0]
        backbone.generate(prompt_batch, batch, max_new_tokens=30)
        assert written[0].shape[1] == room + 1

    def test_other_kinds_of_answer_are_refused(self, family, tiny_gpt):
        with pytest.raises(UnsupportedModel, match="answers in tokens, not by linear-head"):
            from_model(*tiny_gpt(family), answers="linear-head")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gemma", "gemma2", "gpt2"])
def test_word_vectors_are_what_the_embedding_module_gives(family, dtype, ready):
    """Gemma multiplies its table by sqrt(e) on the way in; initialisers must draw from what comes out."""
    backbone = ready(family, dtype=dtype)
    everything = torch.arange(len(backbone.embeddings.weight))
    assert torch.equal(backbone.word_vectors, backbone.embeddings(everything))
    ratio = (backbone.word_vectors[5] / backbone.embeddings.weight[5]).mean().item()
    assert ratio == pytest.approx(4 if family != "gpt2" else 1)


def test_a_prompt_initialised_from_words_acts_as_these_words_in_gemma(tiny_gpt, tmp_path):
    """One step of no size from the command line's initialiser: the stored prompt is the words as they enter."""
    backbone = from_model(*tiny_gpt("gemma"))
    run = train(
        review_task(tmp_path / "data"), backbone, output=tmp_path / "run", settings=TrainSettings(steps=1),
        prompts=[PromptSettings(method="prompt-tuning", options={"prompt_length": 2}, init="text:good film", lr=1e-30)],
    )  # fmt: skip
    prompt = SoftPrompt.load(run.folder)
    torch.testing.assert_close(prompt.vectors, as_it_enters(backbone, "good film"))


def test_float64_is_refused_where_attention_loses_its_masks(tiny_gpt):
    with pytest.raises(UnsupportedModel, match="no number for its float64 masks"):
        from_model(*tiny_gpt("gemma2", dtype=torch.float64))


def test_a_tokenizer_without_a_pad_stays_as_it_is(tiny_gpt):
    backbone = from_model(*tiny_gpt("llama"))
    assert backbone.pad_id == backbone.tokenizer.eos_token_id
    assert backbone.tokenizer.pad_token_id is None


def test_an_end_of_sequence_in_the_users_own_text_is_kept(tiny_gpt):
    """Only what the tokenizer appends is dropped: GPT-2's appends nothing."""
    backbone = from_model(*tiny_gpt("gpt2", dtype=torch.float64))
    end = backbone.tokenizer.eos_token_id
    ids = torch.tensor([[80, 70, end]])
    batch = TextBatch(ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor([0]), torch.tensor([[5, end]]))
    prompt_batch = PromptBatch.stack([as_it_enters(backbone, "film")])
    expected = backbone.model(input_ids=torch.cat([word_ids(backbone, "film"), ids, torch.tensor([[5]])], 1)).logits
    torch.testing.assert_close(backbone.logits(prompt_batch, batch), expected[:, -2:], **DOUBLE)


def test_a_row_without_prompt_and_text_is_refused(tiny_gpt):
    backbone = from_model(*tiny_gpt("gpt2"))
    ids, mask = torch.tensor([[7, 8], [9, 9]]), torch.tensor([[True, True], [False, False]])
    batch = TextBatch(ids, mask, torch.tensor([0, 0]), torch.tensor([[5], [5]]))
    with pytest.raises(BadInput, match="row 1 has neither prompt nor text"):
        backbone.logits(PromptBatch.stack([random_prompt(backbone, 0)]), batch)


def test_every_end_that_the_model_names_stops_an_answer(tiny_gpt):
    """Instruct models end a turn with another token than their tokenizer's; ours comes first."""
    model, tokenizer = tiny_gpt("llama")
    model.config.eos_token_id = [9, 2]
    model.generation_config.eos_token_id = [9, 2, 11]
    backbone = from_model(model, tokenizer)
    assert isinstance(backbone, DecoderBackbone)
    assert backbone.ends == [2, 9, 11]


def test_answers_for_which_no_positions_are_kept_are_refused_with_the_length_that_keeps_them(tiny_gpt, tmp_path):
    backbone = from_model(*tiny_gpt("gpt2"), name="tiny")
    rows = [{"text": "good film " * 40, "answer": "was bad " * 12} for _ in range(20)]
    columns = {"text_columns": ["text"], "target_column": "answer", "template": "{text}", "max_new_tokens": 24}
    options = {**columns, "prompt_length": 4, "steps": 1, "batch_size": 4}
    with pytest.raises(
        BadInput, match=r"an answer of 24 tokens need 68 positions, 'tiny' has 64; give `max_length` 36"
    ):
        train(rows, backbone, output=tmp_path / "run", **options)
    run = train(rows, backbone, max_length=36, output=tmp_path / "run", **options)
    assert examples_for(backbone, task_of(run.prompt()), rows, 4).lengths.max() == 36


def test_an_answer_stops_at_the_end(tiny_gpt):
    """A token of a greedy answer, one that it had not before, is made an end."""
    backbone = from_model(*tiny_gpt("qwen2", tie_word_embeddings=False, dtype=torch.float64))
    assert isinstance(backbone, DecoderBackbone)
    prompt_batch, batch = PromptBatch.stack([random_prompt(backbone, 2)]), batch_of(backbone, TEXTS[:1])
    embeds = torch.cat([prompt_batch.vectors.double(), backbone.embeddings(batch.ids[batch.mask][None])], 1)
    ids = backbone.model.generate(inputs_embeds=embeds, do_sample=False, max_new_tokens=9, pad_token_id=0)[0].tolist()
    stop = next(place for place in range(1, 8) if ids[place] not in ids[:place])
    backbone.ends = [backbone.tokenizer.eos_token_id, ids[stop]]
    found = backbone.generate(prompt_batch, batch, max_new_tokens=9)
    assert found == [backbone.tokenizer.decode(ids[: stop + 1], skip_special_tokens=True).strip()]
    assert found != [backbone.tokenizer.decode(ids, skip_special_tokens=True).strip()]


def test_a_model_that_names_no_end_is_refused(tiny_gpt):
    model, tokenizer = tiny_gpt("gpt2")
    tokenizer.eos_token = None
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    with pytest.raises(UnsupportedModel, match="no token that ends an answer"):
        from_model(model, tokenizer)


def test_a_model_without_a_head_is_refused(tiny_gpt):
    model, tokenizer = tiny_gpt("gpt2")
    with pytest.raises(UnsupportedModel, match="AutoModelForCausalLM"):
        from_model(model.transformer, tokenizer)


def test_generation_defaults_of_the_checkpoint_are_not_used_and_not_lost(tiny_gpt):
    backbone = from_model(*tiny_gpt("gpt2"))
    prompt_batch, batch = PromptBatch.stack([random_prompt(backbone, 2)]), batch_of(backbone, TEXTS)
    plain = backbone.generate(prompt_batch, batch, max_new_tokens=7)
    odd = backbone.model.generation_config
    odd.num_beams, odd.repetition_penalty, odd.no_repeat_ngram_size, odd.min_length = 3, 9.0, 1, 6
    assert backbone.generate(prompt_batch, batch, max_new_tokens=7) == plain
    assert backbone.model.generation_config is odd


@pytest.fixture(scope="module")
def trained(tiny_gpt, tmp_path_factory):
    """A GPT-2 saved and loaded again, and a fleet of two prompts trained on it for a few steps."""
    root = tmp_path_factory.mktemp("decoder")
    backbone = from_model(*tiny_gpt("gpt2"), name="tiny")
    task = review_task(root / "data")
    prompts = [
        PromptSettings(method="prompt-tuning", options={"prompt_length": 3}, seeds=Seeds.all(1), lr=0.3),
        PromptSettings(method="ept-star", seeds=Seeds.all(2), lr=0.3),
    ]
    settings = TrainSettings(steps=12, batch_size=8, eval_every=4)
    run = train(task, backbone, prompts=prompts, settings=settings, output=root / "run")
    return backbone, task, run, root, settings, prompts


class TestOneRun:
    def test_prompts_learn_and_remember_what_they_belong_to(self, trained):
        _, _, run, *_ = trained
        for result in run.results:
            prompt = SoftPrompt.load(run.folder / result.prompt / "prompt")
            assert (prompt.provenance.backbone.kind, prompt.provenance.answers) == ("decoder", "tokens")
            assert result.status == "finished"

    def test_a_fleet_equals_each_prompt_alone(self, trained):
        backbone, task, run, root, settings, prompts = trained
        for number, (prompt, result) in enumerate(zip(prompts, run.results, strict=True)):
            alone = train(task, backbone, prompts=[prompt], settings=settings, output=root / f"alone-{number}")
            ours = SoftPrompt.load(run.folder / result.prompt / "prompt")
            theirs = SoftPrompt.load(root / f"alone-{number}" / alone.results[0].prompt / "prompt")
            torch.testing.assert_close(ours.vectors, theirs.vectors, rtol=1e-4, atol=1e-4)

    def test_evaluation_repeats_the_scores_of_training(self, trained):
        backbone, _, run, *_ = trained
        result = run.results[0]
        prompt = SoftPrompt.load(run.folder / result.prompt / "prompt")
        expected = dict(result.metrics["test"])
        expected.pop("invalid")
        assert evaluate(prompt, model=backbone).metrics == expected
        generated = evaluate(prompt, model=backbone, decode="generate", max_new_tokens=3)
        assert generated.n == 16

    def test_predictions_are_probabilities_over_the_label_words(self, trained):
        backbone, _, run, *_ = trained
        prompt = SoftPrompt.load(run.folder / run.results[0].prompt / "prompt")
        for line in predict(prompt, ["a good film", "it was terrible"], model=backbone):
            assert line["label"] == max(line["scores"], key=line["scores"].get)
            assert sum(line["scores"].values()) == pytest.approx(1)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma", "opt"])
def test_stock_peft_gives_the_same_logits_for_unpadded_rows(family, tiny_gpt, save_tiny, tmp_path):
    """Padded rows it gets wrong (peft#1093); embedding scales it leaves to the embedding module, as we do."""
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    model, tokenizer = tiny_gpt(family, dtype=torch.float64)
    backbone = from_model(copy.deepcopy(model), tokenizer)
    vectors = random_prompt(backbone, 3)
    prompt = SoftPrompt(vectors, Provenance("imported", backbone.identity(), "tokens"))
    from softprompt.interop.peft import export_peft

    stock = peft.PeftModel.from_pretrained(model, export_peft(prompt, tmp_path / "peft", model=model)).eval()
    targets = torch.tensor(backbone.encode_answers(["not good"]))
    batch = batch_of(backbone, TEXTS[:1], targets=targets)
    read = torch.cat([batch.ids[batch.mask][None], targets[:, :-1]], 1)
    expected = stock(input_ids=read, attention_mask=torch.ones_like(read)).logits[:, -targets.shape[1] :]
    torch.testing.assert_close(backbone.logits(PromptBatch.stack([vectors]), batch), expected, rtol=0, atol=1e-5)


def test_an_unknown_family_that_keeps_its_properties_is_taken_and_one_that_does_not_is_refused(tiny_gpt, monkeypatch):
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

    _, tokenizer = tiny_gpt("gpt2")
    config = GPTBigCodeConfig(
        vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_inner=32, n_positions=64, initializer_range=0.5,
        eos_token_id=0, bos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPTBigCodeForCausalLM(config).eval()
    assert from_model(model, tokenizer).kind == "decoder"
    inputs = DecoderBackbone._inputs

    def counting_pads(self, embeds, mask):
        return {**inputs(self, embeds, mask), "position_ids": torch.arange(embeds.shape[1]).expand(len(mask), -1)}

    monkeypatch.setattr(DecoderBackbone, "_inputs", counting_pads)
    with pytest.raises(UnsupportedModel, match="cannot be used"):
        from_model(model, tokenizer)


CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


def test_an_unknown_family_whose_cache_changes_its_answers_reads_each_with_its_text(tiny_gpt, monkeypatch):
    model, tokenizer = tiny_gpt("gpt2")
    rest = DecoderBackbone._rest_of
    monkeypatch.setattr(DecoderBackbone, "_rest_of", lambda *given: 1.1 * rest(*given))
    assert from_model(model, tokenizer).continues
    monkeypatch.setattr("softprompt.backbones._load.KINDS", {})
    assert not from_model(model, tokenizer).continues


def test_texts_leave_room_for_the_answer(tiny_gpt, tiny_t5, tmp_path):
    task = review_task(tmp_path / "data")
    backbone = from_model(*tiny_gpt("gpt2"))
    longest = max(map(len, backbone.encode_answers(task.labels)))
    assert answer_positions(backbone, task) == longest - 1
    assert text_limit(backbone, 40, task) == 64 - 40 - (longest - 1)
    assert answer_positions(from_model(*tiny_t5()), task) == 0


class TestChat:
    @pytest.fixture
    def backbone(self, tiny_gpt):
        model, tokenizer = tiny_gpt("llama", dtype=torch.float64)
        tokenizer.chat_template = CHAT
        return from_model(model, tokenizer, answers="chat")

    def examples(self, backbone, text, max_length=200):
        from softprompt.inference.rows import examples_for
        from softprompt.tasks import Source, Task

        task = Task(
            name="t", source=Source(), template="sentence: {text}", labels=("good", "bad"), max_length=max_length
        )
        return examples_for(backbone, task, [{"text": text, "label": 1}], 0)

    def test_a_text_and_its_answer_are_what_the_template_makes_of_them(self, backbone):
        examples = self.examples(backbone, "the film was bad")
        turns = [{"role": "user", "content": "sentence: the film was bad"}]
        expected = backbone.tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        assert examples.inputs.row(0).tolist() == expected
        assert expected.count(backbone.tokenizer.bos_token_id) == 1
        whole = backbone.tokenizer("[assistant]\nbad", add_special_tokens=False).input_ids
        assert isinstance(examples.targets, Ragged)
        answer = examples.targets.row(0).tolist()
        assert whole[-len(answer) + 1 :] == answer[:-1]
        assert answer[-1] == backbone.tokenizer.eos_token_id

    def test_truncation_eats_the_text_only(self, backbone):
        whole = self.examples(backbone, " ".join(["film"] * 30)).inputs.row(0).tolist()
        film = backbone.tokenizer(" film", add_special_tokens=False).input_ids[-1]
        cut = self.examples(backbone, " ".join(["film"] * 30), len(whole) - 25)
        assert cut.truncated == 1
        assert [i for i in cut.inputs.row(0).tolist() if i != film] == [i for i in whole if i != film]
        (bad,) = backbone.encode_answers(["bad"])[0][:1]
        ended = self.examples(backbone, "film was film was bad").inputs.row(0).tolist()
        shorter = self.examples(backbone, "film was film was bad", len(ended) - 1).inputs.row(0).tolist()
        blank = backbone.tokenizer(" bad", add_special_tokens=False).input_ids[-1]
        assert bad != blank
        assert shorter == [i for i in ended if i != blank]

    def test_the_answer_is_scored_behind_the_whole_turn(self, backbone):
        ids = self.examples(backbone, "the film").inputs.row(0).long()[None]
        batch = TextBatch(ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor([0]))
        labels = backbone.encode_answers(["good", "bad"])
        found = backbone.label_scores(PromptBatch.stack([as_it_enters(backbone, "film")]), batch, labels)
        for c, label in enumerate(labels):
            whole = torch.cat([word_ids(backbone, "film"), ids, torch.tensor([label])], 1)
            scores = backbone.model(input_ids=whole).logits[0, -len(label) - 1 : -1].log_softmax(-1)
            expected = scores.gather(1, torch.tensor(label)[:, None]).sum()
            torch.testing.assert_close(found[0, c], expected, **PADDED)

    def test_a_prompt_remembers_that_it_was_trained_in_chat(self, backbone, tiny_gpt, save_tiny, tmp_path):
        from softprompt.backbones import load_backbone
        from softprompt.errors import ModelMismatch
        from softprompt.interop.peft import export_peft

        model, tokenizer = tiny_gpt("llama")
        tokenizer.chat_template = CHAT
        folder = save_tiny(tmp_path / "model", model, tokenizer)
        run = train(
            review_task(tmp_path / "data"), str(folder), answers="chat", output=tmp_path / "run", device="cpu",
            settings=TrainSettings(steps=2), prompts=[PromptSettings(method="ept-star")],
        )  # fmt: skip
        prompt = SoftPrompt.load(run.folder)
        assert prompt.provenance.answers == "chat"
        assert evaluate(prompt, device="cpu").n == 16
        with pytest.raises(ModelMismatch, match="load it with answers='chat'"):
            load_backbone(folder, device="cpu").check(prompt)
        recipe = (export_peft(prompt, tmp_path / "peft") / "README.md").read_text()
        assert "apply_chat_template" in recipe
        assert "add_special_tokens=False" in recipe

    def test_a_tokenizer_without_a_template_is_refused(self, tiny_gpt, tiny_t5, tiny_bert):
        with pytest.raises(UnsupportedModel, match="no chat template; leave answers='chat' out"):
            from_model(*tiny_gpt("llama"), answers="chat")
        with pytest.raises(UnsupportedModel, match="not by chat"):
            from_model(*tiny_t5(), answers="chat")
        with pytest.raises(UnsupportedModel, match="generates no tokens"):
            from_model(*tiny_bert(), answers="chat")

    def test_a_template_that_hides_or_repeats_the_text_is_refused(self, tiny_gpt):
        model, tokenizer = tiny_gpt("llama")
        tokenizer.chat_template = "{{ messages[0]['content'] }} {{ messages[0]['content'] }}"
        with pytest.raises(UnsupportedModel, match="shows the text 2 times"):
            from_model(model, tokenizer, answers="chat")
