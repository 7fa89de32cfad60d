"""Start a run, or go on with one: the public functions around the loop."""

import contextlib
import dataclasses
import inspect
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backbones import AbstractBackbone, load_backbone, load_for, model_name, refuse_other_backbone
from ..checks import listed, require_kind
from ..data import Splits, drawn_from, load_rows, split_rows, warn_of_unknown
from ..errors import SoftPromptError
from ..inference.asked import before_model, worded_for
from ..inference.rows import tell_truncated
from ..run_layout import PLAN
from ..settings import ModelSpec, PromptSettings, TrainSettings
from ..store import refuse_no_place, write_file
from ..tasks import SPLITS, Task, Wording, stored_in
from ._advice import ADVICE, better_begun, no_words, not_better, repeated
from ._alone import alone_on, as_usual
from ._built import build_prompts
from ._callbacks import Listeners, refuse_no_callbacks
from ._damage import damage, damaged_documents, tell_unsealed
from ._decided import decided
from ._drive import drive, finishing
from ._early import check_request
from ._finish import finish_member, last_reports
from ._folder import HeldFolder, alone_in, new_folder, refuse_used
from ._frozen import Comparison, compare, read_comparison
from ._inputs import ROWS, refuse_other_inputs, refuse_other_weights, refuse_unknown_weights, with_inputs
from ._keywords import (
    default_output,
    from_any_folder,
    how_to_go_on,
    model_from,
    prompts_from,
    refuse_unknown_keywords,
    same_rows,
    settings_from,
    task_from,
    wording_from,
)
from ._last import Last
from ._loop import Loop
from ._plan import Plan, read_plan
from ._prepare import choosing_rows, long_answers, prepare, recomputing, unseen_labels
from ._processes import Processes
from ._progress import refuse_unknown_trackers
from ._recovery import last_good
from ._resolved import refuse_twins, resolved
from ._result import read_result, seconds_of
from ._rounding import warn_of_rounding
from ._run import Run
from ._run_data import RunData
from ._start import open_loop
from .beginnings.vectors import at_source_length
from .transfer.mpt import shared_prompts
from .transfer.spot import with_sources

advice = logging.getLogger(ADVICE)
log = logging.getLogger("softprompt")


