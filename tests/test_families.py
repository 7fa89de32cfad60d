"""Families whose parts lie elsewhere than in most: they work from loading to export, or are refused when loaded.

Each is a tiny random model made from its configuration.
"""

import copy

import pytest
import torch
import transformers
from softprompt.backbones import from_model, load_backbone
from softprompt.backbones.rescale.scale import digest_of, scaling_of
from softprompt.errors import BadInput, UnsupportedModel
from softprompt.interop.peft import export_peft
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.prompts.prompt import Provenance, SoftPrompt
from torch.utils._pytree import tree_map

from tiny import build_tokenizer

TEXTS = ["the film was good", "a terrible movie , and it was not very good in paris"]
SHAPE = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 32, "max_position_embeddings": 64, "initializer_range": 0.5,
}  # fmt: skip
WINDOW = {"head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1, "mamba_chunk_size": 8}
HALVES = {
    f"{half}_{name}": n for half in ("encoder", "decoder") for name, n in
    (("layers", 2), ("attention_heads", 2), ("ffn_dim", 32))
}  # fmt: skip


def config(name, **options):
    return getattr(transformers, f"{name}Config")(**options)


def joined_berts(v):
    half = {"vocab_size": v, **{k: n for k, n in SHAPE.items() if k != "num_key_value_heads"}}
    halves = config("Bert", **half), config("Bert", **half, is_decoder=True, add_cross_attention=True)
    return transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*halves)


def two_gemmas(v):
    from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig

    half = {**SHAPE, **WINDOW, "vocab_size": v, "query_pre_attn_scalar": 8, "bos_token_id": 0}
    return config("T5Gemma", encoder=T5GemmaModuleConfig(**half), decoder=T5GemmaModuleConfig(**half), vocab_size=v)


def seeing_gemma(v):
    eye = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
           "image_size": 28, "patch_size": 14}  # fmt: skip
    return config("Gemma3", text_config={**SHAPE, **WINDOW, "vocab_size": v}, vision_config=eye)


# The class of the model, the family of its tokenizer, and its configuration by the size of the vocabulary.
FAMILIES = {
    "gemma3": ("Gemma3ForConditionalGeneration", "llama", seeing_gemma),
    "bamba": ("BambaForCausalLM", "llama", lambda v: config("Bamba", vocab_size=v, **SHAPE, **MAMBA, mamba_expand=2,
                                                            attn_layer_indices=[1])),
    "falcon-h1": ("FalconH1ForCausalLM", "llama", lambda v: config("FalconH1", vocab_size=v, **SHAPE, **MAMBA,
                                                                   mamba_d_ssm=32, head_dim=8)),
    "nemotron-h": ("NemotronHForCausalLM", "llama", lambda v: config(
        "NemotronH", vocab_size=v, **{**SHAPE, "num_hidden_layers": 3}, layers_block_type=["mamba", "attention", "mlp"],
        mamba_num_heads=4, mamba_head_dim=8, ssm_state_size=4, n_groups=1, chunk_size=8, head_dim=8)),
    "zamba2": ("Zamba2ForCausalLM", "llama", lambda v: config(
        "Zamba2", vocab_size=v, **{**SHAPE, "num_hidden_layers": 3, "num_key_value_heads": 2},
        layers_block_type=["mamba", "mamba", "hybrid"], mamba_d_state=4, mamba_expand=2, n_mamba_heads=4,
        mamba_headdim=8, mamba_ngroups=1, chunk_size=8, num_mem_blocks=1, use_mem_rope=False)),
    "ctrl": ("CTRLLMHeadModel", "gpt2", lambda v: config("CTRL", vocab_size=v, n_positions=64, n_embd=16, dff=32,
                                                         n_layer=2, n_head=2, initializer_range=0.5)),
    "modernbert-decoder": ("ModernBertDecoderForCausalLM", "llama", lambda v: config(
        "ModernBertDecoder", vocab_size=v, **{**SHAPE, "num_key_value_heads": 2}, local_attention=8, pad_token_id=0,
        layer_types=["sliding_attention", "full_attention"])),
    "t5gemma": ("T5GemmaForConditionalGeneration", "t5", two_gemmas),
    "switch": ("SwitchTransformersForConditionalGeneration", "t5", lambda v: config(
        "SwitchTransformers", vocab_size=v, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2,
        num_heads=2, num_experts=2, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, expert_capacity=64)),
    "nllb-moe": ("NllbMoeForConditionalGeneration", "t5", lambda v: config(
        "NllbMoe", vocab_size=v, d_model=16, **HALVES, max_position_embeddings=64, num_experts=2, expert_capacity=64,
        encoder_sparse_step=2, decoder_sparse_step=2, init_std=0.5)),
    "prophetnet": ("ProphetNetForConditionalGeneration", "t5", lambda v: config(
        "ProphetNet", vocab_size=v, hidden_size=16, num_encoder_layers=2, num_decoder_layers=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, num_encoder_attention_heads=2, num_decoder_attention_heads=2, max_position_embeddings=64,
        init_std=0.5)),
    "two berts": ("EncoderDecoderModel", "bert", joined_berts),
    "distilbert": ("DistilBertForMaskedLM", "distilbert", lambda v: config(
        "DistilBert", vocab_size=v, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=64)),
    "flaubert": ("FlaubertWithLMHeadModel", "bert", lambda v: config(
        "Flaubert", vocab_size=v, emb_dim=16, n_layers=2, n_heads=2, max_position_embeddings=64, embed_init_std=0.5)),
    "mpt": ("MptForCausalLM", "gpt2", lambda v: config("Mpt", vocab_size=v, d_model=16, n_heads=2, n_layers=2,
                                                       max_seq_len=64, initializer_range=0.5)),
    "xglm": ("XGLMForCausalLM", "llama", lambda v: config(
        "XGLM", vocab_size=v, d_model=16, ffn_dim=32, num_layers=2, attention_heads=2, max_position_embeddings=64,
        init_std=0.5)),
}  # fmt: skip


