"""`prompt.attach(model)`: a transformers model that begins every input with the prompt, and shows no trace of it."""

import copy
import dataclasses

import pytest
import torch
from softprompt.backbones import from_model
from softprompt.errors import BadInput, ModelMismatch, UnsupportedModel
from softprompt.interop.attach import attach
from softprompt.prompts.prompt import Provenance, SoftPrompt

from tiny import DECODERS, ENCODER_DECODERS, ENCODERS

DOUBLE = {"rtol": 0, "atol": 1e-6}
WORDS = "very good film"
TEXTS = ["the film was good", "a terrible movie, and not in paris", "yes"]
SIDES = ["left", "right"]


def prompt_of_words(model, tokenizer):
    """A prompt of word vectors and the ids of the words; float32 holds the vectors of the tiny models exactly."""
    ids = torch.tensor(tokenizer(WORDS, add_special_tokens=False).input_ids)
    vectors = model.get_input_embeddings()(ids).detach().float()
    identity = from_model(copy.deepcopy(model), tokenizer).identity()
    return SoftPrompt(vectors, Provenance("imported", identity)), ids


def inputs_of(tokenizer, side, texts=TEXTS):
    """What a tokenizer gives, padded on one side."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = side
    return tokenizer(texts, padding=True, return_tensors="pt")


def rows_alone(inputs, words):
    """Each row as ids of words and text, without pads, and where its text stands in the batch."""
    for i, keep in enumerate(inputs.attention_mask.bool()):
        yield i, keep, torch.cat([words, inputs.input_ids[i, keep]])[None]


def both(found, expected, field):
    """The tensors of a field side by side, layers and steps in one flat list, at least one."""

    def flat(value):
        return [tensor for one in value for tensor in flat(one)] if isinstance(value, tuple) else [value]

    pairs = list(zip(flat(found[field]), flat(expected[field]), strict=True))
    assert pairs
    return pairs


@pytest.fixture
def ready(tiny_model):
    """(attached, model, tokenizer, ids of the prompt's words), in float64 and with attentions to look at."""

    def build(family, **options):
        model, tokenizer = tiny_model(family, dtype=torch.float64, attn_implementation="eager", **options)
        prompt, words = prompt_of_words(model, tokenizer)
        return prompt.attach(model), model, tokenizer, words

    return build


@pytest.mark.parametrize("family", ENCODER_DECODERS)
class TestEncoderDecoders:
    @pytest.mark.parametrize("side", SIDES)
    def test_outputs_equal_those_of_the_words_without_their_positions(self, family, side, ready):
        attached, model, tokenizer, words = ready(family)
        n = len(words)
        inputs = inputs_of(tokenizer, side)
        labels = torch.tensor([[5, 6, 1], [7, 1, 1], [8, 9, 1]])
        found = attached(**inputs, labels=labels, output_hidden_states=True, output_attentions=True)
        losses = []
        for i, keep, ids in rows_alone(inputs, words):
            row = model(input_ids=ids, labels=labels[i : i + 1], output_hidden_states=True, output_attentions=True)
            losses.append(row.loss)
            torch.testing.assert_close(found.logits[i], row.logits[0], **DOUBLE)
            for field in ("encoder_last_hidden_state", "encoder_hidden_states"):
                for ours, theirs in both(found, row, field):
                    assert ours.shape[:2] == inputs.input_ids.shape
                    torch.testing.assert_close(ours[i, keep], theirs[0, n:], **DOUBLE)
            for ours, theirs in both(found, row, "encoder_attentions"):
                torch.testing.assert_close(ours[i][:, keep][:, :, keep], theirs[0][:, n:, n:], **DOUBLE)
            for ours, theirs in both(found, row, "cross_attentions"):
                torch.testing.assert_close(ours[i][:, :, keep], theirs[0][:, :, n:], **DOUBLE)
        torch.testing.assert_close(found.loss, torch.stack(losses).mean(), **DOUBLE)

    @pytest.mark.parametrize("side", SIDES)
    def test_beams_equal_those_of_the_words(self, family, side, ready):
        attached, model, tokenizer, words = ready(family)
        inputs = inputs_of(tokenizer, side)
        asked = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5, "min_new_tokens": 5}
        found = attached.generate(**inputs, **asked)
        for i, _, ids in rows_alone(inputs, words):
            assert torch.equal(found[2 * i : 2 * i + 2], model.generate(ids, **asked))

    def test_generation_outputs_hold_no_prompt_positions(self, family, ready):
        attached, model, tokenizer, words = ready(family)
        n = len(words)
        inputs = inputs_of(tokenizer, "left")
        asked = {"num_beams": 2, "max_new_tokens": 3, "min_new_tokens": 3, "return_dict_in_generate": True,
                 "output_hidden_states": True, "output_attentions": True}  # fmt: skip
        found = attached.generate(inputs.input_ids, attention_mask=inputs.attention_mask, **asked)
        for i, keep, ids in rows_alone(inputs, words):
            alone = model.generate(ids, **asked)
            assert torch.equal(found.sequences[i : i + 1], alone.sequences)
            for field in ("encoder_hidden_states", "encoder_attentions", "cross_attentions"):
                for ours, theirs in both(found, alone, field):
                    # One row or one a beam, as transformers has it.
                    ours = ours[i * len(theirs) : (i + 1) * len(theirs)]
                    if field == "encoder_hidden_states":
                        torch.testing.assert_close(ours[:, keep], theirs[:, n:], **DOUBLE)
                    elif field == "encoder_attentions":
                        torch.testing.assert_close(ours[..., keep, :][..., keep], theirs[..., n:, n:], **DOUBLE)
                    else:
                        torch.testing.assert_close(ours[..., keep], theirs[..., n:], **DOUBLE)

    def test_encoder_outputs_are_refused_for_they_hold_no_prompt(self, family, ready):
        attached, model, tokenizer, _ = ready(family)
        encoded = model.get_encoder()(input_ids=inputs_of(tokenizer, "right").input_ids)
        with pytest.raises(BadInput, match="they hold no prompt"):
            attached(encoder_outputs=encoded, labels=torch.tensor([[5]] * 3))
        with pytest.raises(BadInput, match="they hold no prompt"):
            attached.generate(encoder_outputs=encoded)


