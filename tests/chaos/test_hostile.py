"""Files of a stranger, true checksums over impossible values: refused in a line, quickly, or read."""

import contextlib
import hashlib
import json
import os
import shutil

import hostile
import made
import pytest
from cases import hostile_cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from softprompt.cli import main
from softprompt.documents import compact, json_bytes, line_bytes
from softprompt.errors import BadInput, DamagedFile
from softprompt.inference.asked import task_of
from softprompt.inference.evaluate import evaluate
from softprompt.interop.numpy import import_numpy
from softprompt.interop.peft import export_peft, import_peft
from softprompt.prompts.prompt import SoftPrompt
from softprompt.study import RunSpec, load, load_specs
from softprompt.study._stored import path_of
from softprompt.training import checked_record, read_plan
from softprompt.world import rows


@pytest.fixture(scope="module")
def cases(whole, tmp_path_factory):
    return hostile_cases(whole, tmp_path_factory.mktemp("hostile"))


def test_generated_documents_are_read_or_refused_in_one_plain_line(cases):
    found, bad = hostile.campaign(cases, count=160, seed=0)
    assert bad == []
    assert found["refused"] > 70


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_value_in_any_place_is_read_or_refused(cases, data):
    name = data.draw(st.sampled_from(sorted(name for name in cases if isinstance(cases[name].good, dict))))
    document, read = cases[name].good, cases[name].read
    way = data.draw(st.sampled_from(list(hostile.places(document))))
    document = json.loads(json.dumps(document))
    place = document
    for key in way[:-1]:
        place = place[key]
    place[way[-1]] = data.draw(ANY)
    assert hostile.judged(lambda: read(document)) in ("read", "refused")


def forged(whole, folder, **changes):
    """A prompt with another value under each of these ways, and true checksums."""
    source = next(whole.glob("ept-star*/prompt"))
    document = json.loads((source / "prompt.json").read_text())
    for way, value in changes.items():
        *parents, last = way.split("__")
        place = document
        for parent in parents:
            place = place[parent]
        place[last] = value
    body = {
        "prompt.json": hostile.as_bytes(document),
        "prompt.safetensors": (source / "prompt.safetensors").read_bytes(),
    }
    return hostile.forged(folder, body)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"repeats": True}, "other sizes"),
        ({"repeats": 20_000}, "takes 20000 positions, the limit is 2048"),
        ({"provenance__backbone__embedding_scale": 10**400}, "number larger than any float"),
        ({"provenance__task__labels": ["a"] * 100_000}, "has 100000 labels, the limit is 10000"),
        ({"provenance__task__template": "{a}" * 20_000}, "has 60000 characters, the limit is 20000"),
        ({"provenance__task__labels": [1, None]}, "'labels' of the task"),
        ({"provenance__task__metrics": 3}, "'metrics' of the task is 3"),
        ({"provenance__task__source": None}, "'source' of the task is None"),
        ({"provenance__is_foreign": False}, "unknown field of the provenance 'is_foreign'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_prompt_of_a_stranger_is_refused_as_it_is_loaded(changes, what, whole, tmp_path):
    with pytest.raises((BadInput, DamagedFile), match=what):
        SoftPrompt.load(forged(whole, tmp_path / "p", **changes))


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"labels": []}, "is answered by a label and has none"), ({"metrics": []}, "has no metric")],
)
def test_a_task_that_cannot_be_answered_is_refused_as_it_is_needed(changes, what, whole, tmp_path):
    prompt = SoftPrompt.load(forged(whole, tmp_path / "p", **{f"provenance__task__{k}": v for k, v in changes.items()}))
    with pytest.raises(BadInput, match=what):
        task_of(prompt)


def test_a_laboratory_task_makes_no_more_rows_than_the_limit():
    options = {"attribute": "color", "test": 10**12}
    with pytest.raises(BadInput, match="asks for 1000000000000 test rows, the limit is 1000000"):
        next(rows("attribute", "test", options))
    for attribute in (None, 3, ["color"]):
        with pytest.raises(BadInput, match="attribute of a lab task is a word"):
            next(rows("attribute", "test", {"attribute": attribute}))


def test_files_that_a_prompt_from_elsewhere_names_are_read_where_that_is_allowed(whole, chaos_model, tmp_path, capsys):
    run = next(whole.glob("ept-star*"))
    within = evaluate(SoftPrompt.load(run), model=chaos_model).metrics
    elsewhere = SoftPrompt.load(SoftPrompt.load(run).save(tmp_path / "p"))
    with pytest.raises(BadInput, match=r"names files on this computer: '.*csv' and 2 more; .* takes --allow-files"):
        evaluate(elsewhere, model=chaos_model)
    assert evaluate(elsewhere, model=chaos_model, allow_files=True).metrics == within
    rows = next((whole.parent.parent).glob("chaos-rows*/data/test.csv"))
    assert evaluate(elsewhere, str(rows), model=chaos_model).metrics == within
    assert main(["evaluate", str(tmp_path / "p")]) == 2
    assert "takes --allow-files" in capsys.readouterr().err


