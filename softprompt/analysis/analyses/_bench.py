"""What an analysis works on: stored prompts, their frozen model and rows of their tasks, loaded when asked for."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...backbones import AbstractBackbone
from ...data import Examples, Rows, drawn_rows
from ...errors import BadInput
from ...inference.evaluate import evaluate
from ...inference.prompt_model import LoadedModels
from ...inference.rows import examples_for
from ...prompts.prompt import SoftPrompt
from ...tasks import Task
from ..subjects import Subject, subjects
from ._recorded import Recorded


@dataclass(kw_only=True)
class Bench:
    """Stored prompts, and what it takes to ask their model.

    Args:
        paths: runs, prompt folders, or `user/name` on the hub.
        recorded: trained prompts beside those of the paths, where an analysis reads no vectors (`study.recorded`).
        prompts: names of prompts in the runs; empty takes all.
        tasks: further tasks that prompts are asked, where an analysis asks several.
        rows: rows of a split that are read, drawn by `seed`.
        split: "train", "validation" or "test".
        seed: of the draws.
        by: key whose values are compared, where an analysis compares settings.
        copies: how often one vector is repeated, where an analysis repeats one; empty takes its own.
        data_root: folder with rows; None takes the run's.
        model: the frozen model, a name or a loaded one; None loads the one that a prompt names.
        device: "auto", "cpu", "cuda" ...
    """

    paths: Sequence["str | Path"] = ()
    recorded: Sequence[Recorded] = ()
    prompts: Sequence[str] = ()
    tasks: Sequence[str] = ()
    rows: int = 32
    split: str = "test"
    seed: int = 0
    by: str | None = None
    copies: Sequence[int] = ()
    data_root: Path | None = None
    model: "str | AbstractBackbone | None" = None
    device: str = "auto"

    @functools.cached_property
    def subjects(self) -> list[Subject]:
        """The stored prompts.

        Raises:
            BadInput: a path holds no prompt, or a run has not stored one yet.
        """
        return subjects(self.paths, prompts=self.prompts, data_root=self.data_root)

    @functools.cached_property
    def _models(self) -> LoadedModels:
        if isinstance(self.model, AbstractBackbone):
            return LoadedModels(self.model)
        return LoadedModels(self.model, device=self.device, engine="reference")

    def backbone(self, subject: Subject) -> AbstractBackbone:
        """The frozen model of a prompt, computed by transformers: hooks see each layer, and attention its weights."""
        return self._models.of(subject.prompt)

    def drawn(self, subject: Subject, split: str | None = None, rows: int | None = None) -> Rows:
        """Rows of a split of a prompt's task; the same for every prompt of that task."""
        chosen, _ = drawn_rows(
            subject.task,
            subject.data_root,
            subject.max_bad_rows,
            split=split or self.split,
            count=self.rows if rows is None else rows,
            seed=self.seed,
        )
        return chosen

    def examples(self, subject: Subject, rows: Rows) -> Examples:
        """Rows as the model of a prompt reads them after it."""
        return examples_for(self.backbone(subject), subject.task, rows, subject.prompt.length)

    def score(
        self, subject: Subject, prompt: SoftPrompt, task: Task | str | None = None, split: str | None = None
    ) -> float:
        """The score of any prompt of a subject's model on its task or another one."""
        return evaluate(
            prompt,
            task=subject.task if task is None else task,
            model=self.backbone(subject),
            data_root=subject.data_root,
            split=split or self.split,
            test_rows=self.rows,
            seed=self.seed,
            max_bad_rows=subject.max_bad_rows,
        ).metrics["score"]

    def refuse_mixed(self, what: str) -> None:
        """Refuse prompts whose vectors are of several models or widths.

        Raises:
            BadInput: with two of them.
        """
        first, *others = self.subjects
        for other in others:
            ours, theirs = (each.prompt.provenance.backbone for each in (first, other))
            if (ours.name, ours.embedding_size) != (theirs.name, theirs.embedding_size):
                raise BadInput(
                    f"{what} needs prompts of one model: {first.label!r} is of {ours.name!r} (width "
                    f"{ours.embedding_size}), {other.label!r} of {theirs.name!r} (width {theirs.embedding_size}); "
                    "give those of one"
                )


def refuse_none(subject: Subject, what: str) -> None:
    """Refuse a prompt without vectors, as a linear head alone has none.

    Raises:
        BadInput: with its name.
    """
    if subject.prompt.length == 0:
        raise BadInput(f"{what} needs prompt vectors, and {subject.label!r} has none; choose others with --prompt")