@pytest.mark.parametrize("family", ENCODERS)
class TestEncoders:
    @pytest.mark.parametrize("side", SIDES)
    def test_states_equal_those_of_the_words_without_their_positions(self, family, side, ready):
        attached, model, tokenizer, words = ready(family, head=False)
        n = len(words)
        inputs = inputs_of(tokenizer, side)
        found = attached(**inputs, output_hidden_states=True, output_attentions=True)
        for i, keep, ids in rows_alone(inputs, words):
            row = model(input_ids=ids, output_hidden_states=True, output_attentions=True)
            for field in ("last_hidden_state", "hidden_states"):
                for ours, theirs in both(found, row, field):
                    assert ours.shape[:2] == inputs.input_ids.shape
                    torch.testing.assert_close(ours[i, keep], theirs[0, n:], **DOUBLE)
            for ours, theirs in both(found, row, "attentions"):
                torch.testing.assert_close(ours[i][:, keep][:, :, keep], theirs[0][:, n:, n:], **DOUBLE)

    @pytest.mark.parametrize("side", SIDES)
    def test_the_pooler_reads_the_first_text_position(self, family, side, ready):
        attached, model, tokenizer, words = ready(family, head=False)
        inputs = inputs_of(tokenizer, side)
        found = attached(**inputs)
        if "pooler_output" not in found:
            assert family in ("distilbert", "electra")
            return
        pooler = getattr(model.pooler, "dense", model.pooler)
        for i, _, ids in rows_alone(inputs, words):
            first = model(input_ids=ids).last_hidden_state[0, len(words)]
            expected = torch.tanh(first @ pooler.weight.T + pooler.bias)
            torch.testing.assert_close(found.pooler_output[i], expected, **DOUBLE)

    @pytest.mark.parametrize("side", SIDES)
    def test_masked_lm_loss_and_logits_are_those_of_the_text(self, family, side, ready):
        attached, model, tokenizer, words = ready(family)
        inputs = inputs_of(tokenizer, side)
        labels = inputs.input_ids.flip(0).masked_fill(inputs.attention_mask == 0, -100)
        found = attached(**inputs, labels=labels)
        assert found.logits.shape[:2] == inputs.input_ids.shape
        losses = []
        for i, keep, ids in rows_alone(inputs, words):
            row = model(input_ids=ids).logits[0, len(words) :]
            torch.testing.assert_close(found.logits[i, keep], row, **DOUBLE)
            losses.append(torch.nn.functional.cross_entropy(row, labels[i, keep], reduction="none"))
        torch.testing.assert_close(found.loss, torch.cat(losses).mean(), **DOUBLE)

    def test_generation_and_own_position_ids_are_refused(self, family, ready):
        attached, _, tokenizer, _ = ready(family)
        inputs = inputs_of(tokenizer, "right")
        with pytest.raises(UnsupportedModel, match="generates nothing"):
            attached.generate(inputs.input_ids)
        with pytest.raises(BadInput, match="position_ids cannot be given"):
            attached(**inputs, position_ids=torch.zeros_like(inputs.input_ids))


