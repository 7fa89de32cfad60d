"""Entries by what they were asked: those of a task stand on the same rows, and may be put in other words."""

import dataclasses
from collections.abc import Sequence

from ..tasks import Source, Task, TaskNames, row_names
from ._entry import Entry
from ._folders import is_of_search


def with_tasks(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with the names of their tasks, and what tells the words of one from others on the same rows."""
    # Of a task that runs share there is one object.
    tasks = {id(entry.run.spec.declared): _without_folds(entry) for entry in entries}
    names = row_names(tasks.values())
    named = [dataclasses.replace(entry, task_name=names[id(tasks[id(entry.run.spec.declared)])]) for entry in entries]
    # Words are told apart among the prompts that are compared.
    asked = {
        (id(entry.run.spec.declared), entry.key): dataclasses.replace(
            tasks[id(entry.run.spec.declared)], name=str(entry.key), source=Source()
        )
        for entry in named
    }
    words = TaskNames(asked.values())
    return [
        dataclasses.replace(entry, words=words.difference(asked[id(entry.run.spec.declared), entry.key]))
        for entry in named
    ]


def _without_folds(entry: Entry) -> Task:
    """The task of an entry; of a search its report rows alone, on which the runs of all folds are scored."""
    task = entry.run.spec.declared
    if entry.folder is None or not task.source.files or not is_of_search(entry.folder):
        return task
    report = {"test": task.source.files["test"]}
    return dataclasses.replace(task, source=dataclasses.replace(task.source, files=report))
