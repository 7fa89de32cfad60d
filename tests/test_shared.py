"""The shared-prefix engine of decoders against the passes of transformers: logits, scores, states, every gradient."""

import dataclasses
import logging
import threading
from typing import Any

import pytest
import torch
import transformers
from hypothesis import assume, given
from hypothesis import strategies as st
from softprompt.backbones import Reading, from_model
from softprompt.backbones.decoder import DecoderBackbone
from softprompt.backbones.fast.shared import attention, groups, switch
from softprompt.backbones.fast.shared import passes as passes_file
from softprompt.backbones.fast.shared.layout import common_tokens, lay_out
from softprompt.backbones.fast.shared.tree import AnswerTree, Behind, tree_of
from softprompt.errors import BadInput, UnsupportedModel
from softprompt.losses import task_losses
from softprompt.prompts.batch import PromptBatch, TextBatch

from engine_kit import FIXED, close, differentiated, drawn, loop_of, same_gradients
from kit import review_task
from tiny import DECODERS, E, build_model, build_tokenizer

# Gemma 2 computes its attention in float32 only, and so has tests of its own.
EXACT = tuple(family for family in DECODERS if family != "gemma2")
PADDED = -100


@pytest.fixture(autouse=True)
def exact_norms(monkeypatch):
    """RMS norms in the precision of the model: transformers computes them in float32 in a float64 model too."""
    for family in ("llama", "qwen2", "qwen3", "mistral", "gemma"):
        module = getattr(transformers.models, family)
        modeling = getattr(module, f"modeling_{family}")
        kind = getattr(modeling, f"{family.capitalize()}RMSNorm")
        plain = kind.forward

        def forward(self, states, plain=plain, one=float(family == "gemma")):
            if states.dtype != torch.float64:
                return plain(self, states)
            epsilon = self.eps if one else self.variance_epsilon
            return (one + self.weight) * states * (states.square().mean(-1, keepdim=True) + epsilon).rsqrt()

        monkeypatch.setattr(kind, "forward", forward)


def both(model, tokenizer, **options) -> tuple[DecoderBackbone, DecoderBackbone]:
    """The same model by either engine."""
    pair = [from_model(model, tokenizer, engine=engine, **options) for engine in ("shared", "reference")]
    assert all(isinstance(backbone, DecoderBackbone) for backbone in pair)
    return pair[0], pair[1]  # pyright: ignore[reportReturnType]


def exact(family="llama", seed=0, **options):
    return both(*build_model(family, dtype=torch.float64, seed=seed, **options))


def rows(lengths, labels=(2, 1, 3), owner=None, seed=0, common=0, side="right", words=60):
    """Rows of these text lengths, whose first `common` tokens are equal, with labels of these lengths."""
    draw, width = torch.Generator().manual_seed(seed), max(lengths)
    ids = torch.randint(5, words, (len(lengths), width), generator=draw)
    ids[:, :common] = ids[0, :common]
    mask = torch.stack([torch.arange(width) < n for n in lengths])
    if side == "left":
        ids, mask = ids.flip(1), mask.flip(1)
    many = [labels[i % len(labels)] for i in range(len(lengths))]
    targets = torch.randint(5, 60, (len(lengths), max(many)), generator=draw)
    targets[torch.arange(max(many)) >= torch.tensor(many)[:, None]] = PADDED
    return TextBatch(ids, mask, torch.tensor(owner or [0] * len(lengths)), targets)