@pytest.mark.parametrize("family", ["bert", "albert", "electra"])
def test_token_types_go_with_their_tokens(family, ready):
    attached, model, tokenizer, words = ready(family, head=False)
    inputs = inputs_of(tokenizer, "left")
    types = (torch.arange(inputs.input_ids.shape[1]) % 2).expand_as(inputs.input_ids)
    found = attached(inputs.input_ids, inputs.attention_mask, token_type_ids=types).last_hidden_state
    for i, keep, ids in rows_alone(inputs, words):
        own = torch.cat([torch.zeros_like(words), types[i, keep]])[None]
        expected = model(input_ids=ids, token_type_ids=own).last_hidden_state[0, len(words) :]
        torch.testing.assert_close(found[i, keep], expected, **DOUBLE)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_classification_head_reads_cls_and_not_the_prompt(family, side, tiny_bert):
    """BERT's reads the pooler, RoBERTa's reads index 0 itself."""
    import transformers

    encoder, tokenizer = tiny_bert(family)
    stem = {"bert": "Bert", "roberta": "Roberta"}[family]
    model = getattr(transformers, f"{stem}ForSequenceClassification")(encoder.config).double().eval()
    prompt, words = prompt_of_words(model, tokenizer)
    inputs = inputs_of(tokenizer, side)
    found = attach(prompt, model)(**inputs).logits
    for i, _, ids in rows_alone(inputs, words):
        state = model.base_model(input_ids=ids).last_hidden_state[:, len(words) :]
        if family == "bert":
            expected = model.classifier(torch.tanh(model.bert.pooler.dense(state[:, 0])))
        else:
            expected = model.classifier(state)
        torch.testing.assert_close(found[i : i + 1], expected, **DOUBLE)


@pytest.mark.parametrize("family", ["t5", "bert"])
def test_embeddings_in_place_of_ids_give_the_same(family, ready):
    attached, model, tokenizer, _ = ready(family)
    inputs = inputs_of(tokenizer, "left")
    answer = {"labels": torch.tensor([[5]] * 3)} if family == "t5" else {}
    embeds = model.get_input_embeddings()(inputs.input_ids)
    by_embeds = attached(inputs_embeds=embeds, attention_mask=inputs.attention_mask, **answer)
    by_ids = attached(inputs.input_ids, inputs.attention_mask, **answer)
    assert torch.equal(by_embeds.logits, by_ids.logits)
    with pytest.raises(BadInput, match="one of the two"):
        attached(inputs.input_ids, inputs_embeds=embeds)
    with pytest.raises(BadInput, match="one of the two"):
        attached()


@pytest.mark.parametrize("family", ["t5", "bert"])
def test_a_tuple_holds_the_same_as_the_output_object(family, ready):
    attached, _, tokenizer, _ = ready(family)
    asked = inputs_of(tokenizer, "left") | ({"labels": torch.tensor([[5]] * 3)} if family == "t5" else {})
    as_object, as_tuple = attached(**asked), attached(**asked, return_dict=False)
    assert isinstance(as_tuple, tuple)
    for ours, theirs in zip(as_tuple, as_object.to_tuple(), strict=True):
        assert isinstance(ours, torch.Tensor) is isinstance(theirs, torch.Tensor)
        if isinstance(ours, torch.Tensor):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", ["t5", "bert"])
def test_the_model_stays_as_it_was_and_answers_for_the_rest(family, tiny_model):
    model, tokenizer = tiny_model(family)
    prompt, _ = prompt_of_words(model, tokenizer)
    attached = attach(prompt, model)
    assert all(weight.requires_grad for weight in model.parameters())
    assert not attached.training
    assert attached.config is model.config
    assert attached.device == model.device
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = attached.no_such_thing
    if family == "t5":
        assert attached.generation_config is model.generation_config
    ids = inputs_of(tokenizer, "right").input_ids
    before = {"decoder_input_ids": ids[:, :1]} if family == "t5" else {}
    assert not torch.allclose(attached(ids, **before).logits, model(ids, **before).logits, atol=1e-3)


