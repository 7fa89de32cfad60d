import dataclasses
import string
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from softprompt.data import Examples, Ragged, TextFormat, epoch_batches, stream, tokenize
from softprompt.data._truncate import shares, shortened_text
from softprompt.errors import BadInput
from softprompt.prompts.batch import SPECIAL, TEMPLATE, UNKNOWN
from softprompt.tasks import Source, Task, task

TASK = Task(
    name="qa",
    source=Source(),
    template="ask {question} read {passage} end",
    labels=("no", "yes"),
    truncate=("passage",),
)
BOTH = dataclasses.replace(TASK, truncate=())


def word_level():
    """One token a word of one letter, `<s>` before and `</s>` behind."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<s>", "</s>", "<unk>", "ask", "read", "end", "mask", *string.ascii_lowercase]
    inner = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>")


WORDS = word_level()


class NoOffsets:
    """The same tokenizer as a slow one: ids only."""

    is_fast = False
    all_special_ids = (0, 1, 2)

    def __call__(self, text, **_):
        return {"input_ids": WORDS(text)["input_ids"]}

    def get_vocab(self):
        return WORDS.get_vocab()

    def __repr__(self):
        return "NoOffsets()"


def encode_answers(words):
    return [[10 * len(word), 2] for word in words]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTPROMPT_CACHE", str(tmp_path / "cache"))


def tokens(rows, declared=TASK, *, limit=256, targets=True, **reading: Any):
    """The examples that `reading`, fields of a TextFormat, makes of the rows."""
    given: dict[str, Any] = {"tokenizer": WORDS, "answers": "tokens", "encode_answers": encode_answers, **reading}
    return tokenize(rows, declared, TextFormat(**given), max_length=limit, targets=targets)


def row(question, passage, label: Any = 0):
    return {"question": question, "passage": passage, "label": label}


words = st.lists(st.sampled_from(string.ascii_lowercase), min_size=1, max_size=12).map(" ".join)
MANY = settings(max_examples=150, deadline=None)


def parts_of(made):
    assert made.parts is not None
    return made.parts.row(0).tolist()


class TestParts:
    def test_each_token_knows_its_column_the_template_or_that_it_is_special(self):
        made = tokens([row("a b", "c d e")], suffix=" mask")
        assert parts_of(made) == [SPECIAL, TEMPLATE, 1, 1, TEMPLATE, 2, 2, 2, TEMPLATE, TEMPLATE, SPECIAL]

    def test_what_is_cut_off_is_cut_off_the_parts_too(self):
        made = tokens([row("a b", "c d e")], limit=8)
        assert parts_of(made) == [SPECIAL, TEMPLATE, 1, 1, TEMPLATE, 2, TEMPLATE, SPECIAL]

    def test_a_special_token_written_in_a_text_is_special(self):
        made = tokens([row("a <pad>", "c")])
        assert parts_of(made) == [SPECIAL, TEMPLATE, 1, SPECIAL, TEMPLATE, 2, TEMPLATE, SPECIAL]

    def test_without_offsets_nothing_is_claimed(self):
        made = tokens([row("a", "c")], tokenizer=NoOffsets())
        assert parts_of(made) == [SPECIAL, *[UNKNOWN] * 5, SPECIAL]

    def test_a_batch_holds_them_and_its_pads_are_special(self):
        batch = tokens([row("a", "c"), row("a", "c d")]).batch([0, 1], 0, 0)
        assert batch.parts is not None
        assert batch.parts[0].tolist() == [SPECIAL, TEMPLATE, 1, TEMPLATE, 2, TEMPLATE, SPECIAL, SPECIAL]

    def test_they_are_read_back_from_the_cache(self):
        first, second = (tokens([row("a b", "c")]) for _ in range(2))
        assert first.parts is not second.parts
        assert parts_of(first) == parts_of(second)


class TestTruncation:
    @MANY
    @given(words, words, st.integers(5, 30))
    def test_only_the_end_of_the_allowed_column_goes(self, question, passage, limit):
        rows = [row(question, passage)]
        kept = passage.split()
        while kept and len(f"<s> ask {question} read end </s>".split()) + len(kept) > limit:
            kept.pop()
        fixed = len(f"<s> ask {question} read end mask </s>".split())
        if fixed > limit:
            with pytest.raises(BadInput, match=rf"row 1 has .* tokens, {limit} are allowed"):
                tokens(rows, limit=limit, suffix=" mask")
            return
        kept = passage.split()[: limit - fixed]
        expected = WORDS(f"ask {question} read {' '.join(kept)} end mask")["input_ids"]
        for tokenizer in (WORDS, NoOffsets()):
            made = tokens(rows, limit=limit, suffix=" mask", tokenizer=tokenizer)
            assert made.inputs.row(0).tolist() == expected
            assert made.truncated == (len(kept) < len(passage.split()))

    @MANY
    @given(words, words, st.integers(5, 30))
    def test_the_longest_column_loses_first(self, question, passage, limit):
        columns = [question.split(), passage.split()]
        while sum(map(len, columns)) + 5 > limit:
            # The last of equally long columns: what is left over stays with the first.
            max(reversed(columns), key=len).pop()
        expected = WORDS(f"ask {' '.join(columns[0])} read {' '.join(columns[1])} end")["input_ids"]
        made = tokens([row(question, passage)], BOTH, limit=limit)
        assert made.inputs.row(0).tolist() == expected

    @MANY
    @given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 40))
    def test_shares_are_those_of_taking_from_the_longest_one_by_one(self, lengths, budget):
        left = list(lengths)
        while sum(left) > budget:
            longest = max(left)
            left[len(left) - 1 - left[::-1].index(longest)] -= 1
        assert shares(lengths, budget) == left

    @MANY
    @given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 30))
    def test_shortened_text_keeps_as_many_characters_as_fit(self, first, second, most):
        text, spans = f"<{'a' * first}><{'b' * second}>", [(1, 1 + first), (3 + first, 3 + first + second)]
        made = shortened_text(text, spans, lambda shorter: len(shorter) <= most)
        kept = shares([first, second], most - 4)
        assert made == (f"<{'a' * kept[0]}><{'b' * kept[1]}>" if kept else None)

    @pytest.mark.parametrize("family", ["t5", "bert", "roberta", "albert"])
    def test_template_and_question_survive_in_every_tokenizer(self, family, tiny_model):
        tokenizer = tiny_model(family)[1]
        declared = dataclasses.replace(
            task("super_glue/boolq"), template="question: {question} context {passage}; answer:"
        )
        given = {"question": "is it good", "passage": "the film was " * 8 + "zebra", "label": 1}
        full = tokenizer(declared.render(given).text)["input_ids"]
        behind = len(tokenizer("; answer:")["input_ids"])
        before = tokenizer("question: is it good context", add_special_tokens=False)["input_ids"]
        for limit in range(len(full) - 24, len(full)):
            made = tokens([given], declared, limit=limit, tokenizer=tokenizer).inputs.row(0).tolist()
            gone = len(full) - limit
            assert len(made) == limit
            # One block is missing, just before "; answer:".
            end = next(i for i in range(len(made)) if made[i:] == full[i + gone :])
            assert made[:end] == full[:end]
            assert tokenizer.decode(made, skip_special_tokens=True).replace(" ", "").endswith(";answer:")
            assert [t for t in made if t in before][: len(before)] == before
            assert limit - end <= behind + 1

    def test_a_token_shared_with_the_template_belongs_to_the_template(self):
        declared = dataclasses.replace(TASK, template="ask ({passage}) end")
        made = tokens([row("", "a b c")], declared, limit=6).inputs.row(0).tolist()
        assert made == WORDS("ask (a c) end")["input_ids"]
        with pytest.raises(BadInput, match="row 1 has 7 tokens, 5 are allowed"):
            tokens([row("", "a b c")], declared, limit=5)

    def test_the_count_of_truncated_rows_is_kept(self):
        made = tokens([row("a", "b c d e"), row("a", "b"), row("a", "b c d e f")], limit=8)
        assert made.truncated == 2
        assert made.lengths.tolist() == [8, 7, 8]

    def test_a_row_that_cannot_be_cut_is_named_with_its_lengths(self):
        with pytest.raises(BadInput, match="row 2 has 10 tokens, 8 are allowed, and cutting 'passage'"):
            tokens([row("a", "b c"), row("a b c d", "e")], limit=8)


class TestTargets:
    ROWS = [row("a", "b", 1), row("a", "c d", 0), row("e", "f", 1)]  # noqa: RUF012 (never changed)

    @pytest.mark.parametrize("answers", ["tokens", "label-words"])
    def test_label_words_become_their_tokens(self, answers):
        made = tokens(self.ROWS, answers=answers)
        assert isinstance(made.targets, Ragged)
        assert [made.targets.row(i).tolist() for i in range(3)] == [[30, 2], [20, 2], [30, 2]]
        assert made.gold == [1, 0, 1]
        assert made.labels == ("no", "yes")

    def test_a_linear_head_gets_class_ids_and_encodes_nothing(self):
        made = tokens(self.ROWS, answers="linear-head", encode_answers=lambda _: pytest.fail("called"))
        assert isinstance(made.targets, torch.Tensor)
        assert made.targets.tolist() == [1, 0, 1]

    def test_numbers_are_written_for_text_models_and_kept_for_a_head(self):
        declared = dataclasses.replace(task("glue/stsb"), template="{sentence1} {sentence2}")
        rows = [{"sentence1": "a", "sentence2": "b", "label": v} for v in (3.75, 0.0, 3.75)]
        asked = []
        made = tokens(rows, declared, encode_answers=lambda w: (asked.extend(w), encode_answers(w))[1])
        assert asked == ["3.8", "0.0"]
        assert made.gold == [3.75, 0.0, 3.75]
        made = tokens(rows, declared, answers="linear-head")
        assert isinstance(made.targets, torch.Tensor)
        assert made.targets.dtype == torch.float32
        targets = made.batch([0, 1], 0, 0).targets
        assert targets is not None
        assert targets.tolist() == [[3.75], [0.0]]
        with pytest.raises(BadInput, match="'glue/stsb' has no label words"):
            tokens(rows, declared, answers="label-words")

    def test_texts_are_encoded_once_and_a_head_refuses_them(self):
        declared = dataclasses.replace(TASK, answer="text", labels=())
        rows = [row("a", "b", ["xy", "z"]), row("a", "b", ["xyz"]), row("a", "b", "xy")]
        made = tokens(rows, declared)
        assert isinstance(made.targets, Ragged)
        assert [made.targets.row(i).tolist() for i in range(3)] == [[20, 2], [30, 2], [20, 2]]
        assert made.gold == [["xy", "z"], ["xyz"], ["xy"]]
        with pytest.raises(BadInput, match="a linear head gives classes or numbers"):
            tokens(rows, declared, answers="linear-head")

    def test_rows_without_answers_have_no_targets(self):
        made = tokens([{"question": "a", "passage": "b"}], targets=False)
        assert made.targets is None
        assert made.gold == []
        assert made.batch([0], 0, 0).targets is None

    def test_an_empty_column_names_its_row(self):
        with pytest.raises(BadInput, match="row 2: column 'passage' is empty"):
            tokens([row("a", "b"), row("a", None)])


class TestCache:
    ROWS = [row("a", "b c d e"), row("f", "g")]  # noqa: RUF012 (never changed)

    @pytest.fixture
    def folder(self, tmp_path):
        return tmp_path / "cache"

    @pytest.fixture
    def calls(self, monkeypatch):
        made = []
        from softprompt.data import _tokenize

        encode = _tokenize._encode_fast
        monkeypatch.setattr(_tokenize, "_encode_fast", lambda *a: (made.append(a), encode(*a))[1])
        return made

    def test_the_second_time_nothing_is_tokenised(self, folder, calls):
        first = tokens(self.ROWS, limit=8)
        # Called otherwise in between, which leaves its own padding and truncation behind in the tokenizer.
        WORDS("a b c", padding="max_length", truncation=True, max_length=2)
        second = tokens(self.ROWS, limit=8)
        assert len(calls) == 1
        assert len(list(folder.iterdir())) == 1
        assert second.inputs.flat.equal(first.inputs.flat)
        assert second.inputs.offsets.equal(first.inputs.offsets)
        assert second.truncated == first.truncated == 1

    def test_whatever_changes_the_tokens_is_tokenised_anew(self, calls):
        other = word_level()
        other.add_tokens(["x"])
        tokens(self.ROWS)
        tokens(self.ROWS[:1])
        tokens(self.ROWS, suffix=" mask")
        tokens(self.ROWS, limit=100)
        tokens(self.ROWS, tokenizer=other)
        tokens(self.ROWS, BOTH)
        assert len(calls) == 6

    @pytest.mark.parametrize("damage", [lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b[:50], lambda b: b""])
    def test_a_damaged_file_is_made_again(self, folder, calls, damage):
        expected = tokens(self.ROWS).inputs.flat
        (path,) = folder.iterdir()
        content = path.read_bytes()
        path.write_bytes(damage(content))
        assert tokens(self.ROWS).inputs.flat.equal(expected)
        assert len(calls) == 2
        assert path.read_bytes() == content

    def test_a_folder_that_cannot_be_written_costs_only_time(self, tmp_path, caplog, monkeypatch):
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("SOFTPROMPT_CACHE", str(tmp_path / "file" / "cache"))
        made = tokens(self.ROWS)
        assert len(made) == 2
        assert "tokens are not cached" in caplog.text

    def test_the_folder_is_the_variables_then_the_users(self, tmp_path, monkeypatch):
        tokens(self.ROWS)
        assert len(list((tmp_path / "cache").iterdir())) == 1
        monkeypatch.delenv("SOFTPROMPT_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        tokens(self.ROWS)
        assert len(list((tmp_path / "xdg" / "softprompt" / "tokens").iterdir())) == 1


ragged = st.lists(st.lists(st.integers(0, 99), max_size=6), min_size=1, max_size=12)


class TestExamples:
    @MANY
    @given(ragged, st.data())
    def test_ragged_rows_are_a_list_of_lists(self, rows, data):
        made = Ragged.of(rows)
        chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
        assert [made.row(i).tolist() for i in range(len(made))] == rows
        assert made.lengths.tolist() == [len(r) for r in rows]
        some = made.select(chosen)
        assert [some.row(i).tolist() for i in range(len(some))] == [rows[i] for i in chosen]
        ids, mask = made.padded(chosen, 7)
        longest = max((len(rows[i]) for i in chosen), default=0)
        assert ids.tolist() == [rows[i] + [7] * (longest - len(rows[i])) for i in chosen]
        assert mask.tolist() == [[t < len(rows[i]) for t in range(longest)] for i in chosen]

    def test_a_batch_pads_inputs_and_targets_each_with_their_own(self):
        made = Examples(Ragged.of([[1, 2, 3], [4], [5, 6]]), Ragged.of([[8], [9, 9], [7]]), [0, 1, 0])
        batch = made.batch([1, 2], 3, pad_id=0)
        assert batch.ids.tolist() == [[4, 0], [5, 6]]
        assert batch.mask.tolist() == [[True, False], [True, True]]
        assert batch.owner.tolist() == [3, 3]
        assert batch.targets is not None
        assert batch.targets.tolist() == [[9, 9], [7, -100]]
        assert (batch.ids.dtype, batch.targets.dtype) == (torch.int64, torch.int64)
        assert made.batch(torch.tensor([0, 1]), torch.tensor([5, 6]), 0).owner.tolist() == [5, 6]

    def test_a_linear_heads_targets_are_one_a_row(self):
        made = Examples(Ragged.of([[1], [2], [3]]), torch.tensor([2, 0, 1]), [2, 0, 1])
        targets = made.batch([2, 0], 0, 0).targets
        assert targets is not None
        assert targets.tolist() == [[1], [2]]

    @pytest.mark.parametrize("targets", [Ragged.of([[8], [9, 9], [7]]), torch.tensor([2, 0, 1]), None])
    def test_selected_examples_batch_like_the_rows_they_came_from(self, targets):
        gold: list[Any] = [] if targets is None else [2, 0, 1]
        made = Examples(Ragged.of([[1, 2, 3], [4], [5, 6]]), targets, gold, ("a", "b"), truncated=1)
        some = made.select([2, 0])
        ours, theirs = some.batch([0, 1], 0, 0), made.batch([2, 0], 0, 0)
        assert ours.ids.equal(theirs.ids)
        torch.testing.assert_close(ours.targets, theirs.targets, rtol=0, atol=0)
        assert some.gold == ([] if targets is None else [1, 2])
        assert (len(some), some.lengths.tolist(), some.labels) == (2, [2, 3], ("a", "b"))


LENGTHS = torch.randint(1, 50, (400,), generator=torch.Generator().manual_seed(0))
many = st.integers(1, 400).map(lambda n: list(range(n)))
orders = {"seed": st.integers(0, 5), "epoch": st.integers(0, 5), "bucket": st.integers(1, 9)}


class TestBatches:
    @MANY
    @given(many, st.integers(1, 40), st.fixed_dictionaries(orders))
    def test_every_row_comes_once_in_full_batches(self, rows, size, order):
        batches = epoch_batches(LENGTHS, rows, size, **order)
        assert sorted(chain(*batches)) == rows
        assert sorted(map(len, batches), reverse=True)[:-1] == [size] * (len(batches) - 1)

    @MANY
    @given(many, st.integers(1, 40), st.integers(60, 300), st.fixed_dictionaries(orders))
    def test_a_token_bound_is_kept_and_loses_no_row(self, rows, size, bound, order):
        batches = epoch_batches(LENGTHS, rows, size, tokens_per_batch=bound, **order)
        assert sorted(chain(*batches)) == rows
        assert max(len(batch) * int(LENGTHS[batch].max()) for batch in batches) <= bound
        assert max(map(len, batches)) <= size

    def test_a_row_above_the_token_bound_stands_alone(self):
        lengths = torch.tensor([3, 90, 4, 5])
        batches = epoch_batches(lengths, range(4), 4, seed=0, epoch=0, bucket=2, tokens_per_batch=15)
        assert sorted(map(sorted, batches)) == [[0, 2, 3], [1]]
        for seed in range(8):
            batches = epoch_batches(lengths, range(4), 4, seed=seed, epoch=0, bucket=1, tokens_per_batch=15)
            assert [1] in batches
            assert len(batches) <= 3

    def test_the_order_depends_on_seed_and_epoch_only(self):
        def order(seed, epoch):
            return epoch_batches(LENGTHS, range(400), 16, seed=seed, epoch=epoch)

        torch.manual_seed(1)
        first = order(0, 1)
        torch.manual_seed(2)
        assert order(0, 1) == first
        assert len({str(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9

    def test_one_window_keeps_the_plain_permutation(self):
        """With windows of one batch, rows are the permutation; with larger ones only windows are reordered."""
        plain = list(chain(*epoch_batches(LENGTHS, range(400), 16, seed=0, epoch=0, bucket=1)))
        windows = list(chain(*epoch_batches(LENGTHS, range(400), 16, seed=0, epoch=0, bucket=5)))
        assert plain != windows
        assert [sorted(plain[i : i + 80]) for i in range(0, 400, 80)] == [
            sorted(windows[i : i + 80]) for i in range(0, 400, 80)
        ]
        lengths = LENGTHS[plain].tolist()
        assert any(lengths[i : i + 16] != sorted(lengths[i : i + 16]) for i in range(0, 400, 16))

    def test_windows_are_cut_by_length_and_shuffled(self):
        batches = epoch_batches(LENGTHS, range(400), 10, seed=0, epoch=0, bucket=8)
        shuffled = 0
        for start in range(0, 40, 8):
            window = batches[start : start + 8]
            by_length = sorted(window, key=lambda batch: LENGTHS[batch].sum())
            joined = LENGTHS[list(chain(*by_length))]
            assert joined.equal(joined.sort().values)
            shuffled += window != by_length
        assert shuffled >= 4

    @pytest.mark.parametrize("bound", [None, 200])
    def test_a_stream_started_late_goes_on_as_one_never_interrupted(self, bound):
        def batches(start, count):
            made = stream(LENGTHS, range(90), 16, seed=1, start=start, bucket=2, tokens_per_batch=bound)
            return [next(made) for _ in range(count)]

        whole = batches(0, 40)
        assert all(batches(start, 40 - start) == whole[start:] for start in range(40))
        first = len(epoch_batches(LENGTHS, range(90), 16, seed=1, epoch=0, bucket=2, tokens_per_batch=bound))
        assert sorted(chain(*whole[first : 2 * first])) == list(range(90)) or bound

    def test_no_rows_make_no_batches(self):
        with pytest.raises(BadInput, match="no rows to make batches of"):
            next(stream(LENGTHS, [], 4, seed=0))
