"""Families that are in no table: taken if a prompt acts as it should in them, refused with the reason if not."""

import pytest
import torch
import transformers
from softprompt.backbones import from_model
from softprompt.backbones.rescale.verify import random_rows, verify
from softprompt.errors import BadInput, UnsupportedModel
from softprompt.prompts.batch import PromptBatch, TextBatch

from tiny import DECODERS, ENCODER_DECODERS, ENCODERS, build_tokenizer

SHAPE = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 64, "initializer_range": 0.5,
}  # fmt: skip


def build(kind, config, family, **options):
    tokenizer = build_tokenizer(family)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, kind)(getattr(transformers, config)(vocab_size=len(tokenizer), **options))
    return model.eval(), tokenizer


def deberta():
    relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    return build("DebertaV2ForMaskedLM", "DebertaV2Config", "bert", **SHAPE, **relative)


def test_an_encoder_that_keeps_both_properties_is_taken():
    backbone = from_model(*deberta())
    assert (backbone.kind, backbone.answers) == ("encoder", "label-words")


def test_an_encoder_decoder_that_keeps_both_properties_is_taken():
    sizes = {f"{half}_{name}": n for half in ("encoder", "decoder") for name, n in
             (("layers", 2), ("attention_heads", 2), ("ffn_dim", 32))}  # fmt: skip
    model = build(
        "MBartForConditionalGeneration", "MBartConfig", "bart", d_model=16, max_position_embeddings=64, init_std=0.5,
        decoder_start_token_id=2, **sizes,
    )  # fmt: skip
    assert from_model(*model).kind == "encoder-decoder"


def test_a_convolution_that_reads_pads_is_refused():
    model = build("ConvBertForMaskedLM", "ConvBertConfig", "bert", embedding_size=16, **SHAPE)
    with pytest.raises(UnsupportedModel, match="padding changes its states"):
        from_model(*model)


def test_a_model_that_reads_a_prompt_unlike_its_words_is_refused(monkeypatch):
    """The backbone's own join is broken: words and prompt no longer have the same positions."""
    from softprompt.backbones import EncoderBackbone

    inputs = EncoderBackbone._inputs

    def without_the_prompt_counted(self, joined):
        given = inputs(self, joined)
        given["position_ids"] = (given["position_ids"] - joined.prompt_length).clamp(min=0)
        return given

    monkeypatch.setattr(EncoderBackbone, "_inputs", without_the_prompt_counted)
    model = build("MegatronBertForMaskedLM", "MegatronBertConfig", "bert", **SHAPE)
    with pytest.raises(UnsupportedModel, match="does not act as those words"):
        from_model(*model)


def jamba():
    """Attention and a recurrence by turns; the experts are where it would be large."""
    sizes = {name: 2 for name in ("attn_layer_period", "expert_layer_period", "num_experts", "mamba_dt_rank")}
    return build(
        "JambaForCausalLM", "JambaConfig", "gemma", **SHAPE, **sizes, num_key_value_heads=1, mamba_d_state=4,
        attn_layer_offset=1, expert_layer_offset=1, num_experts_per_tok=1, pad_token_id=2, eos_token_id=2,
    )  # fmt: skip


def pegasus(kind="Pegasus", **options):
    sizes = {f"{half}_{name}": n for half in ("encoder", "decoder") for name, n in
             (("layers", 2), ("attention_heads", 2), ("ffn_dim", 32))}  # fmt: skip
    return build(
        f"{kind}ForConditionalGeneration", f"{kind}Config", "bart", d_model=16, max_position_embeddings=64,
        init_std=0.5, scale_embedding=True, decoder_start_token_id=2, **sizes, **options,
    )  # fmt: skip


def gemma3n():
    model, tokenizer = build(
        "Gemma3nForCausalLM", "Gemma3nTextConfig", "gemma", **SHAPE, num_key_value_heads=1, head_dim=8,
        hidden_size_per_layer_input=8, vocab_size_per_layer_input=200, num_kv_shared_layers=0, laurel_rank=4,
        activation_sparsity_pattern=[0.0, 0.0], layer_types=["full_attention", "full_attention"], sliding_window=32,
    )  # fmt: skip
    # What its layers read of the ids is multiplied by zeros until it is trained.
    for layer in model.model.layers:
        layer.altup.correct_output_scale.data.fill_(1.0)
    return model, tokenizer


def scores_by_ids(model, row, answers, start=None):
    """Log-probability of each answer by one pass of the model over its own ids."""
    scores = []
    for answer in answers:
        read = torch.tensor([answer[:-1]], dtype=torch.long)
        if start is None:
            logits = model(input_ids=torch.cat([row[None], read], 1)).logits[0, len(row) - 1 :]
        else:
            decoder = torch.cat([torch.tensor([[start]]), read], 1)
            logits = model(input_ids=row[None], decoder_input_ids=decoder).logits[0]
        scores.append(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum())
    return torch.stack(scores)


