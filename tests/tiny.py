"""Tiny random models with e = 16 and tokenizers to go with them, built in memory: no network, no files.

All tokenizers know WORDS as one token each and spell any other printable ASCII text in characters.
"""

import os
import string
from typing import Any

import torch

TEXT = """
    yes no 0 1 2 3 4 5 true false good bad great terrible positive negative entailment neutral contradiction
    equivalent different duplicate acceptable unacceptable the a an film movie is was not it and of in to very
    sentence premise hypothesis question answer context choice1 choice2 paris france
"""
WORDS = TEXT.split()
CHARACTERS = [c for c in string.printable if not c.isspace()]
E = 16
# `make test-all`: everything, where `make test` leaves out what takes long and differs little from what it runs.
ALL = os.environ.get("SOFTPROMPT_ALL") == "1"
TYPED = ["input_ids", "token_type_ids", "attention_mask"]

ENCODER_DECODERS = ("t5", "t5-v1.1", "mt5", "umt5", "bart")
ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "albert", "distilbert", "electra", "mpnet")
DECODERS = ("gpt2", "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "opt")
# Families whose code is that of another one here, by that one: only `make test-all` runs tests over families on them.
TWINS = {"mt5": "t5-v1.1", "xlm-roberta": "roberta", "camembert": "roberta", "qwen2": "llama", "gemma": "gemma2"}


def _sentencepiece(specials, template):
    """Unigram over whole words and characters, as T5, ALBERT and XLM-R have it (`▁` begins a word)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = [(s, 0.0) for s in specials] + [("▁", -8.0)]
    pieces += [(c, -9.0) for c in CHARACTERS] + [(f"▁{w}", -1.0) for w in WORDS]
    unknown = next(i for i, s in enumerate(specials) if "unk" in s)
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(s, lstrip="mask" in s.lower(), special=True) for s in specials])
    ids = [(s, specials.index(s)) for s in specials]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return tokenizer


def _wordpiece(specials, template):
    """BERT's: lower case, words, and `##` continuations."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    small = [c for c in CHARACTERS if not c.isupper()]
    vocabulary = dict.fromkeys([*specials, *small, *(f"##{c}" for c in small), *WORDS])
    vocabulary = {piece: i for i, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=specials[1]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(specials))
    ids = [(s, specials.index(s)) for s in specials]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return tokenizer


def _bytes(specials, template="<s> $A </s>"):
    """RoBERTa's, BART's and GPT-2's: byte pairs, `Ġ` begins a word, `good` and ` good` are different tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    pieces, merges = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())], []
    for word in WORDS:
        for end in range(1, len(word) + 1):
            left, right = "Ġ" + word[: end - 1], word[end - 1]
            if left + right not in pieces:
                pieces.append(left + right)
                merges.append((left, right))
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, lstrip="mask" in s, special=True) for s in specials])
    ids = [(s, specials.index(s)) for s in specials]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return tokenizer


def build_tokenizer(family):
    """The tokenizer of a family; special tokens have the ids that its published models have, or nearly."""
    from transformers import PreTrainedTokenizerFast

    if family in ("t5", "t5-v1.1", "mt5", "umt5"):
        inner = _sentencepiece(("<pad>", "</s>", "<unk>"), "$A </s>")
        names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    elif family in ("bert", "distilbert", "electra", "albert"):
        specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
        if family == "albert":
            specials = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
        build = _sentencepiece if family == "albert" else _wordpiece
        inner = build(specials, "[CLS] $A [SEP]")
        # As BERT's own tokenizer answers; the model must take it.
        names: dict[str, Any] = {} if family in ("distilbert", "albert") else {"model_input_names": TYPED}
        names |= dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), specials, strict=True))
    elif family in DECODERS:
        inner, names = _decoder_tokenizer(family)
    else:
        specials = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
        sentencepiece = family in ("xlm-roberta", "camembert")
        inner = _sentencepiece(specials, "<s> $A </s>") if sentencepiece else _bytes(specials)
        names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>",
                 "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def _decoder_tokenizer(family):
    """With a beginning of sequence or none, a pad or none, as the family has it; Mistral's is set to end texts too."""
    if family in ("gpt2", "qwen2", "qwen3"):
        names = {"eos_token": "<|endoftext|>"} | ({} if family == "gpt2" else {"pad_token": "<pad>"})
        return _bytes(tuple(names.values()), "$A"), names
    if family == "opt":
        names = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"}
        return _bytes(("<pad>", "</s>"), "</s> $A"), names
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    names |= {"pad_token": "<pad>"} if family.startswith("gemma") else {}
    return _sentencepiece(tuple(names.values()), "<s> $A </s>" if family == "mistral" else "<s> $A"), names


def _decoder(family, vocabulary, tokenizer, options):
    import transformers

    shape = {
        "vocab_size": vocabulary, "hidden_size": E, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 64, "initializer_range": 0.5,
        "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    if family == "gpt2":
        names = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
                 "intermediate_size": "n_inner", "max_position_embeddings": "n_positions"}  # fmt: skip
        shape = {names.get(name, name): value for name, value in shape.items()}
    elif family == "opt":
        shape |= {"ffn_dim": shape.pop("intermediate_size"), "init_std": shape.pop("initializer_range"),
                  "word_embed_proj_dim": 8}  # fmt: skip
    else:
        # Fewer heads for keys than for queries, and a window that a text of the tests exceeds.
        shape |= {"num_key_value_heads": 1, "head_dim": 8}
        if family in ("mistral", "gemma2"):
            shape["sliding_window"] = 8
    stem = {"gpt2": "GPT2", "opt": "OPT"}.get(family, family.capitalize())
    kind = "GPT2LMHeadModel" if family == "gpt2" else f"{stem}ForCausalLM"
    return getattr(transformers, kind)(getattr(transformers, f"{stem}Config")(**{**shape, **options}))


def _encoder_decoder(family, vocabulary, options):
    from transformers import (
        BartConfig,
        BartForConditionalGeneration,
        MT5Config,
        MT5ForConditionalGeneration,
        T5Config,
        T5ForConditionalGeneration,
        UMT5Config,
        UMT5ForConditionalGeneration,
    )

    # Not transformers' 0.02, at which a tiny model is almost linear and hides mistakes; T5 has its own measure.
    shape: dict[str, Any] = {"vocab_size": vocabulary, "d_model": E}
    if family == "bart":
        shape |= {
            "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
            "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64, "init_std": 0.5,
            "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
        }  # fmt: skip
        return BartForConditionalGeneration(BartConfig(**{**shape, **options}))
    shape |= {"d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    shape |= {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    if family != "t5":
        shape |= {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    kinds = {"mt5": (MT5Config, MT5ForConditionalGeneration), "umt5": (UMT5Config, UMT5ForConditionalGeneration)}
    settings, kind = kinds.get(family, (T5Config, T5ForConditionalGeneration))
    return kind(settings(**{**shape, **options}))


def _encoder(family, vocabulary, tokenizer, head, options):
    import transformers

    # Not transformers' 0.02, at which a tiny model is almost linear and hides mistakes.
    shape = {
        "vocab_size": vocabulary, "hidden_size": E, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 64, "initializer_range": 0.5,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    if family == "albert":
        shape |= {"hidden_size": 32, "embedding_size": E}
    if family == "electra":
        shape |= {"hidden_size": 32, "embedding_size": E}
    if family == "distilbert":
        names = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
                 "intermediate_size": "hidden_dim"}  # fmt: skip
        shape = {names.get(name, name): value for name, value in shape.items()}
    stem = {
        "bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert",
        "albert": "Albert", "distilbert": "DistilBert", "electra": "Electra", "mpnet": "MPNet",
    }[family]  # fmt: skip
    config = getattr(transformers, f"{stem}Config")(**{**shape, **options})
    return getattr(transformers, f"{stem}ForMaskedLM" if head else f"{stem}Model")(config)


def build_model(family, *, head=True, seed=0, dtype=torch.float32, **options):
    """A random (model, tokenizer) of a family, in evaluation mode; options go to its configuration."""
    tokenizer = build_tokenizer(family)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if family in ENCODER_DECODERS:
            model: Any = _encoder_decoder(family, len(tokenizer), options)
        elif family in DECODERS:
            model = _decoder(family, len(tokenizer), tokenizer, options)
        else:
            model = _encoder(family, len(tokenizer), tokenizer, head, options)
    return model.to(dtype).eval(), tokenizer