def test_lora_stays_active_under_an_attached_prompt(tiny_t5):
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    model, tokenizer = tiny_t5(dtype=torch.float64)
    prompt, words = prompt_of_words(model, tokenizer)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM"))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.3)
    wrapped.eval()
    ids = torch.tensor([tokenizer(TEXTS[0]).input_ids])
    expected = wrapped(input_ids=torch.cat([words[None], ids], 1), labels=torch.tensor([[5, 1]])).logits
    found = attach(prompt, wrapped)(ids, labels=torch.tensor([[5, 1]])).logits
    torch.testing.assert_close(found, expected, **DOUBLE)


def test_a_float32_prompt_attaches_to_a_bfloat16_model(tiny_t5):
    model, tokenizer = tiny_t5(dtype=torch.bfloat16)
    prompt, words = prompt_of_words(model, tokenizer)
    attached = attach(prompt, model)
    assert attached.prompt.dtype == torch.float32
    ids = torch.tensor([tokenizer(TEXTS[0]).input_ids])
    expected = model(input_ids=torch.cat([words[None], ids], 1), labels=torch.tensor([[5, 1]])).logits
    assert torch.equal(attached(ids, labels=torch.tensor([[5, 1]])).logits, expected)


def test_a_repeated_prompt_is_expanded(tiny_t5):
    model, tokenizer = tiny_t5(dtype=torch.float64)
    prompt, words = prompt_of_words(model, tokenizer)
    once = SoftPrompt(prompt.vectors[:1], prompt.provenance, repeats=3)
    ids = torch.tensor([tokenizer(TEXTS[0]).input_ids])
    expected = model(input_ids=torch.cat([words[None, :1].repeat(1, 3), ids], 1), labels=torch.tensor([[5]])).logits
    torch.testing.assert_close(once.attach(model)(ids, labels=torch.tensor([[5]])).logits, expected, **DOUBLE)


def test_a_prompt_of_another_model_is_refused(tiny_t5):
    prompt, _ = prompt_of_words(*tiny_t5(seed=1))
    with pytest.raises(ModelMismatch, match="with other word embeddings"):
        prompt.attach(tiny_t5()[0])


def test_a_text_beyond_the_last_position_is_refused(tiny_bert):
    model, tokenizer = tiny_bert()
    prompt, _ = prompt_of_words(model, tokenizer)
    ids = torch.tensor([tokenizer(" ".join(["film"] * 60)).input_ids])
    with pytest.raises(BadInput, match="a prompt of 3 and a text of 62 tokens need 65 positions"):
        prompt.attach(model)(ids)


PADDED = {"rtol": 0, "atol": 1e-5}


@pytest.fixture
def decoder(tiny_gpt):
    """(attached, model, tokenizer, ids of the prompt's words), in float64 where the family's attention allows it."""

    def build(family, **options):
        dtype = torch.float32 if family == "gemma2" or options else torch.float64
        model, tokenizer = tiny_gpt(family, dtype=dtype, **options)
        ids = torch.tensor(tokenizer(WORDS, add_special_tokens=False).input_ids)
        # As they enter the model: Gemma's module scales them.
        vectors = model.get_input_embeddings()(ids).detach().float()
        prompt = SoftPrompt(vectors, Provenance("imported", from_model(copy.deepcopy(model), tokenizer).identity()))
        return prompt.attach(model), model, tokenizer, ids

    return build


