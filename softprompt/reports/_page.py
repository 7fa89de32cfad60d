"""The page: what was read, put into sections, and written as one file of HTML."""

import base64
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import BadInput, SoftPromptError
from ..metrics import known_score
from ..study import published
from ._answers import Answered, evaluated, kept_answers
from ._commands import commands, parts_of
from ._entry import Entry, Sources
from ._figures import MOST_SETTINGS, Drawer, Drawn, answers, curve_of, ladder, landscape, of_settings, similarities
from ._headline import Headline, headline
from ._settings import Setting, best_setting, names_of, settings_of
from ._sources import read_sources
from ._tables import Table, cell, class_table, csv_files, runs_table, settings_table

PUBLISHED = (
    "Explosive Prompt Tuning, table 1: all training rows, 30,000 steps of 16 rows, rates of SuperGLUE chosen on "
    "validation rows, others 0.3 (full 0.00001); mean of three seeds, in percent there"
)
# Tasks and models whose figures are drawn; all of them are in the tables.
MOST_SECTIONS = 6
# Runs up to which the curves are among the numbers to download.
MOST_CURVES = 200

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Section:
    """One task on one model.

    Args:
        anchor: of the section in the page.
        task: its name.
        model: its name.
        headline: None where no prompt has a test score.
        ladder: the figure beside it, or nothing.
        figures: of its runs.
        answered: the answers of the best prompt, where they are at hand.
        answer_figures: of these answers.
        classes: scores of each class, where answers are classes.
        published: what papers print for this task and model.
    """

    anchor: str
    task: str
    model: str
    headline: Headline | None
    ladder: Sequence[Drawn] = ()
    figures: Sequence[Drawn] = ()
    answered: Answered | None = None
    answer_figures: Sequence[Drawn] = ()
    classes: Table | None = None
    published: Sequence[Mapping[str, Any]] = field(default_factory=list)


def report(
    *runs: "Path | str",
    output: "Path | str" = "report.html",
    rows: bool = False,
    replace: bool = False,
    tell: Tell | None = None,
    **options: Any,
) -> Path:
    """Write one page of HTML about trained prompts that needs no network and nothing beside itself.

    Args:
        runs: folders of runs, stores of studies, reports on stability, landscapes, or folders that hold any of them.
        output: the file to write.
        rows: whether the best prompt of each task answers its test rows, for confusion, calibration and errors; where
            `evaluation/predictions.jsonl` lies beside a prompt it is read in any case.
        replace: whether a file that exists is replaced.
        tell: told before each prompt that answers rows.
        options: of `evaluate`, for `rows`: `model`, `data_root`, `device`, `batch_size`, `test_rows` ...

    Raises:
        BadInput: the file exists, a path holds no run, or `rows` finds no stored prompt.
        SoftPromptError: a prompt cannot answer its rows, named.
        StorageFailure: the file cannot be written.
    """
    from ..store import write_file

    target = Path(output)
    refuse_output(target, replace)
    if not runs:
        raise BadInput("no run; give a run, the store of a study, or a folder of them")
    if options and not rows:
        name = next(iter(options)).replace("_", "-")
        raise BadInput(f"--{name} says how rows are answered; give --rows too, or leave it out")
    page = render(read_sources(runs), rows=rows, tell=tell or _silent, **options)
    write_file(target, page.encode(), what="the report", replace=True)
    return target


def refuse_output(target: Path, replace: bool) -> None:
    """Refuse a file that cannot be written, before anything is computed.

    Raises:
        BadInput: it exists and is not to be replaced, or its folder is missing.
    """
    if target.is_dir():
        raise BadInput(f"--output {str(target)!r} is a folder; give the name of a file, as in report.html")
    if os.path.lexists(target) and not replace:
        raise BadInput(f"{str(target)!r} exists already; choose another --output, or give --replace")
    if not target.absolute().parent.is_dir():
        raise BadInput(f"the folder of {str(target)!r} does not exist; make it, or choose another --output")


def _silent(line: str) -> None:
    """Say nothing."""