def test_what_a_terminal_obeys_is_written_out(whole, tmp_path, capsys):
    folder = forged(whole, tmp_path / "p", provenance__method="\x1b[2J\x9b31m", provenance__task__name="\u202eolleh")
    for words in (["show", str(folder)], ["show", str(folder), "--json"], ["show", f"{tmp_path}/\x1b[31mred"]):
        main(words)
        said = "".join(capsys.readouterr())
        assert not set(said) & set("\x1b\x9b\u202e")
        assert "\\x1b[" in said or "\\u001b[" in said


def test_a_message_is_no_longer_than_a_screen(whole, tmp_path):
    with pytest.raises(BadInput) as caught:
        SoftPrompt.load(forged(whole, tmp_path / "p", **{f"provenance__{'x' * 200_000}": 1}))
    assert len(str(caught.value)) < 2000


def test_arrays_and_exports_that_are_none_are_refused(whole, tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    with (tmp_path / "sparse.npy").open("wb") as file:
        file.truncate(5 * 2**30)
    head = b"\x93NUMPY\x01\x00v\x00"
    for number, text in enumerate((b"{'descr':'<f4',,}", b"(" * 60, b"{'descr':[[[]]],'fortran_order':0,'shape':'x'}")):
        (tmp_path / f"{number}.npy").write_bytes(head + text.ljust(118))
    for path in sorted(tmp_path.glob("*.npy")):
        with pytest.raises(BadInput, match=path.name):
            import_numpy(path, backbone_name="m")
    folder = export_peft(SoftPrompt.load(next(whole.glob("ept-star*/prompt"))), tmp_path / "e")
    document = json.loads((folder / "softprompt.json").read_text())
    for vectors in ([], [[]], "x", None, [True, 4], [-1, 4]):
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
        files["softprompt.json"] = json_bytes({**document, "shapes": {"vectors": vectors}})
        shutil.rmtree(tmp_path / "f", ignore_errors=True)
        with pytest.raises((BadInput, DamagedFile)):
            import_peft(hostile.forged(tmp_path / "f", files))


@pytest.mark.parametrize("content", [b"[]", b"null", b"\xff\xfe{}", b"", b"{}", b'{"format": 2}', b'{"format": 3}'])
def test_a_plan_that_is_none_is_one_line(content, tmp_path):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises((BadInput, DamagedFile), match=r"run\.json"):
        read_plan(tmp_path)


def test_a_loss_that_no_float_can_hold_is_no_row_of_a_record(tmp_path):
    rows = [{"step": step, "loss": loss} for step, loss in ((1, 0.5), (2, 10**400), (10**400, 0.5))]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(map(line_bytes, rows)))
    kept, faults = checked_record(tmp_path / "metrics.jsonl")
    assert kept == rows[:1]
    assert faults == ["damaged lines of its record are left out: 2, 3"]


def test_a_study_file_that_is_nested_without_end_is_one_line(tmp_path):
    (tmp_path / "study.toml").write_text(f"runs = {'[' * 3000}")
    with pytest.raises(BadInput, match="is not TOML"):
        load_specs(tmp_path / "study.toml")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"best_step": "4"}, "'best_step' of the stored run is '4'"),
        ({"curve": {"step": [1, 2], "loss": [0.5]}}, "its curves have points at other steps"),
    ],
    ids=["a text for a number", "curves of two lengths"],
)
def test_values_in_a_stored_run_that_no_run_has_are_one_line(changes, what, tmp_path):
    spec = RunSpec(task="lab/weekend", model="lab-t5-small")
    path = path_of(made.store(tmp_path, spec), spec.name)
    content = compact({**json.loads(path.read_bytes())["run"], **changes})
    path.write_bytes(b'{"run":%s,"sha256":"%s"}\n' % (content, hashlib.sha256(content).hexdigest().encode()))
    with pytest.raises((BadInput, DamagedFile), match=what):
        load(tmp_path, spec.name)


@pytest.mark.parametrize("name", ["../../elsewhere", "x" * 300])
def test_a_checkpoint_whose_prompt_is_no_folder_of_its_run_is_not_used(cases, name, caplog):
    state = json.loads(json.dumps(cases["state.json"].good))
    state["prompts"][0]["name"] = name
    with contextlib.suppress(DamagedFile):
        cases["state.json"].read(state)
    assert any("step 4 is not used: " in line and "leads out of the run" in line for line in caplog.messages)


def test_a_plan_whose_prompt_is_no_folder_of_its_run_is_refused(cases):
    plan = json.loads(json.dumps(cases["run.json"].good))
    plan["prompts"][0]["method"] = "x" * 300
    with pytest.raises(DamagedFile, match="leads out of the run, or is too long"):
        cases["run.json"].read(plan)
