"""The figures of a report: which runs each one shows, its alternative text, and its SVG."""

import dataclasses
import logging
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import SoftPromptError
from ..metrics import known_score
from ._answers import Answered, calibration
from ._entry import Entry
from ._headline import Headline
from ._settings import Setting

log = logging.getLogger("softprompt")

# A figure stays readable, and a page of a thousand runs small.
MOST_SETTINGS, MOST_SEEDS, MOST_POINTS, MOST_CLASSES = 8, 20, 80, 12
# Of a setting's name below its column: more would leave no room for the column.
MOST_LINES = 4
SIZE = (4.9, 3.4)


@dataclass(frozen=True)
class Drawn:
    """A figure of a page.

    Args:
        title: what it shows.
        svg: the drawing.
        text: what it says, for those who cannot see it.
        caption: what a reader has to know besides.
    """

    title: str
    svg: str
    text: str
    caption: str = ""


Draw = Callable[[Any], Any]


class Drawer:
    """Draws figures with ids of their own; draws nothing where the plotting library is not installed."""

    def __init__(self) -> None:
        self.count = 0
        try:
            from ..analysis import page_figures, plots

            self.plots, self.figures = plots, page_figures
        except ModuleNotFoundError as error:
            log.warning("the report has no figures: %s; pip install 'softprompt[plots]'", error)
            self.plots = self.figures = None

    @property
    def is_able(self) -> bool:
        """Whether the plotting library is installed."""
        return self.plots is not None

    def drawn(
        self, title: str, text: str, draw: Callable[[Any, Any], Any], caption: str = "", size: Any = SIZE
    ) -> list[Drawn]:
        """The figure that `draw` makes of the two modules of figures; none without the plotting library."""
        if self.plots is None:
            return []
        self.count += 1
        with self.plots.page_style():
            svg = self.plots.page_svg(draw(self.plots, self.figures), f"f{self.count}", size)
        return [Drawn(title, svg, text, caption)]


def ladder(drawer: Drawer, headline: Headline) -> list[Drawn]:
    """The scores without training and of the best setting."""
    lines = [(_broken(line.name), line.score, line.low, line.high, line.is_trained) for line in headline.lines]
    text = "Test scores: " + "; ".join(f"{line.name} {line.score:.3f}" for line in headline.lines) + "."
    return drawer.drawn(
        "The same scores", text, lambda _, page: page.ladder_figure(lines), "A bar is a 95\u00a0% interval.", None
    )


def _broken(name: str) -> str:
    """A long name on several lines, so that the figure keeps room for the scores."""
    return textwrap.fill(name.partition(" (")[0], 27)


def of_settings(drawer: Drawer, settings: Sequence[Setting], running: Sequence[tuple[Entry, str]]) -> list[Drawn]:
    """The strip plot and the curves of the settings of one task and model, the best settings first.

    Args:
        drawer: of this page.
        settings: with finished prompts.
        running: prompts that are not finished, with the names of their settings.
    """
    ranked = sorted(settings, key=lambda setting: -known_score(setting.validation, setting.numbers["mean"]))
    drawn_entries = {setting.name: list(setting.entries)[:MOST_SEEDS] for setting in ranked[:MOST_SETTINGS]}
    for entry, name in running:
        if len(drawn_entries.setdefault(name, [])) < MOST_SEEDS and len(drawn_entries) <= MOST_SETTINGS:
            drawn_entries[name].append(entry)
    drawn_entries = {name: entries for name, entries in drawn_entries.items() if entries}
    left_out = _left_out(settings)
    short, listed = _short_names(list(drawn_entries))
    drawn_entries = {short[name]: entries for name, entries in drawn_entries.items()}
    majorities = (entry.run.majority for setting in settings for entry in setting.entries)
    majority = next((score for score in majorities if score is not None), None)
    shown = [dataclasses.replace(setting, name=short[setting.name]) for setting in ranked[:MOST_SETTINGS]]
    figures = _strip(drawer, shown, majority, left_out)
    for quantity, title, y, options in (
        ("loss", "Training loss", "loss", {"log_y": True}),
        ("score", "Validation score", "validation score", {}),
        ("token_norms", "Norm of the prompt", "mean norm, in token norms", {"log_y": True, "band": _band()}),
    ):
        figures += _curves(drawer, drawn_entries, quantity, title, y, options, left_out)
    if listed and figures:
        figures[0] = dataclasses.replace(figures[0], caption=f"{figures[0].caption} {listed}")
    return figures