def render(sources: Sources, *, rows: bool = False, tell: Tell = _silent, **options: Any) -> str:
    """The page as HTML.

    Args:
        sources: what is shown.
        rows: as in `report`.
        tell: as in `report`.
        options: as in `report`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    named = names_of(sources.entries)
    settings = settings_of(sources.entries)
    drawer = Drawer()
    keys = list(dict.fromkeys(entry.key for entry in sources.entries))
    sections = [
        _section(number, key, named, settings, sources, drawer if number < MOST_SECTIONS else None, rows, tell, options)
        for number, key in enumerate(keys)
    ]
    tables = {"settings": settings_table(settings), "runs": runs_table(named)}
    drawn = [figure for name, values in sources.landscapes.items() for figure in landscape(drawer, name, values)]
    environment = Environment(
        loader=PackageLoader("softprompt.reports"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"cell": cell, "parts_of": parts_of}
    return environment.get_template("report.html").render(
        sections=sections,
        others=keys[MOST_SECTIONS:],
        tables=tables,
        landscapes=drawn,
        stabilities=sources.stabilities,
        notes=[*sources.notes, *_notes(sources.entries)],
        commands=[(setting, line) for setting in settings[: 4 * MOST_SETTINGS] for line in commands(setting)],
        versions=_versions(sources.entries),
        fingerprints=_fingerprints(sources.entries),
        downloads=_downloads(sources, named, settings, sections, tables),
        source=PUBLISHED,
        has_figures=drawer.is_able,
        counts={"runs": len(sources.entries), "tasks": len({k[0] for k in keys}), "models": len({k[1] for k in keys})},
        made_by=version("softprompt"),
    )


def _section(
    number: int,
    key: tuple[str, str],
    named: Sequence[tuple[Entry, str]],
    settings: Sequence[Setting],
    sources: Sources,
    drawer: Drawer | None,
    rows: bool,
    tell: Tell,
    options: Mapping[str, Any],
) -> Section:
    chosen = [setting for setting in settings if setting.key == key]
    answered = _answered(chosen, rows, tell, options)
    judged = headline(chosen, sources, answered)
    plain = Section(anchor=f"task-{number}", task=key[0], model=key[1], headline=judged)
    if drawer is None:
        return plain
    running = [(entry, name) for entry, name in named if entry.key == key and entry.state != "finished"]
    return dataclasses.replace(
        plain,
        ladder=ladder(drawer, judged) if judged and len(judged.lines) > 1 else [],
        figures=[*of_settings(drawer, chosen, running), *similarities(drawer, chosen)],
        answered=answered,
        answer_figures=answers(drawer, answered) if answered else [],
        classes=class_table(answered) if answered and answered.classes else None,
        published=[{"method": method, "score": score} for method, score in published(*key).items()],
    )


def _answered(settings: Sequence[Setting], rows: bool, tell: Tell, options: Mapping[str, Any]) -> Answered | None:
    """The answers of a prompt: those that lie beside the best one or another, or, if asked for, new ones."""
    setting = best_setting(settings)
    best = setting.best if setting else None
    if best is None:
        return None
    others = sorted((e for s in settings for e in s.entries), key=lambda e: -known_score(e.run.validation_score))
    for entry in [] if rows else [best, *others]:
        if (kept := kept_answers(entry)) is not None:
            return kept
    if not rows:
        return None
    if best.folder is None:
        raise BadInput(
            f"--rows needs the stored prompt of {best.label!r}, and its study kept none; leave --rows out, or train "
            "with `softprompt study run --keep`"
        )
    tell(f"{best.label}: answers the test rows of {best.task}")
    try:
        return evaluated(best, **options)
    except SoftPromptError as error:
        error.args = (f"{best.label}: {error.message}; or leave --rows out, or leave this run out of the report",)
        raise


def _notes(entries: Sequence[Entry]) -> list[str]:
    """What has to be known of single runs, and the warnings of training."""
    lines = [f"{entry.label}: {line}" for entry in entries for line in entry.notes]
    lines += [f"{entry.label}: {entry.run.status}" for entry in entries if entry.run.is_dropped]
    # A warning of training begins with the name of its prompt.
    lines += [line for entry in entries for line in entry.run.warnings]
    return list(dict.fromkeys(lines))


def _versions(entries: Sequence[Entry]) -> list[str]:
    return sorted({", ".join(f"{k} {v}" for k, v in entry.run.versions.items()) for entry in entries} - {""})


def _fingerprints(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """What was hashed, and its SHA-256: tokenised rows, files of rows, word embeddings."""
    lines: dict[tuple[str, str], None] = {}
    for entry in entries:
        if entry.data:
            lines[f"rows of {entry.task} as {entry.run.spec.model} reads them", entry.data] = None
        if entry.run.embeddings:
            lines[f"word embeddings of {entry.run.spec.model}", entry.run.embeddings] = None
        for path, digest in entry.run.inputs.items():
            lines[Path(path).name, digest] = None
    return list(lines)


def _downloads(
    sources: Sources,
    named: Sequence[tuple[Entry, str]],
    settings: Sequence[Setting],
    sections: Sequence[Section],
    tables: Mapping[str, Table],
) -> list[tuple[str, str]]:
    """File names and `data:` addresses of everything on the page."""
    from ..store import json_bytes

    has_curves = len(named) <= MOST_CURVES
    numbers = {
        "headlines": [_plain_headline(s.headline) for s in sections if s.headline],
        "settings": tables["settings"].rows,
        "runs": [
            {**row, "curves": _curves(entry)} if has_curves else row
            for row, (entry, _) in zip(tables["runs"].rows, named, strict=True)
        ],
        "commands": [line for setting in settings for line in commands(setting)],
        "fingerprints": dict(_fingerprints(sources.entries)),
    }
    compact = json.dumps(json.loads(json_bytes(numbers)), ensure_ascii=False).encode()
    files = [(name, "text/csv", text.encode()) for name, text in csv_files(tables)]
    files.append(("report.json", "application/json", compact))
    return [(name, f"data:{kind};base64,{base64.b64encode(content).decode()}") for name, kind, content in files]


def _curves(entry: Entry) -> dict[str, Any]:
    names = [name for name in entry.run.curve if name != "step"]
    curves = {name: curve_of(entry, name) for name in (*names, "score")}
    return {name: {"step": curve[0], "value": curve[1]} for name, curve in curves.items() if curve}


def _plain_headline(judged: Headline) -> dict[str, Any]:
    values = {f.name: getattr(judged, f.name) for f in dataclasses.fields(judged)}
    return {**values, "setting": judged.setting.name, "lines": [dataclasses.asdict(line) for line in judged.lines]}
