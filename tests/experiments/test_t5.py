"""The check of a user's T5: what it refuses, what it trains, and what it decides from that."""

import gzip
import json
import random
import runpy
from pathlib import Path

import pytest
import torch
from experiments.t5 import check as real_t5
from experiments.t5.__main__ import main
from softprompt.errors import BadInput, DamagedFile, UnsupportedModel
from softprompt.study import StoredRun, load_specs
from softprompt.training import Interrupted

from kit import BAD, FILLER, GOOD

STEPS = 2
REPOSITORY = Path(__file__).parents[2]


def rows(split, n):
    draw = random.Random(n)
    text = lambda: " ".join(draw.choices((*FILLER, *GOOD, *BAD), k=5))  # noqa: E731  (short)
    return {
        "sst2": [{"sentence": text(), "label": i % 2, "idx": i} for i in range(n)],
        "rte": [{"sentence1": text(), "sentence2": text(), "label": i % 2, "idx": i} for i in range(n)],
    }[split]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A few rows, laid out as the real ones are."""
    root = tmp_path_factory.mktemp("data")
    for name in ("sst2", "rte"):
        (root / "glue" / name).mkdir(parents=True)
        for split, n in (("train", 24), ("validation", 12)):
            with gzip.open(root / "glue" / name / f"{split}.jsonl.gz", "wt") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows(name, n))
    return root


@pytest.fixture(scope="module")
def t5(tmp_path_factory, tiny_t5, save_tiny):
    return save_tiny(tmp_path_factory.mktemp("t5") / "tiny-t5", *tiny_t5())


@pytest.fixture(scope="module")
def checked(t5, data, tmp_path_factory):
    """One whole check of one seed."""
    store = tmp_path_factory.mktemp("store") / "runs"
    return store, real_t5.check(t5, store, data_root=data, steps=STEPS, seeds=1, progress=False)


def test_every_task_and_method_is_trained_and_judged(checked):
    _, found = checked
    assert [(row["task"], row["method"], row["n"]) for row in found.runs] == [
        (task, method, 1) for task in real_t5.TASKS for method in real_t5.METHODS
    ]
    assert found.steps == STEPS
    assert [one.n for checks in found.checks.values() for one in checks] == [2, 2, 2]
    # Two pairs decide nothing, whatever they are.
    told = real_t5.text(found)
    assert told.count("| not decided |") == 3
    assert "Fewer than six pairs" in told


def test_a_stopped_check_goes_on_to_the_same(t5, data, checked, tmp_path, monkeypatch):
    _, whole = checked
    original, calls = real_t5.run_all, []

    def stopping(specs, store, **options):
        calls.append(len(specs))
        if len(calls) == 1:
            original(specs[:2], store, **options)
            raise Interrupted("stopped")
        return original(specs, store, **options)

    monkeypatch.setattr(real_t5, "run_all", stopping)
    options = {"data_root": data, "steps": STEPS, "seeds": 1, "progress": False}
    with pytest.raises(Interrupted):
        real_t5.check(t5, tmp_path / "runs", **options)
    # The steps are in the store: they need not be given again.
    again = real_t5.check(t5, tmp_path / "runs", **{**options, "steps": None})
    assert again.runs == whole.runs
    assert again.checks == whole.checks


def test_time_that_is_over_ends_between_two_seeds_and_says_what_is_left(t5, data, checked):
    store, _ = checked
    found = real_t5.check(t5, store, data_root=data, seeds=3, minutes=0.0, progress=False)
    assert found.seeds == 1
    assert "Not run: 2 of 3 seeds; run again with more --minutes" in real_t5.text(found)


def test_steps_follow_from_the_time_of_a_trial(t5, data, tmp_path):
    store = tmp_path / "runs"
    many = real_t5._plan(t5, store / "many", data, None, 10_000.0, "cpu")
    few = real_t5._plan(t5, store / "few", data, None, 0.0, "cpu")
    assert (many, few) == (real_t5.STEPS[0], real_t5.STEPS[-1])
    # Decided once: the store says it, whatever is left of the time.
    assert real_t5._plan(t5, store / "many", data, None, 0.0, "cpu") == many
    with pytest.raises(BadInput, match="has runs of 250 steps, not 7; give another `store`"):
        real_t5._plan(t5, store / "many", data, 7, 0.0, "cpu")
    (store / "few" / "plan.json").write_text("{}")
    with pytest.raises(DamagedFile, match=r"plan\.json says no steps"):
        real_t5._plan(t5, store / "few", data, None, 0.0, "cpu")


def stored(task, method, seed, value, norms):
    spec = next(s for s in real_t5.runs_of("m", STEPS, [seed]) if s.declared.name == task and s.prompt.method == method)
    return StoredRun(
        name=spec.name, spec=spec, metrics={"test": {"score": value}}, majority=0.5, best_step=STEPS, trainable=1,
        head=0, stored=1, seconds=1.0, status="finished", curve={"step": [1, 2], "token_norms": norms},
    )  # fmt: skip


def test_planted_scores_are_judged_as_they_are():
    """Scaled 0.1 above prompt tuning, EPT* equal but with a hundred times its norm."""
    values = {"prompt-tuning": (0.7, [0.1, 0.2]), "ept-star": (0.7, [0.1, 20.0]), "scaled": (0.8, [1.0, 2.0])}
    runs = [
        stored(task, method, seed, *values[method])
        for seed in range(3) for task in real_t5.TASKS for method in real_t5.METHODS
    ]  # fmt: skip
    # A seed that is not whole does not count.
    runs.append(stored("glue/rte", "scaled", 3, 0.0, [1.0, 1.0]))
    found = real_t5.judged("m", STEPS, runs, 3)
    star, scaled, norms = (checks[0] for checks in found.checks.values())
    assert (star.mean, star.outcome, star.n) == (0.0, "refuted", 6)
    assert scaled.mean == pytest.approx(0.1)
    assert scaled.outcome == "met"
    assert norms.mean == pytest.approx(2.0)
    assert [one["verdict"] for one in found.to_json()["checks"].values()] == ["does not hold here", "holds", "holds"]


def test_what_cannot_be_checked_is_refused_in_a_line(t5, data, tmp_path, tiny_bert, save_tiny, capsys):
    def refused(folder, *more):
        code = main(["--check", str(folder), "--store", str(tmp_path / "runs"), *more])
        assert code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("softprompt: ")]
        assert len(lines) == 1
        return lines[0]

    bert = save_tiny(tmp_path / "bert", *tiny_bert())
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text((t5 / "config.json").read_text())
    assert "holds no config.json; give the folder of a T5" in refused(tmp_path / "absent")
    assert "is a bert, not a T5" in refused(bert)
    assert "holds no tokenizer (tokenizer.json or spiece.model)" in refused(bare)
    assert "no rows of glue/sst2 under" in refused(t5, "--data-root", str(tmp_path))
    (bare / "config.json").write_text("{")
    assert "is not a model's configuration" in refused(bare)
    assert not (tmp_path / "runs").exists()


def test_the_command_prints_tables_or_json(t5, data, checked, capsys):
    store, found = checked
    words = ["--check", str(t5), "--data-root", str(data), "--store", str(store), "--seeds", "1"]
    assert main([*words, "--quiet"]) == 0
    assert capsys.readouterr().out.strip() == real_t5.text(found)
    assert main([*words, "--quiet", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["checks"]["EPT* is better than prompt tuning"]["verdict"] == "not decided"


def test_another_family_is_an_unsupported_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UnsupportedModel, match="is a llama, not a T5"):
        real_t5.check(tmp_path, tmp_path / "runs")


class TestTableOne:
    """What docs/results/reproduce-t5.md tells a reader to run."""

    def test_the_study_is_the_protocol_of_the_paper(self):
        specs = load_specs(REPOSITORY / "experiments/ept/table1.toml")
        prompts = [spec for spec in specs if spec.prompt.method != "full"]
        # Of three sizes: 8 tasks at one rate and 5 at five, 5 methods, 3 seeds; fine-tuning has three rates on the 5.
        assert len({spec.name for spec in prompts}) == 3 * (8 + 5 * 5) * 5 * 3
        assert len({spec.name for spec in specs}) - len(prompts) == 3 * (8 + 5 * 3) * 3
        assert {spec.settings.steps for spec in specs} == {30_000}
        assert {spec.prompt.lr for spec in prompts if spec.declared.name.startswith("glue/")} == {0.3}
        lengths = {spec.declared.name: spec.declared.max_length for spec in specs}
        assert {name for name, length in lengths.items() if length != 256} == {"super_glue/multirc"}
        assert lengths["super_glue/multirc"] == 348

    def test_the_estimate_on_the_page_is_what_its_script_prints(self):
        script = runpy.run_module("experiments.t5.reproduce")
        assert script["table"](20.0, 40.0) in (REPOSITORY / "docs/results/reproduce-t5.md").read_text()

    def test_counted_operations_are_those_of_torch(self, tiny_t5):
        """A row's forward pass through encoder and decoder, by torch's own counter, softmax and norms apart."""
        from torch.utils.flop_counter import FlopCounterMode

        script = runpy.run_module("experiments.t5.reproduce")
        model, tokenizer = tiny_t5(d_kv=8, num_heads=2, d_ff=32)
        # The counter does not know the CPU's fused attention.
        model.set_attn_implementation("eager")
        names = script["encoder"].__globals__
        names["SIZES"]["tiny"] = (16, 2, 32)
        names["VOCABULARY"], tokens, label = len(tokenizer), 20, script["LABEL"]
        embeds = torch.zeros(1, tokens + script["PROMPT"], 16)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(inputs_embeds=embeds, decoder_input_ids=torch.zeros(1, label, dtype=torch.long), use_cache=False)
        # Left out by the script: the decoder's keys and values of prompt and text, of which only the label's are
        # counted, and its attention to either.
        positions = tokens + script["PROMPT"]
        crossed = 2 * (2 * (positions - label) * 2 * 16 * 16 + 4 * label * (label + positions) * 16)
        own = script["encoder"]("tiny", tokens) + script["decoder"]("tiny") + crossed
        assert own == counter.get_total_flops()