def build(family):
    """A tiny random (model, tokenizer)."""
    kind, words, settings = FAMILIES[family]
    tokenizer = build_tokenizer(words)
    tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id or tokenizer.sep_token_id}
    whole = settings(len(tokenizer))
    for name, value in tokens.items():
        if value is not None:
            setattr(whole, name, value)
    if whole.is_encoder_decoder:
        whole.decoder_start_token_id = tokenizer.pad_token_id
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, kind)(whole).eval()
    return model, tokenizer


@pytest.fixture(scope="module")
def loaded():
    """(backbone, model as it was, prompt of random vectors) of a family, made once."""
    made = {}

    def load(family):
        if family not in made:
            model, tokenizer = build(family)
            backbone = from_model(copy.deepcopy(model), tokenizer)
            scale = backbone.word_vectors.std()
            vectors = torch.randn(3, backbone.embedding_size, generator=torch.Generator().manual_seed(1)) * scale
            provenance = Provenance("imported", backbone.identity(), answers=backbone.answers)
            made[family] = backbone, model, SoftPrompt(vectors.float(), provenance)
        return made[family]

    return load


def rows_of(backbone, texts, targets=None):
    """The texts as a batch, padded on the right."""
    rows = [torch.tensor(backbone.tokenizer(text + backbone.input_suffix).input_ids) for text in texts]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=backbone.pad_id)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    return TextBatch(ids, mask, torch.zeros(len(rows), dtype=torch.long), targets)