@st.composite
def shapes(draw):
    """A family, prompts, and rows."""
    text, p, b = draw(st.integers(1, 7)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    return {
        "family": draw(st.sampled_from(EXACT)),
        "mask": draw(st.lists(st.lists(st.booleans(), min_size=text, max_size=text), min_size=b, max_size=b)),
        "prompts": draw(st.lists(st.integers(0, 4), min_size=p, max_size=p)),
        "owner": draw(st.lists(st.integers(0, p - 1), min_size=b, max_size=b)),
        "labels": draw(st.lists(st.integers(1, 4), min_size=b, max_size=b)),
        "shifted": draw(st.sets(st.sampled_from(("text_delta", "prompt_delta")))),
        "deep": draw(st.booleans()),
        "words": draw(st.sampled_from((6, 60))),
        "short": draw(st.sampled_from((0, attention.SHORT))),
        "saving": draw(st.sampled_from((0.0, 6.0))),
        "pairs": draw(st.sampled_from((1, 1 << 17))),
        "early": draw(st.booleans()),
        "seed": draw(st.integers(0, 999)),
    }


def of(shape, e):
    """The leaves, the prompts and the rows of a drawn shape. Few different words give rows with a common beginning."""
    mask, seed = torch.tensor(shape["mask"]), shape["seed"]
    draw = torch.Generator().manual_seed(seed)
    b, n = len(mask), max(shape["prompts"])
    targets = torch.randint(3, 60, (b, max(shape["labels"])), generator=draw)
    targets[torch.arange(targets.shape[1]) >= torch.tensor(shape["labels"])[:, None]] = PADDED
    prompts = [drawn(size, e, seed=seed + i).requires_grad_() for i, size in enumerate(shape["prompts"])]
    deep: list[torch.Tensor | None] = []
    # The states of this OPT are wider than its words, which deep prompts do not allow.
    if shape["deep"] and shape["family"] != "opt":
        deep = [drawn(1, size, e, seed=seed + 7 + i).requires_grad_() for i, size in enumerate(shape["prompts"])]
        deep[-1:] = [None] if len(deep) > 1 else deep[-1:]
    wide = {"text_delta": mask.shape[1], "prompt_delta": n}
    shifts = {name: drawn(b, wide[name], e, seed=seed + 99).requires_grad_() for name in shape["shifted"]}
    ids = torch.randint(5, shape["words"], mask.shape, generator=draw)
    batch = TextBatch(ids, mask, torch.tensor(shape["owner"]), targets, **shifts)
    leaves = [*prompts, *(layer for layer in deep if layer is not None), *shifts.values()]
    return [leaf for leaf in leaves if leaf.numel()], PromptBatch.stack(prompts, deep=deep), batch


def laid_out(batch, answers=None):
    """The layout of rows behind one prompt of 10 vectors; answers are those of each row."""
    behind = Behind.nothing(len(batch.ids)) if answers is None else Behind.trees([tree_of(answers)], batch.owner)
    return lay_out(PromptBatch.stack([drawn(10, E)]), batch, behind, device=torch.device("cpu"))


def answers(backbone, prompt_batch, batch):
    """Logits at the labels."""
    return backbone.logits(prompt_batch, batch)[batch.targets != PADDED]


class TestAgainstTransformers:
    @FIXED
    @given(shape=shapes())
    def test_logits_and_every_gradient_are_equal_in_float64(self, shape, monkeypatch):
        mask, sizes = torch.tensor(shape["mask"]), torch.tensor(shape["prompts"])
        assume(bool((mask.sum(1) + sizes[torch.tensor(shape["owner"])] > 0).all()))
        monkeypatch.setattr(attention, "SHORT", shape["short"])
        monkeypatch.setitem(groups.SAVING, "cpu", shape["saving"])
        monkeypatch.setitem(groups.PAIRS, "cpu", shape["pairs"])
        shared, reference = exact(shape["family"], shape["seed"])
        shared._shared.passes.runner.ends_early &= shape["early"]
        leaves, prompt_batch, batch = of(shape, shared.embedding_size)
        assume(leaves)
        ours, theirs = answers(shared, prompt_batch, batch), answers(reference, prompt_batch, batch)
        close(ours, theirs, 1e-12)
        same_gradients(differentiated(ours, leaves), differentiated(theirs, leaves), 1e-12)

    @pytest.mark.parametrize("family", EXACT)
    def test_a_tree_of_labels_has_the_scores_and_gradients_of_each_label_alone(self, family):
        shared, reference = exact(family)
        prompts = [drawn(n, shared.embedding_size, seed=n).requires_grad_() for n in (3, 1)]
        prompt_batch = PromptBatch.stack(prompts)
        batch = rows([5, 2, 9, 5], owner=[0, 1, 0, 0], common=2)
        labels = [[7, 8, 2], [9, 2], [7, 9, 5, 2], [11], [7, 9, 2], [7, 9, 5, 3, 2], [7, 2], [7, 9, 6, 3, 2], [9, 8, 2]]
        scores = shared.label_scores(prompt_batch, batch, labels)
        alone = []
        for label in labels:
            targets = torch.tensor([label]).expand(4, -1)
            logits = reference.logits(prompt_batch, dataclasses.replace(batch, targets=targets))
            alone.append(logits.log_softmax(-1).gather(2, targets[:, :, None]).sum((1, 2)))
        close(scores, torch.stack(alone, 1), 1e-12)
        same_gradients(differentiated(scores, prompts), differentiated(torch.stack(alone, 1), prompts), 1e-12)

    @pytest.mark.parametrize("normalize", ["sum", "mean", "first"])
    def test_scores_are_those_of_the_reference(self, normalize):
        shared, reference = exact("gpt2")
        prompt_batch, batch = PromptBatch.stack([drawn(2, E), drawn(0, E)]), rows([5, 2, 4], owner=[0, 1, 0])
        labels = [[7, 8, 2], [9, 2], [11, 2]]
        ours, theirs = (
            backbone.label_scores(prompt_batch, batch, labels, normalize=normalize) for backbone in (shared, reference)
        )
        close(ours, theirs, 1e-12)

    @pytest.mark.parametrize("rows_each", [1, 2, 5])
    def test_scores_in_several_passes_are_those_of_one(self, rows_each, monkeypatch):
        shared, reference = exact()
        prompt_batch = PromptBatch.stack([drawn(2, E), drawn(1, E)])
        batch, which = rows([5, 2, 4, 3, 6], owner=[0, 1, 0, 0, 1]), torch.tensor([1, 0, 0, 1, 1])
        readings = [Reading.of([[7, 8, 2], [7, 9, 2]]), Reading.of([[9, 2], [11, 4, 2], [9, 3, 2]], "mean")]
        expected = reference.label_scores_each(prompt_batch, batch, readings, which)
        # Of the larger reading 5 logits a row are asked for: behind the text, [9], [9, 3], [11] and [11, 4].
        vocabulary = shared.model.config.vocab_size
        monkeypatch.setitem(passes_file.LOGITS, "cpu", rows_each * 5 * vocabulary)
        asked, logits = [], shared._shared.passes.runner.logits
        monkeypatch.setattr(
            shared._shared.passes.runner, "logits", lambda *inputs: asked.append(found := logits(*inputs)) or found
        )
        with torch.no_grad():
            scores = shared.label_scores_each(prompt_batch, batch, readings, which)
        assert len(asked) == -(-5 // rows_each)
        assert all(found.numel() <= rows_each * 5 * vocabulary for found in asked)
        for ours, theirs in zip(scores, expected, strict=True):
            close(ours, theirs, 1e-12)

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_states_of_the_text_are_equal_where_there_is_text(self, side):
        shared, reference = exact("mistral")
        prompt_batch = PromptBatch.stack([drawn(2, E), drawn(0, E)])
        batch = rows([5, 2, 4, 5], side=side, owner=[0, 1, 0, 0], common=1 if side == "right" else 0)
        right = torch.arange(5) < torch.tensor([5, 2, 4, 5])[:, None]
        ours, theirs = (backbone.text_states(prompt_batch, batch)[right] for backbone in (shared, reference))
        close(ours, theirs, 1e-12)

    @pytest.mark.parametrize("family", DECODERS)
    def test_logits_are_equal_in_float32(self, family):
        shared, reference = both(*build_model(family))
        e = shared.embedding_size
        prompt_batch = PromptBatch.stack([drawn(n, e, seed=n, dtype=torch.float32) for n in (4, 1)])
        batch = rows([9, 3, 6, 1], owner=[0, 1, 1, 0])
        close(answers(shared, prompt_batch, batch), answers(reference, prompt_batch, batch), 1e-5)

    def test_bfloat16_is_near_float32(self):
        ours = []
        for dtype in (torch.float32, torch.bfloat16):
            backbone = from_model(*build_model("llama", dtype=dtype), engine="shared")
            ours.append(answers(backbone, PromptBatch.stack([drawn(3, E).float()]), rows([9, 3, 6])).float())
        close(ours[1], ours[0], 0.1)

    def test_recomputed_layers_give_the_same_gradients(self):
        shared, _ = exact()
        prompt, batch = drawn(3, E).requires_grad_(), rows([5, 2, 7, 5], common=2)
        gradients = []
        for on in (False, True):
            shared.gradient_checkpointing(on)
            gradients.append(differentiated(answers(shared, PromptBatch.stack([prompt]), batch), [prompt]))
        shared.gradient_checkpointing(False)
        same_gradients(gradients[1], gradients[0], 1e-13)
        assert "forward" not in shared.layers[-1].__dict__


def other(kind, config, family="llama", **options):
    """A tiny model of a family that has no tests elsewhere."""
    tokenizer = build_tokenizer(family)
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 64, "initializer_range": 0.5,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, kind)(getattr(transformers, config)(**{**shape, **options}))
    return model.eval(), tokenizer


GROUPED: dict[str, Any] = {"num_key_value_heads": 1, "head_dim": 8}
WINDOWS: dict[str, Any] = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
OTHERS = {
    "GPT-NeoX": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {}),
    "Phi": ("PhiForCausalLM", "PhiConfig", {}),
    "Phi 3, which has one matrix for queries, keys and values": ("Phi3ForCausalLM", "Phi3Config", {}),
    "StableLM": ("StableLmForCausalLM", "StableLmConfig", {"num_key_value_heads": 1}),
    "OLMo 2, which norms queries": ("Olmo2ForCausalLM", "Olmo2Config", {}),
    "Cohere, which scales logits": ("CohereForCausalLM", "CohereConfig", {"logit_scale": 0.5}),
    "Granite": ("GraniteForCausalLM", "GraniteConfig", {}),
    "SmolLM 3, of whose layers some have no positions": (
        "SmolLM3ForCausalLM",
        "SmolLM3Config",
        {"num_key_value_heads": 1, "no_rope_layers": [1, 0]},
    ),
    "Gemma 3, whose layers have windows": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {**GROUPED, **WINDOWS},
    ),
    "GPT-OSS, which has sinks": (
        "GptOssForCausalLM",
        "GptOssConfig",
        {**GROUPED, **WINDOWS, "num_local_experts": 2, "num_experts_per_tok": 1},
    ),
}