def _short_names(names: Sequence[str]) -> tuple[dict[str, str], str]:
    """Names of settings as figures have room for them, and where these are numbers, what each stands for."""
    if all(name.count(", ") < MOST_LINES for name in names):
        return {name: name for name in names}, ""
    short = {name: f"{name.partition(', ')[0]}, ({number})" for number, name in enumerate(names, 1)}
    return short, " ".join(f"({number}) {name}." for number, name in enumerate(names, 1))


def _band() -> tuple[float, float]:
    from ..prompts.units import BAND

    return BAND


def _left_out(settings: Sequence[Setting]) -> str:
    parts = []
    if len(settings) > MOST_SETTINGS:
        parts.append(f"the {MOST_SETTINGS} settings with the best validation score of {len(settings)}")
    if any(len(setting.entries) > MOST_SEEDS for setting in settings):
        parts.append(f"the first {MOST_SEEDS} seeds of each setting")
    return f"Drawn are {' and '.join(parts)}." if parts else ""


def _strip(drawer: Drawer, settings: Sequence[Setting], majority: float | None, left_out: str) -> list[Drawn]:
    scored = [setting for setting in settings if setting.numbers["mean"] is not None]
    if not scored:
        return []
    arms = {_wrapped(s.name): [entry.run.score for entry in s.entries] for s in scored}
    means = {_wrapped(s.name): (s.numbers["mean"], s.numbers["low"], s.numbers["high"]) for s in scored}
    lines = [(s.name, s.numbers["mean"], s.numbers["min"], s.numbers["n"]) for s in scored]
    text = "Test scores of every seed. " + " ".join(
        f"{name}: mean {mean:.3f}, lowest {lowest:.3f}, {n} seeds." for name, mean, lowest, n in lines
    )
    width = max(SIZE[0], 0.95 * len(scored) + 1.2)
    return drawer.drawn(
        "Test score of each seed",
        text,
        lambda plots, _: plots.strip_figure(arms, means=means, chance=majority),
        f"A dot is a seed, a line the mean, a bar its 95\u00a0% interval. {left_out}".strip(),
        (width, SIZE[1]),
    )


def _wrapped(name: str) -> str:
    return name.replace(", ", "\n")


def _curves(
    drawer: Drawer,
    drawn_entries: Mapping[str, Sequence[Entry]],
    quantity: str,
    title: str,
    y: str,
    options: Mapping[str, Any],
    left_out: str,
) -> list[Drawn]:
    curves = {name: [curve for entry in entries if (curve := curve_of(entry, quantity))]
              for name, entries in drawn_entries.items()}  # fmt: skip
    curves = {name: lines for name, lines in curves.items() if lines}
    if not curves:
        return []
    ends = " ".join(f"{name} ends between {_ends(lines)}." for name, lines in curves.items())
    return drawer.drawn(
        title,
        f"{title} over the optimiser steps. {ends}",
        lambda _, page: page.learning_figure(curves, y=y, **options),
        f"A line is a seed. {left_out}".strip(),
    )


def _ends(lines: Sequence[tuple[Sequence[int], Sequence[float]]]) -> str:
    last = [values[-1] for _, values in lines]
    return f"{min(last):.3g} and {max(last):.3g}"