@pytest.mark.parametrize("family", FAMILIES)
class TestFamilies:
    def test_it_says_its_sizes_and_a_gradient_reaches_its_prompt(self, family, loaded):
        backbone, _, prompt = loaded(family)
        assert backbone.hidden_size == 16
        assert backbone.max_positions == (None if family in ("switch", "mpt") else 64)
        prompt_batch = PromptBatch.of(prompt)
        prompt_batch.vectors.requires_grad_()
        backbone.logits(
            prompt_batch, rows_of(backbone, TEXTS, torch.tensor([[5, 1], [6, 1]]))
        ).square().sum().backward()
        assert prompt_batch.vectors.grad is not None
        assert prompt_batch.vectors.grad.norm() > 0

    def test_a_row_is_scored_and_answered_alone_as_beside_a_longer_one(self, family, loaded):
        backbone, _, prompt = loaded(family)
        prompt_batch, labels = PromptBatch.of(prompt), backbone.encode_answers(["good", "bad"])
        together = backbone.label_scores(prompt_batch, rows_of(backbone, TEXTS), labels)
        for i, text in enumerate(TEXTS):
            alone = backbone.label_scores(prompt_batch, rows_of(backbone, [text]), labels)
            torch.testing.assert_close(together[i], alone[0], rtol=0, atol=1e-4)
        if backbone.kind != "encoder":
            answers = backbone.generate(prompt_batch, rows_of(backbone, TEXTS), max_new_tokens=4)
            assert answers == [
                backbone.generate(prompt_batch, rows_of(backbone, [x]), max_new_tokens=4)[0] for x in TEXTS
            ]

    def test_a_decoder_generates_the_tokens_that_its_logits_choose(self, family, loaded):
        backbone, _, prompt = loaded(family)
        if backbone.kind != "decoder":
            pytest.skip("no decoder")
        prompt_batch, batch, chosen = (
            PromptBatch.of(prompt),
            rows_of(backbone, TEXTS[:1]),
            torch.zeros(1, 0, dtype=torch.long),
        )
        for _ in range(4):
            targets = torch.cat([chosen, chosen.new_zeros(1, 1)], 1)
            read = TextBatch(batch.ids, batch.mask, batch.owner, targets)
            chosen = torch.cat([chosen, backbone.logits(prompt_batch, read)[:, -1:].argmax(-1)], 1)
            if int(chosen[0, -1]) in backbone.ends:
                break
        expected = backbone.tokenizer.decode(chosen[0], skip_special_tokens=True).strip()
        assert backbone.generate(prompt_batch, batch, max_new_tokens=4) == [expected]

    def test_attached_it_gives_the_backbones_numbers(self, family, loaded):
        backbone, model, prompt = loaded(family)
        same_numbers(backbone, prompt, prompt.attach(copy.deepcopy(model)), skipped=0)

    @pytest.mark.parametrize("saved", [False, True], ids=["model given", "model in its folder"])
    def test_stock_peft_loads_its_export_and_gives_the_backbones_numbers(
        self, family, saved, loaded, tmp_path, monkeypatch
    ):
        peft = pytest.importorskip("peft", reason="PEFT is not installed")
        backbone, model, prompt = loaded(family)
        monkeypatch.chdir(tmp_path)
        if saved:
            model.config.save_pretrained(prompt.provenance.backbone.name)
        export_peft(prompt, tmp_path / "peft", model=None if saved else model)
        stock = peft.PeftModel.from_pretrained(copy.deepcopy(model), str(tmp_path / "peft")).eval()
        same_numbers(backbone, prompt, stock, skipped=prompt.length)


@torch.no_grad()
def same_numbers(backbone, prompt, other, skipped):
    """Whether another model gives what the backbone gives at the answer, the first `skipped` columns being prompt."""
    batch = rows_of(backbone, TEXTS[:1], torch.tensor([[5, 1]]))
    given = {"input_ids": batch.ids, "attention_mask": batch.mask.long()}
    if backbone.kind == "encoder-decoder":
        # The start token of these tokenizers is the pad, which T5Gemma leaves out where no mask is given.
        given["decoder_input_ids"] = torch.tensor([[backbone.start, 5]])
        given["decoder_attention_mask"] = torch.ones(1, 2, dtype=torch.long)
    found = other(**given).logits
    if backbone.kind == "encoder":
        found = found[:, skipped:][batch.ids == backbone.tokenizer.mask_token_id][None]
    elif backbone.kind == "decoder":
        found = found[:, -1:]
    expected = backbone.logits(PromptBatch.of(prompt), batch)[:, : found.shape[1]]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_generate_of_a_model_that_takes_no_vectors_is_refused_by_name(loaded):
    """The backbone goes on token by token itself; transformers' own `generate` would raise its own error."""
    _, model, prompt = loaded("ctrl")
    with pytest.raises(UnsupportedModel, match=r"generate of .* \(a ctrl\) takes no word vectors"):
        prompt.attach(copy.deepcopy(model)).generate(torch.tensor([[5, 6]]))


