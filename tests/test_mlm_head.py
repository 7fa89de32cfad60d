"""A masked-LM head for an encoder without one: the body keeps its bits, the head learns, nothing is half-written."""

import contextlib
import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from softprompt.backbones import load_backbone, with_new_head
from softprompt.cli import main
from softprompt.errors import BadInput, StorageFailure, UnsupportedModel
from softprompt.lab import mlm_head
from softprompt.lab.cloze import Cloze
from softprompt.lab.mlm_head import HeadRecipe, accuracy, fit_mlm_head, logits_at
from softprompt.lab.texts import is_held_out, training_texts
from softprompt.training import Interrupted
from transformers import AutoModelForMaskedLM

from tiny import ENCODERS

RECIPE = HeadRecipe(steps=150, batch_size=16, lr=0.03, max_length=24, held_out=4)


def write(root: Path, folder: str, split: str, rows: list[dict[str, Any]]) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    lines = "\n".join(json.dumps({"idx": i, "label": i % 2, **row}) for i, row in enumerate(rows))
    (root / folder / f"{split}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """SST-2 and RTE, a few rows each, some texts in both."""
    root = tmp_path_factory.mktemp("data")
    texts = [
        f"the {thing} was {much} {how} {where}".strip()
        for thing in ("film", "movie", "question", "answer")
        for much in ("very", "not a", "and")
        for how in ("good", "bad", "great", "terrible")
        for where in ("in paris", "in france", "")
    ]
    write(root, "glue/sst2", "train", [{"sentence": text} for text in [*texts, texts[0], " "]])
    write(root, "glue/sst2", "validation", [{"sentence": "unseen paris"}] * 2)
    write(root, "glue/rte", "train", [{"sentence1": texts[0], "sentence2": f"it was {i}"} for i in range(6)])
    write(root, "glue/rte", "validation", [{"sentence1": "unseen", "sentence2": "unseen"}] * 2)
    return root


@pytest.fixture(scope="module")
def headless(tiny_bert, save_tiny, tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "headless", *tiny_bert(head=False))


@pytest.fixture(scope="module")
def fitted(data, headless, tmp_path_factory):
    return fit_mlm_head(str(headless), tmp_path_factory.mktemp("fitted") / "it", data_root=data, recipe=RECIPE)


class TestTexts:
    def test_are_the_distinct_ones_of_the_training_rows(self, data):
        found = training_texts(data, 1000)
        assert {name: len(texts) for name, texts in found.items()} == {"glue/rte": 7, "glue/sst2": 144}
        assert not any("unseen" in text for texts in found.values() for text in texts)
        assert training_texts(data, 3)["glue/sst2"] == found["glue/sst2"][:3]

    def test_held_out_is_about_one_of_so_many(self):
        assert 0.2 < sum(is_held_out(f"text {i}", 4) for i in range(1000)) / 1000 < 0.3

    def test_a_folder_without_rows_is_refused(self, tmp_path):
        with pytest.raises(BadInput, match=r"no folder .*absent"):
            training_texts(tmp_path / "absent", 3)
        with pytest.raises(BadInput, match="holds rows of no known task"):
            training_texts(tmp_path, 3)


class TestHiding:
    def texts(self, tokenizer, n=200, **options):
        return Cloze(
            tokenizer, ["the film was good and not a terrible movie"] * n, share=0.15, max_length=16, **options
        )

    def test_asks_for_the_share_and_shows_a_fifth_of_it_in_some_form(self, tiny_bert):
        tokenizer = tiny_bert()[1]
        made, rows = self.texts(tokenizer, 2000), torch.arange(2000)
        hidden = made.hide(rows, torch.Generator().manual_seed(0))
        plain, _ = made.rows.padded(rows, 0)
        words = 9 * 2000
        assert hidden.asked.sum() / words == pytest.approx(0.15, abs=0.01)
        seen, masked = hidden.ids[hidden.asked], tokenizer.mask_token_id
        assert (seen == masked).float().mean() == pytest.approx(0.8, abs=0.03)
        assert (seen == hidden.answers).float().mean() == pytest.approx(0.1, abs=0.03)
        assert torch.equal(hidden.ids[~hidden.asked], plain[~hidden.asked])
        assert torch.equal(hidden.answers, plain[hidden.asked])
        assert not torch.isin(hidden.answers, torch.tensor(tokenizer.all_special_ids)).any()

    def test_all_are_masked_where_the_head_is_measured(self, tiny_bert):
        tokenizer = tiny_bert()[1]
        hidden = self.texts(tokenizer).hide(torch.arange(200), torch.Generator().manual_seed(0), shown=False)
        assert (hidden.ids[hidden.asked] == tokenizer.mask_token_id).all()

    def test_asks_for_one_token_at_least_and_never_a_pad(self, tiny_bert):
        made = Cloze(tiny_bert()[1], ["yes", "the film was good and"], share=0.01, max_length=16)
        for seed in range(20):
            hidden = made.hide(torch.tensor([0, 1]), torch.Generator().manual_seed(seed))
            assert hidden.asked.any()
            assert not (hidden.asked & ~hidden.mask).any()

    def test_no_text_with_a_known_word_is_refused(self, tiny_bert):
        with pytest.raises(BadInput, match="not one text with a known word"):
            Cloze(tiny_bert()[1], ["\u4e00"], share=0.15, max_length=16)


@pytest.mark.parametrize("family", ENCODERS)
class TestNewHead:
    def test_is_all_that_requires_gradients_and_follows_from_the_seed(self, family, tiny_bert, save_tiny, tmp_path):
        body, tokenizer = tiny_bert(family, head=False)
        folder = str(save_tiny(tmp_path / "m", body, tokenizer))
        (model, _), (same, _), (other, _) = (with_new_head(folder, seed=seed) for seed in (3, 3, 4))
        new = {name for name, weight in model.named_parameters() if weight.requires_grad}
        assert new
        assert not any(name.startswith(model.base_model_prefix) for name in new)
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        for name, weight in body.state_dict().items():
            if "pooler" not in name:
                assert torch.equal(model.base_model.state_dict()[name], weight)
        weights, twin, stranger = (dict(m.named_parameters()) for m in (model, same, other))
        assert all(torch.equal(weights[name], twin[name]) for name in new)
        assert not all(torch.equal(weights[name], stranger[name]) for name in new)

    def test_is_read_where_something_is_asked_for(self, family, tiny_bert):
        model, tokenizer = tiny_bert(family)
        made = Cloze(tokenizer, ["the film was good", "it was a very terrible movie"], share=0.4, max_length=16)
        hidden = made.hide(torch.tensor([0, 1]), torch.Generator().manual_seed(1))
        whole = model(input_ids=hidden.ids, attention_mask=hidden.mask.long()).logits
        torch.testing.assert_close(logits_at(model, hidden), whole[hidden.asked], rtol=0, atol=1e-5)


class TestFitting:
    def test_finds_more_than_at_first_and_than_the_most_frequent_token(self, fitted):
        assert fitted.after > max(fitted.before, fitted.frequent) + 0.1

    def test_is_recorded_beside_the_weights(self, fitted, headless):
        record = json.loads((fitted.folder / mlm_head.RECORD).read_text())
        assert record["model"] == str(headless)
        assert record["recipe"] == dataclasses.asdict(RECIPE)
        assert {name: record[name] for name in ("before", "after", "frequent")} == {
            name: getattr(fitted, name) for name in ("before", "after", "frequent")
        }
        assert sum(fitted.texts.values()) + fitted.held_out >= 144

    def test_leaves_every_weight_of_the_body_as_it_was(self, fitted, headless):
        before, after = (load_file(folder / "model.safetensors") for folder in (headless, fitted.folder))
        kept = {name.removeprefix("bert."): weight for name, weight in after.items() if name.startswith("bert.")}
        assert {name for name in before if "pooler" not in name} == set(kept)
        assert all(torch.equal(weight, before[name]) for name, weight in kept.items())

    def test_the_folder_loads_plainly_and_answers_by_label_words(self, fitted):
        _, report = AutoModelForMaskedLM.from_pretrained(fitted.folder, output_loading_info=True)
        assert not report["missing_keys"]
        assert load_backbone(fitted.folder).answers == "label-words"

    def test_the_stored_head_is_as_good_as_was_said(self, fitted, data):
        backbone = load_backbone(fitted.folder)
        held = sorted({t for own in training_texts(data, 8000).values() for t in own if is_held_out(t, 4)})
        test = Cloze(backbone.tokenizer, held, share=0.15, max_length=24)
        assert accuracy(backbone.model, test) == fitted.after

    def test_the_same_seed_gives_the_same_bytes(self, fitted, data, headless, tmp_path):
        again = fit_mlm_head(str(headless), tmp_path / "again", data_root=data, recipe=RECIPE)
        name = "model.safetensors"
        assert (again.folder / name).read_bytes() == (fitted.folder / name).read_bytes()


class TestRefusals:
    def test_a_head_that_is_there_is_kept(self, tiny_bert, save_tiny, data, tmp_path):
        folder = save_tiny(tmp_path / "m", *tiny_bert())
        with pytest.raises(BadInput, match="has a masked-LM head already; use it as it is"):
            fit_mlm_head(str(folder), tmp_path / "out", data_root=data)
        assert not (tmp_path / "out").exists()

    def test_what_is_no_encoder_is_refused(self, tiny_t5, save_tiny, tmp_path):
        folder = save_tiny(tmp_path / "m", *tiny_t5())
        with pytest.raises(UnsupportedModel, match="is of kind encoder-decoder; a masked-LM head needs an encoder"):
            with_new_head(str(folder))

    def test_a_tokenizer_without_a_mask_is_refused(self, tiny_bert, save_tiny, tmp_path):
        model, tokenizer = tiny_bert(head=False)
        tokenizer.mask_token = None
        with pytest.raises(UnsupportedModel, match="has no mask token"):
            with_new_head(str(save_tiny(tmp_path / "m", model, tokenizer)))

    def test_a_folder_in_use_is_left_alone(self, data, headless, tmp_path):
        (tmp_path / "note").write_text("mine")
        with pytest.raises(BadInput, match="exists already; remove it or choose another place for the model"):
            fit_mlm_head(str(headless), tmp_path, data_root=data)

    def test_a_place_that_cannot_be_written_is_found_before_anything_is_read(self, headless, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(StorageFailure, match="the model cannot be stored in"):
            fit_mlm_head(str(headless), tmp_path / "file" / "out", data_root=tmp_path / "no rows")

    def test_a_stop_writes_nothing(self, data, headless, tmp_path, monkeypatch):
        monkeypatch.setattr(mlm_head, "interruptible", lambda: contextlib.nullcontext(lambda: True))
        with pytest.raises(Interrupted, match="stopped after step 0 of 150; nothing is written"):
            fit_mlm_head(str(headless), tmp_path / "out", data_root=data, recipe=RECIPE)
        assert list(tmp_path.iterdir()) == []


class TestCommandLine:
    def test_prints_the_folder_and_tells_the_accuracies(self, data, headless, tmp_path, capsys):
        words = ["lab", "mlm-head", str(headless), "--output", str(tmp_path / "out"), "--data-root", str(data)]
        assert main([*words, "--steps", "2", "--quiet"]) == 0
        told = capsys.readouterr()
        assert told.out == f"{tmp_path / 'out'}\n"
        assert " before, " in told.err
        assert json.loads((tmp_path / "out" / mlm_head.RECORD).read_text())["recipe"]["steps"] == 2

    def test_asks_for_texts(self, headless, tmp_path, capsys, monkeypatch):
        monkeypatch.delenv("SOFTPROMPT_DATA_ROOT", raising=False)
        assert main(["lab", "mlm-head", str(headless), "--output", str(tmp_path / "out")]) == 2
        assert "no texts; give --data-root" in capsys.readouterr().err