@as_usual()
def train(
    task: Any,
    model: "str | Path | ModelSpec | AbstractBackbone",
    *,
    prompts: Sequence[PromptSettings] | PromptSettings | None = None,
    settings: TrainSettings | None = None,
    output: "Path | str | None" = None,
    data_root: "Path | str | None" = None,
    style: str | None = None,
    max_bad_rows: int = 0,
    log_with: str | None = None,
    progress: bool = False,
    with_frozen: bool = False,
    callbacks: Sequence[Any] = (),
    **keywords: Any,
) -> Run:
    """Train prompts on a frozen model; the best on validation of each is stored in the run's folder.

        train("glue/sst2", "google-t5/t5-small", method="ept", lr=0.3, steps=1000, seeds=[0, 1, 2])
        train("tickets.csv", "google-t5/t5-small", text_column="message", label_column="category")

    Trainings in threads of one program need a loaded model each. With dropout, be it `backbone_dropout` or the option
    `dropout` of a method, they need processes, because all threads draw it from one generator of torch.

    Args:
        task: a name in TASKS, a Task, or rows of your own as `custom_task` takes them: a file, a list of dicts, a
            DataFrame, a `datasets.Dataset`, or a dict of splits.
        model: a local folder, a GGUF file, a hub id, a built-in name, a `ModelSpec`, or a loaded backbone.
        prompts: the prompts, trained together, no two of them the same, or one alone; in place of their keywords.
        settings: what they share, in place of its keywords.
        output: a new folder for the run; None is runs/<task>-<methods>-<time>.
        data_root: folder with rows; None asks the hub.
        style: "numeric", "words", "instruct" (an instruction, a template with its cue, and label words), "t5" or
            "pet-0", "pet-1" ... (cloze patterns, on a decoder those that end in the answer); None is numeric for
            encoder-decoders (the papers'), instruct for decoders and words for encoders. A task of your own stays as it
            is, but that a decoder reads it as `column: value` lines where it has no template.
        max_bad_rows: malformed rows to drop before it is an error.
        log_with: a tracker that Accelerate knows (tensorboard, wandb, mlflow, aim ...), or several joined by commas,
            besides metrics.jsonl.
        progress: show a bar on standard error.
        with_frozen: also score the frozen model without training, on at most 200 test rows (`Run.comparison`): always
            the most frequent class, no prompt, the instruction by hand, and four examples in context.
        callbacks: objects with `on_step`, `on_evaluation` or `on_end`, as `EarlyStopping`, which see the run and may
            stop prompts of it (docs/training.md).
        keywords: fields of PromptSettings, where `method` (by its name, or a Method), `lr` and `seeds` may be several,
            for one prompt of each combination, and `prompt_length`; fields of TrainSettings; fields of ModelSpec in
            place of a spec (a loaded backbone has its own, and they have to agree); `instruction`, `template` and
            `label_words`, which replace those of any task; and for rows of your own the keywords of `custom_task`,
            `text_column` (one, or several), `validation_data` and `test_data`. Encoders answer numbers by a linear
            head.

    Raises:
        UnknownName: a keyword that does not exist, with the nearest; a task, column or method likewise.
        SoftPromptError: before anything is written, where the request cannot work.
        RunExists: the folder holds something.
        Interrupted: after Ctrl-C; `resume` goes on.
        CallbackFailed: a callback raised; `resume` goes on.
        NotTrainable: no gradient reaches the prompt.
    """
    with_frozen = keywords.pop("frozen", with_frozen)  # its earlier name
    refuse_unknown_keywords("train", keywords, inspect.signature(train).parameters)
    processes = Processes.here()
    output, progress, log_with = processes.place(output), processes.shows(progress), processes.only_first(log_with)
    callbacks = listed("callbacks", callbacks)
    refuse_no_callbacks(callbacks)
    asked = _asked(task, model, prompts, settings, output, log_with, keywords)
    early = before_model(asked.task, style, asked.wording)
    # Rows first: their faults are found in seconds, while a model may take minutes to load.
    read = load_rows(early, data_root, max_bad_rows)
    splits = split_rows(early, read, test_rows=asked.settings.test_rows)
    spec = asked.model if isinstance(asked.model, ModelSpec) else None
    check_request(early, splits, asked.prompts, asked.settings, spec)
    backbone = load_for(asked.model, early.answer)
    chosen = worded_for(asked.task, backbone.kind, style, asked.wording)
    for line in (*no_words(asked.task, chosen, asked.wording, backbone.kind), *repeated(early, splits)):
        advice.warning(line)
    # From any folder the same files: `resume` and `evaluate` may be started in another.
    source = dataclasses.replace(stored_in(chosen.source, asked.folder), drawn=drawn_from(chosen, read))
    plan = Plan(
        task=dataclasses.replace(chosen, source=source),
        # What the backbone is, whatever was asked for: one that was loaded before has its own.
        model=backbone.spec,
        prompts=tuple(map(from_any_folder, asked.prompts)),
        settings=asked.settings,
        data_root=None if data_root is None else os.path.abspath(data_root),
        products=backbone.products,
        max_bad_rows=max_bad_rows,
        log_with=log_with,
        with_frozen=with_frozen,
    )
    plan = decided(plan, splits.train, backbone)
    with alone_on(backbone), recomputing(backbone, plan.settings):
        run_data = with_inputs(with_sources(prepare(plan, splits, backbone)))
        for line in better_begun(asked.prompts, run_data):
            advice.warning(line)
        # What cannot work leaves no folder behind.
        with new_folder(asked.folder) as held:
            write_file(asked.folder / PLAN, run_data.plan.written(), what="the plan of the run")
            built = build_prompts(run_data, shared_prompts(run_data, held, processes))
            with open_loop(run_data, built, asked.folder, processes=processes) as loop:
                return _trained(loop, splits, held, progress, callbacks)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What `train` is asked for, made of its keywords: the task as it was declared, and a folder that is not used."""

    task: Task
    wording: Wording
    model: ModelSpec | AbstractBackbone
    prompts: Sequence[PromptSettings]
    settings: TrainSettings
    folder: Path


def _asked(
    task: Any,
    model: Any,
    prompts: Any,
    settings: TrainSettings | None,
    output: Path | str | None,
    log_with: str | None,
    keywords: Mapping[str, Any],
) -> _Asked:
    """Refuse what needs neither rows nor a model to be refused."""
    require_kind("output", output, str | Path | None)
    prompts, settings = prompts_from(prompts, keywords), settings_from(settings, keywords)
    if output is not None:
        refuse_used(Path(output))
        refuse_no_place(Path(output), "the run")
    refuse_unknown_trackers(log_with)
    spec = model_from(model, keywords)
    prompts = [at_source_length(prompt) for prompt in prompts]
    refuse_twins([resolved(prompt) for prompt in prompts])
    declared, wording = task_from(task, keywords), wording_from(task, keywords)
    folder = default_output(declared.name, [prompt.method for prompt in prompts]) if output is None else Path(output)
    refuse_used(folder)
    return _Asked(task=declared, wording=wording, model=spec, prompts=prompts, settings=settings, folder=folder)


@as_usual()
def resume(
    run: "Path | str",
    *,
    rows: Any = None,
    model: "str | Path | AbstractBackbone | None" = None,
    device: str = "auto",
    progress: bool = False,
    callbacks: Sequence[Any] = (),
) -> Run:
    """Go on with a run that was interrupted or killed: on one machine, the same bits as if it never was.

    Args:
        run: the run's folder.
        rows: those that the run was started with, if they were given in memory.
        model: the loaded backbone, if the run was started with one; or where its model is now, if that has moved.
        device: "auto", "cpu", "cuda" ...
        progress: show a bar on standard error.
        callbacks: as in `train`; those of the interrupted run are not stored, so give them again.

    Raises:
        BadInput: no run there, or other rows or source prompts than it was started with.
        DamagedFile: no checkpoint, or not a record that it needs, is as it was written.
        ModelMismatch: the model has other weights than the run was started with, or `model` is at another precision
            or embedding scale, or computes by another engine.
    """
    callbacks = listed("callbacks", callbacks)
    refuse_no_callbacks(callbacks)
    folder = Path(run)
    plan = read_plan(folder)
    finished = [read_result(folder, name) for name in plan.prompt_names()]
    if all(finished):
        for line in damage(folder):
            log.warning(line)
        return Run(folder, [result for result in finished if result], _stored_comparison(folder))
    processes = Processes.here()
    folder, progress = processes.copy(folder), processes.shows(progress)
    with alone_in(folder) as held:
        held.sweep()
        tell_unsealed(folder)
        for line in damaged_documents(folder):
            log.warning(line)
        # Another process may have begun it anew meanwhile.
        plan = read_plan(folder)
        checkpoint = last_good(folder)
        task = same_rows(plan.task, rows, folder)
        read = load_rows(task, plan.data_root, plan.max_bad_rows)
        splits = split_rows(task, read, test_rows=plan.settings.test_rows, instead="start a new run")
        model = _same_model(plan, model, device, folder)
        _round_as_before(model, plan.products)
        with alone_on(model), recomputing(model, plan.settings):
            run_data = prepare(plan, splits, model)
            # Runs of earlier versions know their rows by their checkpoints alone.
            rows_then = checkpoint.state.get("data", run_data.fingerprint) if checkpoint else run_data.fingerprint
            refuse_other_inputs({ROWS: rows_then, **plan.inputs}, run_data.fingerprint, folder)
            # A checkpoint holds what was learned from other tasks.
            shared = None if checkpoint else shared_prompts(run_data, held, processes)
            built = build_prompts(run_data, shared, is_begun=checkpoint is not None)
            with open_loop(run_data, built, folder, checkpoint, processes) as loop:
                return _trained(loop, splits, held, progress, callbacks)


def _stored_comparison(folder: Path) -> Comparison | None:
    """That of a finished run; None also where it cannot be read, which `damage` tells."""
    with contextlib.suppress(SoftPromptError):
        return read_comparison(folder)
    return None


def _same_model(plan: Plan, model: str | Path | AbstractBackbone | None, device: str, folder: Path) -> AbstractBackbone:
    """The frozen model that a run goes on with, which has to be the one that it was started with."""
    if isinstance(model, AbstractBackbone):
        refuse_other_backbone(plan.model, model, folder)
    else:
        if model is not None:
            refuse_unknown_weights(plan.inputs, folder)
        name = plan.model.name if model is None else model_name(model)
        model = load_backbone(dataclasses.replace(plan.model, name=name, device=device))
    refuse_other_weights(plan.inputs, model, folder)
    return model


def _round_as_before(model: AbstractBackbone, products: str | None) -> None:
    """Let packed passes multiply by the library that the run began with, whatever is faster now: it rounds in its way.

    Args:
        model: the frozen model.
        products: of the plan.
    """
    began = "torch" if products == "torch" else "onednn"
    if model.copies_weights:
        model.products = began
    elif model.engine != "reference":
        model.products = None if products is None else began


def _trained(loop: Loop, splits: Splits, held: HeldFolder, progress: bool, callbacks: Sequence[Any]) -> Run:
    """The run, trained to its end and stored."""
    run_data, folder = loop.run_data, held.path
    plan = run_data.plan
    _report_texts(run_data)
    long = long_answers(run_data, plan.settings.max_new_tokens)
    for line in (*long, *unseen_labels(run_data, splits.validation)):
        advice.warning(line)
    if not loop.step:
        warn_of_rounding(loop)
    listeners = Listeners(callbacks, how_to_go_on(plan.task, folder))
    drive(loop, held, progress, listeners)
    with finishing(plan, folder):
        seconds, reports = seconds_of(folder), last_reports(loop.members, loop.scorer)
        held.refuse_gone()
        # The results are written last: a run that has all of them is not gone on with.
        comparison = _comparison(plan, splits, run_data.backbone, reports, folder)
        results = [finish_member(member, loop.scorer, folder, seconds, reports) for member in loop.members]
    for line in not_better(comparison):
        advice.warning(line)
    finished = Run(folder, results, comparison)
    listeners.end(finished)
    # The run of all processes is in the folder of the first.
    return dataclasses.replace(finished, folder=loop.processes.first(folder))


def _comparison(
    plan: Plan, splits: Splits, backbone: AbstractBackbone, reports: Mapping[str, Last], folder: Path
) -> Comparison | None:
    """The prompts beside what was not trained, where the plan wants it."""
    if not plan.with_frozen:
        return None
    tested = {name: last.reports["test"] for name, last in reports.items() if "test" in last.reports}
    splits = dataclasses.replace(splits, validation=choosing_rows(plan, splits.validation))
    return compare(plan.task, splits, backbone, plan.settings, tested, folder)


def _report_texts(run_data: RunData) -> None:
    """Say where texts were cut, and where they hold words that the tokenizer does not know."""
    for name in SPLITS:
        examples = getattr(run_data, name)
        warn_of_unknown(examples, run_data.backbone.tokenizer, run_data.backbone.name, name)
        tell_truncated(examples, f"{name} rows")
