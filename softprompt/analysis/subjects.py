"""The stored prompts that an analysis is of: those that paths name, each under a label of its own."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checks import listed, require_different
from ..errors import BadInput, UnknownName, quoted
from ..inference.asked import task_of
from ..prompts.prompt import SoftPrompt
from ..run_layout import RESULT, is_run, run_of
from ..tasks import Task
from ..training import Plan, read_plan, read_result


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A stored prompt that is analysed, its task, and where its run takes the rows from.

    Args:
        label: name of the prompt in tables and figures.
        prompt: the prompt with its provenance.
        task: the task with its style.
        data_root: folder with rows; None takes them from the hub.
        max_bad_rows: number of malformed rows that may be dropped.
    """

    label: str
    prompt: SoftPrompt
    task: Task
    data_root: str | Path | None = None
    max_bad_rows: int = 0


def subjects(
    paths: Sequence[str | Path],
    *,
    prompts: Sequence[str] = (),
    task: str | None = None,
    style: str | None = None,
    data_root: Path | None = None,
) -> list[Subject]:
    """Load the prompts that the paths name, in their order.

    Args:
        paths: runs, prompts of runs, prompt folders, or `user/name` on the hub. A run names all its prompts.
        prompts: the names of those prompts of each run that are drawn; empty takes all.
        task: name of a task that replaces the task of the prompts.
        style: style of the task's template; None takes the style of the training.
        data_root: folder with rows; None takes the run's.

    Raises:
        BadInput: a path or a prompt is given twice, a path holds no prompt, a run has not stored one of its prompts or
            trained weights in its place, or a prompt records no task.
        UnknownName: a run has no prompt of a given name.
    """
    paths, prompts = listed("paths", paths, (str, Path)), listed("--prompt", prompts)
    require_different("the prompt", [str(path) for path in paths])
    require_different("--prompt", prompts)
    loaded: list[Subject] = []
    for label, place, plan in _prompts(paths, prompts):
        prompt = SoftPrompt.load(place)
        loaded.append(
            Subject(
                label=label,
                prompt=prompt,
                task=task_of(prompt, task, style),
                data_root=data_root or (plan.data_root if plan else None),
                max_bad_rows=plan.max_bad_rows if plan else 0,
            )
        )
    return _distinct(loaded)


def _distinct(loaded: Sequence[Subject]) -> list[Subject]:
    """The subjects under labels of their own."""
    labels = distinct_labels([(subject.label, subject.task.name) for subject in loaded])
    return [dataclasses.replace(subject, label=label) for subject, label in zip(loaded, labels, strict=True)]


def distinct_labels(given: Sequence[tuple[str, str]]) -> list[str]:
    """Labels of prompts that all differ: equal ones have the task in the place of the run, or else are numbered.

    Args:
        given: the label RUN/PROMPT and the task of each.
    """
    equal = Counter(label for label, _ in given)
    labels = [f"{task} {label.rpartition('/')[2]}" if equal[label] > 1 else label for label, task in given]
    counts = Counter(labels)
    return [
        label if counts[label] == 1 else f"{number}-{first}"
        for number, ((first, _), label) in enumerate(zip(given, labels, strict=True), 1)
    ]


def _prompts(paths: Sequence[str | Path], prompts: Sequence[str]) -> Iterator[tuple[str, str | Path, Plan | None]]:
    """Yield for each prompt its label, its place, and the plan of its run."""
    for given in paths:
        path = Path(given)
        if is_run(path):
            yield from _of_run(path, prompts)
        else:
            refuse_choice(given, prompts)
            run = run_of(path)
            inside = path.resolve().relative_to(run).parts[0] if run else ""
            yield f"{run.name}/{inside}" if run else str(given), given, read_plan(run) if run else None


def _of_run(run: Path, prompts: Sequence[str]) -> Iterator[tuple[str, Path, Plan]]:
    plan = read_plan(run)
    for prompt in chosen_names(run, plan, prompts):
        if (run / prompt / "weights").exists():
            raise BadInput(
                f"{prompt!r} of run {str(run)!r} trained weights and left no prompt; choose others with --prompt"
            )
        if not (run / prompt / "prompt").is_dir():
            raise BadInput(f"{_not_stored(run, prompt)}, or choose others with --prompt")
        yield f"{run.resolve().name}/{prompt}", run / prompt / "prompt", plan


def _not_stored(run: Path, prompt: str) -> str:
    """Why a run has no such prompt, and what brings it back."""
    result, resume = read_result(run, prompt), f"softprompt train --resume {quoted(run)}"
    if result is None:
        return f"run {str(run)!r} has not stored prompt {prompt!r}; finish it ({resume})"
    if result.is_dropped:
        return f"{prompt!r} of run {str(run)!r} was {result.status}; train it anew with other settings"
    return (
        f"prompt {prompt!r} of run {str(run)!r} is missing; restore it from a copy, delete {run / prompt / RESULT} and "
        f"train it again ({resume})"
    )


def chosen_names(run: Path, plan: Plan, prompts: Sequence[str]) -> Sequence[str]:
    """The names of the chosen prompts of a run, or of all of them.

    Raises:
        UnknownName: the run has no prompt of a given name.
    """
    names = plan.prompt_names()
    for prompt in prompts:
        if prompt not in names:
            raise UnknownName(f"prompt of {str(run)!r}", prompt, names)
    return prompts or names


def refuse_choice(given: str | Path, prompts: Sequence[str]) -> None:
    """Refuse names of prompts beside what is no run.

    Raises:
        BadInput: some were given.
    """
    if prompts:
        raise BadInput(f"--prompt chooses among the prompts of a run, {str(given)!r} is no run; drop --prompt")
