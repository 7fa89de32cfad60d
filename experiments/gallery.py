"""`python -m experiments.gallery`: every figure that one command makes, on the built-in model, and the page of them.

Runs are kept in runs/gallery: what is there is not trained again. Writes docs/images/gallery and docs/gallery.md.
"""

import importlib.util
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from softprompt.cli import main as softprompt

ROOT = Path(__file__).parent.parent
RUNS = Path("runs/gallery")
IMAGES, PAGE = Path("docs/images/gallery"), Path("docs/gallery.md")
# Of the screenshot of the report, in CSS pixels.
WIDTH, HEIGHT = 1180, 830


@dataclass(frozen=True)
class Shown:
    """A figure of the gallery.

    Args:
        name: of its file.
        title: heading.
        command: what makes it, after `softprompt`.
        made: the file that the command writes, in its output.
        caption: what is to be seen.
    """

    name: str
    title: str
    command: str
    made: str
    caption: str


TRAINED = {
    "opinion": "train --task lab/opinion --model lab-t5 --method prompt-tuning --method residual --method ept-star "
    "--seed 0 --seed 1 --seed 2 --steps 150 --eval-every 15",
    "relabelled": "train --task lab/opinion-relabelled --model lab-t5 --method prompt-tuning --steps 150 "
    "--eval-every 50",
    "p-tuning": "train --task lab/opinion --model lab-t5 --method prompt-tuning --method p-tuning --steps 150 "
    "--eval-every 50 --no-frozen",
    "several-rates": "train --task lab/opinion --model lab-t5 --method prompt-tuning --method scaled --lr 0.01 "
    "--lr 0.03 --lr 0.1 --lr 0.3 --lr 1 --seed 0 --seed 1 --steps 60 --eval-every 20 --no-frozen",
}
ONE, TWO = "--prompt prompt-tuning-seed0", "--prompt prompt-tuning-seed0 --prompt ept-star-seed1"


def _analysis(name: str, title: str, words: str, caption: str) -> Shown:
    return Shown(name, title, f"analyze {name} {words}", f"{name}.png", caption)


FIGURES = (
    Shown(
        "report", "A report", "report opinion --rows", "report.html",
        "The first screen of a page that holds everything below it: settings, curves, errors with their texts, and how "
        "it was made ([reports](reports.md)).",
    ),
    _analysis(
        "norm", "The norm while a prompt is trained", "opinion",
        "EPT's vector begins near zero and grows a thousandfold within 30 steps; a residual prompt stays small here.",
    ),
    _analysis(
        "similarity", "Similarity of vectors", "opinion",
        "The vectors of a residual prompt are alike, those of prompt tuning are not. One vector has no matrix.",
    ),
    _analysis(
        "neighbors", "Nearest words", f"opinion {ONE}",
        "The words that are nearest to each vector. Label words would be orange.",
    ),
    _analysis(
        "broadcast", "One vector, repeated", f"opinion {TWO} --rows 200",
        "One vector of prompt tuning does here what ten do, on 200 rows; EPT has one vector from the beginning.",
    ),
    _analysis(
        "groups", "Two groups of vectors", "p-tuning --rows 200",
        "On this small model the vectors of a prompt are all on one side of their main direction.",
    ),
    _analysis(
        "transfer", "Transfer between tasks", f"opinion relabelled {ONE} --rows 200",
        "The same question, answered in other words: the relabelled prompt carries over, the other does not.",
    ),
    _analysis("ablation", "Settings compared", "opinion --by method", "A dot is a seed, a line the mean."),
    _analysis("rates", "Learning rates", "several-rates", "Means of two seeds after 60 steps; bars are their range."),
    _analysis(
        "attention", "Attention to the prompt", f"opinion {TWO} --rows 32",
        "The share of their attention that the words of the text give to the prompt.",
    ),
    _analysis(
        "drift", "What the layers do to a prompt", f"opinion {TWO} --rows 32",
        "How far the states at the prompt are from its vectors after each layer; the score in brackets.",
    ),
    _analysis(
        "attribution", "Which words decide", f"opinion {ONE} --rows 2",
        "Two rows, with and without the prompt: a bar to the right is a word that supports the true label.",
    ),
    _analysis(
        "nearest-examples", "Nearest training rows", f"opinion {TWO} --rows 200",
        "How often the training rows whose states are nearest have the label of the row.",
    ),
    Shown(
        "landscape", "The loss around the text",
        f"landscape opinion {TWO} --compare --rows 8 --grid 21", "contour.png",
        "Contours of the loss over a plane through the embedded text ([landscapes](landscape.md)).",
    ),
    Shown(
        "stability", "Scores over seeds",
        "stability --task lab/weekend --model lab-t5 --setting plain --setting 'restarts: --restarts 4' --seeds 6 "
        "--steps 60 --shots 32 --no-frozen --store runs/gallery/stability", "strip.png",
        "Two settings with six seeds each ([stability](stability.md)).",
    ),
)  # fmt: skip


def placed(command: str) -> str:
    """A command with its runs where they lie."""
    words = [str(RUNS / word) if word in TRAINED else word for word in shlex.split(command)]
    return shlex.join(words)


def train_missing() -> None:
    """Train the runs that are not there, or not to their end."""
    for name, command in TRAINED.items():
        folder = RUNS / name
        if (folder / "run.json").exists():
            _run(f"train --resume {folder} --quiet")
        else:
            _run(f"{command} --output {folder} --quiet")


def make(shown: Shown) -> None:
    """Run the command of a figure, and put the figure among the images."""
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / ("report.html" if shown.name == "report" else "made")
        _run(f"{placed(shown.command)} --output {made}")
        target = IMAGES / f"{shown.name}.png"
        if shown.name == "report":
            photograph(made, target)
        else:
            shutil.copyfile(made / shown.made, target)


def photograph(page: Path, target: Path) -> None:
    """The first screen of a page; without a browser, the image that is there stays."""
    chromium = shutil.which("chromium")
    if chromium is None or importlib.util.find_spec("playwright") is None:
        print("no Chromium, so the image of the report stays as it is; make browser installs it", file=sys.stderr)
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        view.goto(page.resolve().as_uri())
        view.screenshot(path=target)
        browser.close()


def page() -> str:
    """The page of the gallery as Markdown."""
    lines = [
        "# Gallery",
        "",
        "Every figure is made by one command, here on the built-in model `lab-t5`. `make gallery` trains the runs and",
        "makes all of them again (`experiments/gallery.py`; about ten minutes on one core).",
        "",
        *(f"    softprompt {command} --output {RUNS / name}" for name, command in TRAINED.items()),
    ]
    for shown in FIGURES:
        image = f"images/gallery/{shown.name}.png"
        lines += ["", f"## {shown.title}", "", f"    softprompt {placed(shown.command)}", "", shown.caption, ""]
        lines += [f"![{shown.title}]({image})"]
    return "\n".join(lines) + "\n"


def _run(command: str) -> None:
    print(f"softprompt {command}", file=sys.stderr, flush=True)
    if code := softprompt(shlex.split(command)):
        raise SystemExit(code)


def main(names: list[str]) -> None:
    """Make the figures of these names, or all, and the page."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    train_missing()
    for shown in FIGURES:
        if not names or shown.name in names:
            make(shown)
    PAGE.write_text(page())


if __name__ == "__main__":
    main(sys.argv[1:])