class TestFamilies:
    @pytest.mark.parametrize("name", OTHERS)
    def test_a_family_that_goes_through_the_interface_is_shared(self, name):
        kind, config, options = OTHERS[name]
        shared, reference = both(*other(kind, config, **options))
        prompt = drawn(6, E, dtype=torch.float32).requires_grad_()
        batch = rows([9, 3, 7, 7], common=2)
        ours, theirs = (answers(one, PromptBatch.stack([prompt]), batch) for one in (shared, reference))
        close(ours, theirs, 1e-5)
        same_gradients(differentiated(ours, [prompt]), differentiated(theirs, [prompt]), 1e-4)

    @pytest.mark.parametrize(
        ("kind", "config", "options"),
        [
            ("BloomForCausalLM", "BloomConfig", {"n_layer": 2, "n_head": 2}),
            ("MptForCausalLM", "MptConfig", {"d_model": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": 64}),
        ],
    )
    def test_a_family_with_biases_by_distance_is_left_to_transformers_with_one_line(
        self, kind, config, options, caplog
    ):
        with caplog.at_level(logging.WARNING, logger="softprompt"):
            backbone = from_model(*other(kind, config, **options))
        assert backbone.engine == "reference"
        assert [record.message.count("\n") for record in caplog.records] == [0]
        assert "passes by transformers, the prompt computed in each row" in caplog.text

    def test_a_window_is_counted_over_prompt_and_text(self):
        """With a window of 4 the end of a text of 9 tokens sees no prompt in the first layer."""
        shared, reference = exact("mistral", sliding_window=4)
        prompt_batch, batch = PromptBatch.stack([drawn(6, E)]), rows([9, 2, 1])
        close(answers(shared, prompt_batch, batch), answers(reference, prompt_batch, batch), 1e-12)
        wide, _ = exact("mistral", sliding_window=64)
        assert (answers(wide, prompt_batch, batch) - answers(shared, prompt_batch, batch)).abs().max() > 1e-3

    def test_capped_scores_and_sinks_are_the_formula(self):
        q, k, v, sinks = drawn(2, 4, 3, 8), drawn(2, 2, 5, 8, seed=1), drawn(2, 2, 5, 8, seed=2), drawn(4, seed=3)
        seen = torch.ones(3, 5, dtype=torch.bool).tril(2).expand(2, 1, 3, 5)
        ours = attention.Scores(scale=0.3, softcap=2.0, sinks=sinks).context(q, k, v, seen)
        for row in range(2):
            for head in range(4):
                scores = 2.0 * torch.tanh(0.3 * q[row, head] @ k[row, head // 2].T / 2.0)
                weights = scores.exp() * seen[row, 0]
                weights = weights / (weights.sum(-1, keepdim=True) + sinks[head].exp())
                torch.testing.assert_close(ours[row, head], weights @ v[row, head // 2])


class TestProbe:
    def test_a_transformers_with_another_attention_is_noticed_and_not_contradicted(self, monkeypatch, caplog):
        model, tokenizer = build_model("llama")
        visible = groups.Group.visible

        def with_a_hole(self, rule):
            seen = visible(self, rule).clone()
            seen[..., 0] &= seen[..., 1:].sum(-1) == 0
            return seen

        monkeypatch.setattr(groups.Group, "visible", with_a_hole)
        with caplog.at_level(logging.WARNING, logger="softprompt"):
            assert from_model(model, tokenizer).engine == "reference"
        assert "differ from transformers'" in caplog.text
        with pytest.raises(UnsupportedModel, match="leave engine='shared' out"):
            from_model(model, tokenizer, engine="shared")

    def test_positions_that_are_counted_through_the_sequence_are_noticed(self, monkeypatch):
        monkeypatch.setattr(
            passes_file.SharedPasses,
            "_layout",
            lambda self, *inputs: dataclasses.replace(
                layout := lay_out(*inputs, device=torch.device("cpu")), positions=torch.arange(len(layout.positions))
            ),
        )
        assert from_model(*build_model("llama")).engine == "reference"

    def test_a_last_layer_that_wants_all_positions_is_given_all(self):
        gpt2, llama = exact("gpt2")[0], exact("llama")[0]
        assert (gpt2._shared.passes.runner.ends_early, llama._shared.passes.runner.ends_early) == (False, True)

    def test_an_encoder_shares_no_prompt(self, tiny_bert):
        with pytest.raises(UnsupportedModel, match="leave engine='shared' out"):
            from_model(*tiny_bert(), engine="shared")

    def test_the_built_in_decoder_is_shared(self, lab_gpt):
        assert lab_gpt.engine == "shared"


class TestModelOfTheUser:
    def test_the_attention_that_the_user_chose_is_kept(self):
        model, tokenizer = build_model("llama")
        model.set_attn_implementation("eager")
        shared, _ = both(model, tokenizer)
        shared.logits(PromptBatch.stack([drawn(3, E)]), rows([4, 2]))
        assert model.config._attn_implementation == "eager"

    def test_the_attention_is_given_back_after_a_crash(self, monkeypatch):
        shared, reference = exact()
        batch, prompt_batch = rows([4, 2]), PromptBatch.stack([drawn(3, E)])
        expected = answers(reference, prompt_batch, batch)

        def crash(*arguments):
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(attention.Scores, "context", crash)
            with pytest.raises(ZeroDivisionError):
                shared.logits(prompt_batch, batch)
        assert shared.model.config._attn_implementation == "sdpa"
        assert switch.current_layout() is None
        assert "forward" not in shared.layers[-1].__dict__
        close(answers(reference, prompt_batch, batch), expected, 0)

    def test_a_pass_of_the_user_in_another_thread_has_the_attention_of_the_user(self):
        """It runs in the middle of a shared pass of the same model."""
        shared, _ = exact()
        ids = torch.randint(3, 60, (2, 6), generator=torch.Generator().manual_seed(0))
        expected, theirs = shared.model(input_ids=ids).logits, []

        def call(module, arguments):
            handle.remove()
            thread = threading.Thread(target=lambda: theirs.append(shared.model(input_ids=ids).logits))
            thread.start()
            thread.join()

        batch, prompt_batch = rows([4, 2]), PromptBatch.stack([drawn(3, E)])
        ours = answers(shared, prompt_batch, batch)
        handle = shared.model.model.layers[1].mlp.register_forward_pre_hook(call)
        # Hooks would send the pass to transformers, so the engine is called below its check.
        again = shared._shared.passes.logits(prompt_batch, batch)
        close(theirs[0], expected, 0)
        close(again[batch.targets != PADDED], ours, 0)

    @pytest.mark.parametrize("reason", ["hooks act on its layers", "its dropout is on"])
    def test_what_cannot_be_shared_is_left_to_transformers_with_one_line(self, reason, caplog):
        shared, reference = exact()
        batch, prompt_batch = rows([4, 2]), PromptBatch.stack([drawn(3, E)])
        expected = answers(reference, prompt_batch, batch)
        if reason == "its dropout is on":
            shared.dropout(True)
        else:
            shared.layers[0].register_forward_hook(lambda *arguments: None)
        with caplog.at_level(logging.WARNING, logger="softprompt"):
            for _ in range(2):
                close(answers(shared, prompt_batch, batch), expected, 0)
        assert caplog.text.count(reason) == 1

    def test_generated_answers_are_equal(self):
        shared, reference = exact()
        prompt_batch, batch = PromptBatch.stack([drawn(3, E)]), rows([4, 2, 6])
        ours, theirs = (one.answer_ids(prompt_batch, batch, max_new_tokens=4) for one in (shared, reference))
        assert ours.tolist() == theirs.tolist()

    def test_a_row_that_is_empty_or_too_long_is_refused_as_by_the_reference(self):
        shared, _ = exact()
        with pytest.raises(BadInput, match="row 1 has neither prompt nor text"):
            shared.logits(PromptBatch.stack([drawn(0, E)]), rows([3, 0], labels=(1,)))
        with pytest.raises(BadInput, match="need 73 positions"):
            shared.logits(PromptBatch.stack([drawn(4, E)]), rows([3, 66], labels=(4,)))


class TestWork:
    def test_a_prompt_and_a_common_beginning_are_computed_once(self):
        batch = rows([9, 5, 7], common=3, labels=(1,))
        layout = lay_out(
            PromptBatch.stack([drawn(10, E)]), batch, Behind.nothing(len(batch.ids)), device=torch.device("cpu")
        )
        assert len(layout.tokens) == 10 + 3 + (6 + 2 + 4)

    def test_each_row_keeps_a_token_of_its_own(self):
        ids = torch.full((2, 4), 7).numpy()
        counts = common_tokens(ids, torch.tensor([4, 3]).numpy(), torch.tensor([0, 0]).numpy(), 1)
        assert counts.tolist() == [2]

    def test_tokens_that_labels_begin_with_are_computed_once(self):
        # "question about X Y" with 10 of X and 6 of Y: 2 + 10 + 60 tokens, where label after label has 240.
        labels = tuple((2, 3, 10 + x, 20 + y) for x in range(10) for y in range(6))
        batch = rows([9, 5, 7], common=3, labels=(1,))
        layout = laid_out(batch, labels)
        assert len(layout.tokens) == 10 + 3 + (6 + 2 + 4) + 3 * 72
        assert len(layout.queries) == 3 * 73

    def test_answers_of_a_tree_are_numbered_with_all_that_goes_on_from_a_token_behind_it(self):
        answers = ((7, 8), (9,), (7, 9, 5), (), (7, 9), (9,))
        paths = ((1, 2), (5,), (1, 3, 4), (), (1, 3), (5,))
        assert tree_of(answers) == AnswerTree((7, 8, 9, 5, 9), (0, 1, 1, 2, 0), (4, 2, 4, 4, 5), paths)

    def test_perturbed_rows_carry_copies_of_their_prompt(self):
        batch = dataclasses.replace(rows([9, 5], common=3, labels=(1,)), prompt_delta=torch.zeros(2, 10, E))
        layout = lay_out(
            PromptBatch.stack([drawn(10, E)]), batch, Behind.nothing(len(batch.ids)), device=torch.device("cpu")
        )
        assert len(layout.tokens) == 2 * 10 + 9 + 5

    def test_the_last_layer_computes_what_is_behind_its_attention_at_labels_only(self):
        shared, _ = exact()
        counted, plain = [], torch.nn.Linear.forward
        down = shared.model.model.layers[-1].mlp.down_proj
        down.forward = lambda x: counted.append(x.shape[1]) or plain(down, x)  # pyright: ignore
        shared.logits(PromptBatch.stack([drawn(4, E)]), rows([9, 5, 7], labels=(1, 2)))
        assert counted == [1 + 2 + 1]

    def test_rows_of_another_prompt_do_not_see_what_is_not_a_number(self):
        shared, _ = exact()
        broken = drawn(2, E)
        broken[0, 0] = torch.nan
        prompts = [broken.requires_grad_(), drawn(4, E, seed=1).requires_grad_(), drawn(0, E)]
        batch = rows([5, 3, 6, 2, 4], owner=[0, 1, 2, 1, 0], common=1, labels=(2, 1))
        logits = shared.logits(PromptBatch.stack(prompts), batch)
        is_broken = torch.tensor([0, 1, 1, 1, 0]) == 0
        assert logits[is_broken].isnan().any()
        assert not logits[~is_broken].isnan().any()
        (gradient,) = torch.autograd.grad(logits.nansum() + logits[~is_broken].sum(), prompts[1:2])
        assert not gradient.isnan().any()

    def test_rows_in_parts_have_the_gradients_of_all_rows_at_once(self):
        shared, _ = exact("gpt2")
        prompt, batch = drawn(3, E).requires_grad_(), rows([5, 2, 7, 5], common=2)

        def gradient(parts):
            losses = []
            for part in (batch.select(torch.tensor(chosen)).trimmed() for chosen in parts):
                assert part.targets is not None
                losses.append(task_losses(shared.logits(PromptBatch.stack([prompt]), part), part.targets).sum())
            return torch.autograd.grad(torch.stack(losses).sum(), [prompt])

        same_gradients(gradient([[2], [0, 3], [1]]), gradient([[0, 1, 2, 3]]), 1e-12)


def test_fifty_steps_of_a_fleet_end_at_the_same_prompts(tmp_path):
    task = review_task(tmp_path / "data")
    shared, reference = exact("llama")
    ours, theirs = (loop_of(one, task, tmp_path / one.engine, 50) for one in (shared, reference))
    assert len(ours) == len(theirs)
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=1e-9)