@torch.no_grad()
def assert_reads_ids(model, tokenizer, start=None):
    """Scores of padded rows behind a prompt of nothing are those of each row's ids alone."""
    backbone = from_model(model, tokenizer)
    rows = random_rows(backbone)
    answers = [[9, 5, 7, 8], [30, 12], [40]]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    prompt_batch = PromptBatch.stack([torch.zeros(0, backbone.embedding_size)])
    scores = backbone.label_scores(
        prompt_batch, TextBatch(ids, mask, torch.zeros(len(rows), dtype=torch.long)), answers
    )
    expected = torch.stack([scores_by_ids(model, row, answers, start) for row in rows])
    torch.testing.assert_close(scores, expected, rtol=0, atol=2e-4)
    return backbone


@pytest.mark.parametrize("family", [*ENCODER_DECODERS, *ENCODERS, *DECODERS])
def test_a_known_family_keeps_what_is_tried_of_others(family, tiny_model):
    verify(from_model(*tiny_model(family)))


def test_a_known_family_that_scales_its_words_keeps_it_too(tiny_model):
    verify(from_model(*tiny_model("bart", scale_embedding=True)))


def test_four_rows_of_different_lengths_are_tried_and_the_same_each_time(tiny_model):
    backbone = from_model(*tiny_model("roberta"))
    rows = random_rows(backbone)
    assert len({len(row) for row in rows}) == len(rows) == 4
    assert all(torch.equal(a, b) for a, b in zip(rows, random_rows(backbone), strict=True))
    assert [backbone.tokenizer.decode(rows[0][[0, -2, -1]])] == ["<s><mask></s>"]


@pytest.mark.parametrize("kind", ["Pegasus", "Mvp", "BlenderbotSmall"])
def test_words_that_are_scaled_only_when_they_come_as_ids_are_read_scaled(kind):
    """These encoders multiply by sqrt(d) what they look up, and not the embeddings that they are given."""
    backbone = assert_reads_ids(*pegasus(kind), start=2)
    torch.testing.assert_close(backbone.word_vectors, 4 * backbone.embeddings.weight)


def test_a_model_whose_layers_read_the_ids_themselves_is_refused_with_the_reason():
    with pytest.raises(UnsupportedModel, match=r"a gemma3n_text.*per-layer inputs"):
        from_model(*gemma3n())


def test_a_recurrent_model_scores_an_answer_of_several_tokens_as_its_ids_alone_do():
    assert not assert_reads_ids(*jamba()).continues


def test_a_wrong_answer_of_several_tokens_is_refused(monkeypatch):
    """Each score is .05 nats too high, from the cache and by whole passes."""
    from softprompt.backbones import DecoderBackbone

    right = DecoderBackbone.label_scores
    monkeypatch.setattr(DecoderBackbone, "label_scores", lambda self, *given: right(self, *given) + 0.05)
    with pytest.raises(UnsupportedModel, match="scores of an answer of several tokens"):
        from_model(*jamba())


def test_a_wrong_greedy_answer_is_refused(monkeypatch):
    from softprompt.backbones import DecoderBackbone

    right = DecoderBackbone.answer_ids
    monkeypatch.setattr(DecoderBackbone, "answer_ids", lambda self, *given, **how: right(self, *given, **how).flip(1))
    with pytest.raises(UnsupportedModel, match="greedy answers"):
        from_model(*jamba())


LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 1e4, "factor": 4.0,
    "original_max_position_embeddings": 24,
}  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_rows_that_would_turn_the_rows_beside_them_by_another_table_are_refused(family, tiny_gpt):
    """Longrope chooses one table for the whole batch, by its longest row."""
    backbone = from_model(*tiny_gpt(family, rope_parameters=LONGROPE))
    assert backbone.max_positions == 24
    prompt_batch = PromptBatch.stack([torch.zeros(0, 16)])

    def scores(*lengths):
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        ids = torch.arange(5, 5 + max(lengths)).expand(len(lengths), -1)
        return backbone.label_scores(
            prompt_batch, TextBatch(ids, mask, torch.zeros(len(lengths), dtype=torch.long)), [[9, 8], [7]]
        )

    torch.testing.assert_close(scores(7, 23)[:1], scores(7))
    with pytest.raises(BadInput, match=r"need 25 positions, .* has 24 before longrope"):
        scores(7, 24)


def test_an_answer_ends_before_it_is_turned_by_another_table(tiny_gpt):
    backbone = from_model(*tiny_gpt("llama", rope_parameters=LONGROPE))
    prompt_batch = PromptBatch.stack([torch.zeros(0, 16)])
    ids = torch.arange(5, 25)[None]
    batch = TextBatch(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros(1, dtype=torch.long))
    answer = backbone.answer_ids(prompt_batch, batch, max_new_tokens=30, at_least=5)
    assert answer.shape == (1, 5)
    logits = backbone.model(input_ids=torch.cat([ids, answer[:, :-1]], 1)).logits[0, 19:]
    logits[:, list(backbone.ends)] = -torch.inf
    assert torch.equal(logits.argmax(1), answer[0])