def padded_inputs(tokenizer, side):
    """What a tokenizer gives; one without a pad takes its end of sequence, as users do."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    inputs = inputs_of(tokenizer, side)
    return {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask}


def texts_alone(inputs, words):
    """Each row as ids of words and text, without pads, and where its text stands in the batch."""
    for i, keep in enumerate(inputs["attention_mask"].bool()):
        yield i, keep, torch.cat([words, inputs["input_ids"][i, keep]])[None]


@pytest.mark.parametrize("family", DECODERS)
class TestDecoders:
    @pytest.mark.parametrize("side", SIDES)
    def test_outputs_equal_those_of_the_words_without_their_positions(self, family, side, decoder):
        attached, model, tokenizer, words = decoder(family)
        n, inputs = len(words), padded_inputs(tokenizer, side)
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        found = attached(**inputs, labels=labels, output_hidden_states=True)
        losses, tokens = [], []
        for i, keep, ids in texts_alone(inputs, words):
            own = ids.clone()
            own[:, :n] = -100
            row = model(input_ids=ids, labels=own, output_hidden_states=True)
            losses.append(row.loss * int(keep.sum()))
            tokens.append(int(keep.sum()))
            assert found.logits.shape[:2] == inputs["input_ids"].shape
            torch.testing.assert_close(found.logits[i, keep], row.logits[0, n:], **PADDED)
            for ours, theirs in both(found, row, "hidden_states"):
                torch.testing.assert_close(ours[i, keep], theirs[0, n:], **PADDED)
        # Every text token counts, the first as well: it follows the prompt.
        torch.testing.assert_close(found.loss, torch.stack(losses).sum() / sum(tokens), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("side", SIDES)
    def test_attentions_are_those_among_the_text(self, family, side, decoder):
        attached, model, tokenizer, words = decoder(family, attn_implementation="eager")
        n, inputs = len(words), padded_inputs(tokenizer, side)
        found = attached(**inputs, output_attentions=True)
        for i, keep, ids in texts_alone(inputs, words):
            row = model(input_ids=ids, output_attentions=True)
            for ours, theirs in both(found, row, "attentions"):
                torch.testing.assert_close(ours[i][:, keep][:, :, keep], theirs[0][:, n:, n:], **PADDED)

    @pytest.mark.parametrize("side", SIDES)
    def test_a_cache_goes_on_as_if_all_had_been_read_at_once(self, family, side, decoder):
        attached, model, tokenizer, words = decoder(family)
        inputs = padded_inputs(tokenizer, side)
        more = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13]])
        mask, cache, found = inputs["attention_mask"], None, []
        cache = attached(**inputs, use_cache=True).past_key_values
        for step in (more[:, :1], more[:, 1:]):
            mask = torch.cat([mask, torch.ones_like(step)], 1)
            output = attached(step, mask, past_key_values=cache, use_cache=True)
            cache, found = output.past_key_values, [*found, output.logits]
        for i, _, ids in texts_alone(inputs, words):
            expected = model(input_ids=torch.cat([ids, more[i : i + 1]], 1)).logits[0, -3:]
            torch.testing.assert_close(torch.cat(found, 1)[i], expected, **PADDED)
        with pytest.raises(BadInput, match="give the mask of both, without the prompt"):
            attached(more[:, :1], mask, past_key_values=cache)

    @pytest.mark.parametrize(
        ("side", "asked"),
        [
            ("right", {"max_new_tokens": 6}),
            ("left", {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5}),
        ],
        ids=["greedy", "beams"],
    )
    def test_generation_equals_that_of_the_words_behind_the_input_ids(self, family, side, asked, decoder):
        attached, model, tokenizer, words = decoder(family)
        inputs = padded_inputs(tokenizer, side)
        asked = {**asked, "do_sample": False, "pad_token_id": tokenizer.eos_token_id}
        found = attached.generate(**inputs, **asked)
        copies, t = asked.get("num_return_sequences", 1), inputs["input_ids"].shape[1]
        assert torch.equal(found[:, :t], inputs["input_ids"].repeat_interleave(copies, 0))
        for i, _, ids in texts_alone(inputs, words):
            expected = model.generate(ids, **asked)[:, ids.shape[1] :]
            ours = found[copies * i : copies * (i + 1), t:]
            width = expected.shape[1]
            assert torch.equal(ours[:, :width], expected)
            assert (ours[:, width:] == tokenizer.eos_token_id).all()

    def test_sampling_draws_what_it_draws_behind_the_words(self, family, decoder):
        attached, model, tokenizer, words = decoder(family)
        ids = padded_inputs(tokenizer, "left")["input_ids"][1:2]
        asked = {"do_sample": True, "num_return_sequences": 4, "max_new_tokens": 5, "pad_token_id": 0}
        with torch.random.fork_rng():
            torch.manual_seed(3)
            found = attached.generate(ids, **asked)
            torch.manual_seed(3)
            expected = model.generate(torch.cat([words[None], ids], 1), **asked)
        assert torch.equal(found, expected[:, len(words) :])
        assert len(found.unique(dim=0)) > 1

    def test_penalties_see_the_text_and_not_the_prompt(self, family, decoder):
        """Transformers is given the words as vectors and the text as ids."""
        attached, model, tokenizer, words = decoder(family)
        ids = padded_inputs(tokenizer, "left")["input_ids"][1:2]
        asked = {"do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8, "repetition_penalty": 3.0}
        asked["pad_token_id"] = tokenizer.eos_token_id
        embeds = model.get_input_embeddings()(torch.cat([words[None], ids], 1))
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        expected = model.generate(ids, inputs_embeds=embeds, attention_mask=mask, **asked)
        assert torch.equal(attached.generate(ids, **asked), expected)
        plain = model.generate(torch.cat([words[None], ids], 1), **{**asked, "repetition_penalty": 1.0})
        assert not torch.equal(plain[:, len(words) :], expected)

    def test_lengths_count_the_input_ids_and_not_the_prompt(self, family, decoder):
        from transformers import GenerationConfig

        attached, _, tokenizer, _ = decoder(family)
        ids = padded_inputs(tokenizer, "left")["input_ids"][:1]
        t = ids.shape[1]
        asked = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        assert attached.generate(ids, max_length=t + 4, **asked).shape == (1, t + 4)
        given = GenerationConfig(max_length=t + 3, **asked)
        assert attached.generate(ids, generation_config=given).shape == (1, t + 3)
        embeds = attached.get_input_embeddings()(ids)
        assert attached.generate(inputs_embeds=embeds, max_new_tokens=4, **asked).shape == (1, 4)


def test_generation_steps_of_a_decoder_hold_no_prompt_positions(decoder):
    attached, model, tokenizer, words = decoder("llama", attn_implementation="eager")
    n, inputs = len(words), padded_inputs(tokenizer, "right")
    asked = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True,
             "output_hidden_states": True, "output_attentions": True, "pad_token_id": 0}  # fmt: skip
    found = attached.generate(**inputs, **asked)
    for i, keep, ids in texts_alone(inputs, words):
        alone = model.generate(ids, **asked)
        assert torch.equal(found.sequences[i, -3:], alone.sequences[0, -3:])
        new = torch.ones(2, dtype=torch.bool)
        for step in range(3):
            kept = torch.cat([keep, new[:step]])
            states = zip(found.hidden_states[step], alone.hidden_states[step], strict=True)
            for ours, theirs in states:
                expected = theirs[0, n:] if step == 0 else theirs[0]
                torch.testing.assert_close(ours[i, keep] if step == 0 else ours[i], expected, rtol=1e-5, atol=1e-5)
            for ours, theirs in zip(found.attentions[step], alone.attentions[step], strict=True):
                rows = keep if step == 0 else slice(None)
                expected = theirs[0][:, n if step == 0 else 0 :, n:]
                torch.testing.assert_close(ours[i][:, rows][:, :, kept], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
def test_a_classification_head_of_a_decoder_reads_the_last_text_token(side, tiny_gpt):
    """Stock PEFT pools a pad where rows are padded on the right."""
    from transformers import GPT2ForSequenceClassification

    decoder, tokenizer = tiny_gpt("gpt2")
    config = copy.deepcopy(decoder.config)
    config.pad_token_id, config.num_labels = tokenizer.eos_token_id, 3
    torch.manual_seed(0)
    model = GPT2ForSequenceClassification(config).double().eval()
    vectors = model.get_input_embeddings()(torch.tensor([5, 6])).detach().float()
    identity = from_model(copy.deepcopy(decoder), tokenizer).identity()
    identity = dataclasses.replace(identity, embedding_sha256="")
    attached = attach(SoftPrompt(vectors, Provenance("imported", identity)), model)
    inputs = padded_inputs(tokenizer, side)
    found = attached(**inputs, labels=torch.tensor([0, 1, 2])).logits
    for i, _, ids in texts_alone(inputs, torch.tensor([5, 6])):
        state = model.transformer(input_ids=ids).last_hidden_state[:, -1]
        torch.testing.assert_close(found[i : i + 1], model.score(state), **DOUBLE)


def test_positions_and_caches_of_the_callers_own_are_refused(decoder):
    attached, _, tokenizer, _ = decoder("gpt2")
    inputs = padded_inputs(tokenizer, "left")
    with pytest.raises(BadInput, match="position_ids cannot be given"):
        attached(**inputs, position_ids=torch.zeros_like(inputs["input_ids"]))
    with pytest.raises(BadInput, match="past_key_values cannot be given"):
        attached.generate(**inputs, past_key_values=attached(**inputs).past_key_values)
    with pytest.raises(BadInput, match="number of last positions"):
        attached(**inputs, logits_to_keep=torch.tensor([0]))
    last = attached(**inputs, logits_to_keep=1).logits
    assert torch.equal(last, attached(**inputs).logits[:, -1:])