REFUSED = {
    "a second embedding of the token's id": (
        "Gemma4ForCausalLM", "llama", "per-layer inputs",
        lambda v: config("Gemma4Text", vocab_size=v, **{**SHAPE, **WINDOW}, hidden_size_per_layer_input=4,
                         vocab_size_per_layer_input=v, num_kv_shared_layers=0)),
    "embeddings that are a pair": (
        "IBertForMaskedLM", "roberta", "not one table of plain vectors",
        lambda v: config("IBert", vocab_size=v, pad_token_id=1, **SHAPE)),
    "layers that read ids only": (
        "FSMTForConditionalGeneration", "bart", "reads token ids, and not word vectors",
        lambda v: config("FSMT", langs=["en", "de"], src_vocab_size=v, tgt_vocab_size=v, d_model=16, **HALVES,
                         max_position_embeddings=64)),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_a_family_that_cannot_take_a_prompt_is_refused_by_name_when_it_is_loaded(reason):
    kind, words, message, settings = REFUSED[reason]
    tokenizer = build_tokenizer(words)
    model = getattr(transformers, kind)(settings(len(tokenizer))).eval()
    with pytest.raises(UnsupportedModel, match=message) as refused:
        from_model(model, tokenizer)
    assert model.config.model_type in str(refused.value)


def test_an_encoder_decoder_without_a_token_that_ends_an_answer_is_refused(tiny_t5):
    model, tokenizer = tiny_t5("bart")
    model.config.eos_token_id, tokenizer.eos_token = None, None
    with pytest.raises(UnsupportedModel, match="names no token that ends an answer"):
        from_model(model, tokenizer)


@pytest.mark.parametrize(
    ("template", "says"),
    [("{{ raise_exception('roles must alternate') }}", "roles must alternate"), ("{{ 1 / 0 }}", "ZeroDivisionError")],
)
def test_a_chat_template_that_raises_is_refused(template, says, tiny_gpt):
    model, tokenizer = tiny_gpt("llama")
    tokenizer.chat_template = template
    with pytest.raises(UnsupportedModel, match=f"chat template .* cannot be filled in .*{says}"):
        from_model(model, tokenizer, answers="chat")


class TestHeadsOfAnEncoder:
    @pytest.fixture(params=["modernbert, mean of the states", "bigbird, pooler", "longformer, ids in its head"])
    def classifier(self, request):
        """(model that classifies, tokenizer, base model of its own)."""
        kind, options = {
            "modernbert": ("ModernBert", {"classifier_pooling": "mean", "pad_token_id": 0, "local_attention": 8}),
            "bigbird": ("BigBird", {"attention_type": "original_full"}),
            "longformer": ("Longformer", {"attention_window": 4, "pad_token_id": 0}),
        }[request.param.split(",")[0]]
        tokenizer = build_tokenizer("bert")
        shape = {name: n for name, n in SHAPE.items() if name != "num_key_value_heads"}
        whole = config(kind, vocab_size=len(tokenizer), **{**shape, **options}, num_labels=3)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if kind == "BigBird":
                return transformers.BigBirdForPreTraining(whole).eval(), tokenizer
            return getattr(transformers, f"{kind}ForSequenceClassification")(whole).eval(), tokenizer

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_each_row_of_an_attached_model_is_that_of_the_row_alone(self, classifier, side):
        model, tokenizer = classifier
        table = model.get_input_embeddings().weight
        prompt = SoftPrompt(table[5:8].detach().clone(), Provenance("imported", _identity(model)))
        attached = prompt.attach(model)
        if side == "left" and model.config.model_type == "longformer":
            pytest.skip("its head marks the first column, pad or not, with and without a prompt")
        tokenizer.padding_side = side
        inputs = tokenizer(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            together = _scores(attached(**inputs))
            for i, text in enumerate(TEXTS):
                alone = _scores(attached(**tokenizer([text], return_tensors="pt", return_token_type_ids=False)))
                torch.testing.assert_close(together[i], alone[0], rtol=0, atol=1e-4)
            without = _scores(model(**inputs))
        assert not torch.allclose(together, without, atol=1e-3)


def _identity(model):
    from softprompt.backbones.base import identity_of

    return identity_of(model, "tiny", "encoder")


def _scores(output):
    """What the head says of each whole text."""
    return output.seq_relationship_logits if "seq_relationship_logits" in output else output.logits


class Int8Weight(torch.Tensor):
    """As torchao stores a weight: 8 bits and a scale, floats to whoever multiplies by it, and no memory of its own."""

    levels: torch.Tensor
    scale: torch.Tensor

    def __new__(cls, levels, scale):
        made = torch.Tensor._make_wrapper_subclass(cls, levels.shape, dtype=scale.dtype)
        made.levels, made.scale = levels, scale
        return made

    @classmethod
    def of(cls, weight):
        scale = weight.detach().abs().amax(1, keepdim=True) / 127
        return torch.nn.Parameter(cls((weight.detach() / scale).round().to(torch.int8), scale), requires_grad=False)

    def __tensor_flatten__(self):
        return ["levels", "scale"], None

    def dequantize(self):
        return self.levels * self.scale

    @classmethod
    def __torch_dispatch__(cls, called, types, arguments, named=None):
        # It stays of its kind in another precision, as torchao's does.
        if called in (torch.ops.aten.detach.default, torch.ops.aten._to_copy.default):
            return cls(arguments[0].levels, arguments[0].scale)
        plain = tree_map(lambda x: x.dequantize() if isinstance(x, cls) else x, arguments)
        return called(*plain, **(named or {}))


class TestWeightsOfAnotherKindOfTensor:
    @pytest.fixture(params=["t5", "llama", "bert"])
    def model(self, request, tiny_model):
        """(model whose linear layers are quantised, the same in plain floats, tokenizer)."""
        model, tokenizer = tiny_model(request.param)
        plain, head = copy.deepcopy(model), model.get_output_embeddings()
        for ours, theirs in zip(model.modules(), plain.modules(), strict=True):
            if isinstance(ours, torch.nn.Linear) and ours is not head:
                quantised = Int8Weight.of(ours.weight)
                ours.weight, theirs.weight = quantised, torch.nn.Parameter(quantised.dequantize())
        return model, plain, tokenizer

    def test_memory_is_probed_and_a_step_is_that_of_the_plain_numbers(self, model):
        from softprompt.memory._memory import bytes_per_token

        gradients = []
        for each, engine in ((model[0], "reference"), (model[0], "auto"), (model[1], "reference")):
            backbone = from_model(each, model[2], engine=engine)
            prompt_batch = PromptBatch.stack([backbone.word_vectors[5:8].detach().float()])
            prompt_batch.vectors.requires_grad_()
            batch = rows_of(backbone, TEXTS, torch.tensor([[5], [6]]))
            assert bytes_per_token(backbone, prompt_batch, batch) > 0
            backbone.logits(prompt_batch, batch).square().mean().backward()
            gradients.append(prompt_batch.vectors.grad)
        for gradient in gradients[:2]:
            torch.testing.assert_close(gradient, gradients[2], rtol=1e-5, atol=1e-5)

    def test_it_is_not_packed_nor_quantised_again(self, model):
        quantised, _, tokenizer = model
        backbone = from_model(quantised, tokenizer)
        # The packed passes of a T5 multiply by plain weights; those of an encoder are the model's own layers.
        assert backbone.engine != "packed" or backbone.kind == "encoder"
        with pytest.raises(UnsupportedModel, match="quantised or adapted already"):
            backbone.to_int8()

    def test_a_table_of_word_vectors_is_known_by_the_numbers_it_stands_for(self, tiny_gpt):
        model, _ = tiny_gpt("llama")
        quantised = Int8Weight.of(model.get_input_embeddings().weight)
        plain = digest_of(quantised.dequantize())
        model.get_input_embeddings().weight = quantised
        assert scaling_of(model).original == plain


class TestPickles:
    @pytest.fixture
    def folder(self, tmp_path, tiny_bert, save_tiny):
        """A stored model whose weights are in `pytorch_model.bin`."""
        folder = save_tiny(tmp_path / "model", *tiny_bert())
        (folder / "model.safetensors").unlink()
        return folder

    def test_tensors_alone_are_loaded(self, folder, tiny_bert):
        model, _ = tiny_bert()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        loaded = load_backbone(folder).model
        assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight)

    def test_code_is_not_run_and_the_refusal_is_one_line(self, folder, tmp_path):
        torch.save({"weight": _Runs(tmp_path / "ran")}, folder / "pytorch_model.bin")
        with pytest.raises(BadInput, match="a pickle that holds more than tensors") as refused:
            load_backbone(folder)
        assert not (tmp_path / "ran").exists()
        assert "\n" not in str(refused.value)

    def test_a_file_that_is_none_of_torchs_is_refused_in_one_line(self, folder):
        (folder / "pytorch_model.bin").write_bytes(b"hello, this is no model")
        with pytest.raises(BadInput, match="their file is damaged") as refused:
            load_backbone(folder)
        assert "\n" not in str(refused.value)


class _Runs:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("config.json", '{"model_type": "bert", "hidden_size": "sixteen"}', "is faulty: .*hidden_size"),
        ("config.json", '{"model_type": "no such thing"}', "of no family that transformers knows"),
        ("tokenizer.json", '{"model": 5}', "the tokenizer of .* cannot be loaded"),
    ],
)
def test_a_damaged_file_beside_the_weights_is_refused_in_one_line(file, text, says, tmp_path, tiny_bert, save_tiny):
    folder = save_tiny(tmp_path / "model", *tiny_bert())
    (folder / file).write_text(text)
    with pytest.raises((BadInput, UnsupportedModel), match=says) as refused:
        load_backbone(folder)
    assert "\n" not in str(refused.value)