def curve_of(entry: Entry, quantity: str) -> tuple[list[int], list[float]] | None:
    """The steps and finite values of a quantity, thinned for a figure; None where nothing was recorded."""
    source = entry.run.validation if quantity == "score" else entry.run.curve
    pairs = zip(source.get("step", ()), source.get(quantity, ()), strict=False)
    known = [(int(step), float(value)) for step, value in pairs if step is not None and value is not None]
    if not known:
        return None
    every = -(-len(known) // MOST_POINTS)
    kept = known[::every] if (len(known) - 1) % every == 0 else [*known[::every], known[-1]]
    return [step for step, _ in kept], [value for _, value in kept]


def similarities(drawer: Drawer, settings: Sequence[Setting]) -> list[Drawn]:
    """The cosines between the vectors of the best prompt of each setting, where the prompts are at hand."""
    from ..analysis import cosines, distinct
    from ..prompts.prompt import SoftPrompt

    matrices: dict[str, Any] = {}
    for setting in settings[:MOST_SETTINGS]:
        folder = setting.best.folder if setting.best else None
        if folder is None or not (folder / "prompt").exists():
            continue
        try:
            vectors = distinct(SoftPrompt.load(folder / "prompt").vectors)
        except SoftPromptError as error:
            log.warning("%s is left out of the similarities: %s", folder, error.message)
            continue
        if len(vectors) > 1:
            matrices[setting.name] = cosines(vectors).tolist()
    if not matrices:
        return []
    means = "; ".join(f"{name} {_mean_off_diagonal(matrix):.2f}" for name, matrix in matrices.items())
    return drawer.drawn(
        "Similarity of the vectors of a prompt",
        f"Cosines between the vectors of the best prompt of each setting. Mean cosine of two vectors: {means}.",
        lambda _, page: page.similarity_figure({name: m for name, m in matrices.items()}),
        f"Of the best prompt of each setting on validation. Mean cosine: {means}.",
        None,
    )


def _mean_off_diagonal(matrix: Sequence[Sequence[float]]) -> float:
    values = [value for i, row in enumerate(matrix) for j, value in enumerate(row) if i != j and value == value]
    return sum(values) / len(values) if values else float("nan")


def landscape(drawer: Drawer, name: str, values: Mapping[str, Any]) -> list[Drawn]:
    """The loss around the text or the prompt, as `softprompt landscape` measured it."""
    panels = {str(p["prompt"] if "prompt" in p else p.get("label", n)): p["surface"]
              for n, p in enumerate(values["prompts"]) if "surface" in p}  # fmt: skip
    panels = dict(list(panels.items())[:4])
    if not panels:
        return []
    space = values.get("settings", {}).get("space", "input")
    return drawer.drawn(
        f"Loss around the {space}: {name}",
        f"Contours of the mean loss over a plane through the {space} of {', '.join(panels)}.",
        lambda plots, _: plots.contour_figure(panels, values["coordinates"], measure="loss"),
        "The gradient is horizontal, a random direction vertical; the cross marks the middle.",
        None,
    )


def answers(drawer: Drawer, answered: Answered) -> list[Drawn]:
    """The confusion matrix and the calibration curve of a prompt."""
    figures: list[Drawn] = []
    if answered.classes is not None and len(answered.classes.labels) <= MOST_CLASSES:
        names, counts = list(answered.classes.labels), [list(row) for row in answered.classes.confusion]
        columns = names
        if any(answered.classes.invalid):
            columns = [*names, "no label"]
            counts = [[*row, bad] for row, bad in zip(counts, answered.classes.invalid, strict=True)]
        text = "Rows by their class and the answer: " + "; ".join(
            f"{name} answered as {', '.join(f'{a} {c}' for a, c in zip(columns, row, strict=True))}"
            for name, row in zip(names, counts, strict=True)
        )
        figures += drawer.drawn(
            "Confusion matrix", f"{text}.", lambda _, page: page.confusion_figure(counts, names, columns),
            "Each cell counts test rows; darker is a larger share of the row's class.",
            SIZE if len(names) < 6 else None,
        )  # fmt: skip
    if answered.has_scores:
        confidence, accuracy, counts = calibration(answered.rows)
        points = "; ".join(f"{c:.2f} sure, {a:.2f} right" for c, a in zip(confidence, accuracy, strict=True))
        figures += drawer.drawn(
            "Calibration",
            f"Share of right answers by confidence: {points}.",
            lambda _, page: page.calibration_figure(confidence, accuracy, counts),
            "On the dashed line the prompt is as often right as it is sure. A larger dot holds more rows.",
        )
    return figures
