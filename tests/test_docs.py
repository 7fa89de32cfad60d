"""The pages: every command that they show is one that the program takes, every study file loads, every import works."""

import ast
import functools
import importlib
import itertools
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import softprompt
import typer
from softprompt.cli import app, main
from softprompt.cli._suggest import OTHER_NAMES
from softprompt.prompts.methods import METHODS
from softprompt.settings import Seeds
from softprompt.study import StoredRun, load_specs
from softprompt.study._stored import path_of, to_bytes

ROOT = Path(__file__).parent.parent
# Options of Slurm, torchrun and vLLM.
OF_LAUNCHERS = {"--array", "--enable-prompt-embeds", "--nproc-per-node", "--no-python", "--nnodes"}
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "experiments").glob("*/README.md")),
    *sorted((ROOT / "experiments" / "results").glob("*.md")),
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "log.md"),
]


def blocks(page: Path) -> Iterator[str]:
    """The indented blocks of a page, and those in fences, without their indentation."""
    lines = [re.sub(r"^```.*", "", line) for line in page.read_text().splitlines()]
    fenced = page.read_text().split("```")[1::2]
    yield from (block.partition("\n")[2] for block in fenced)
    for is_code, group in itertools.groupby(lines, lambda line: line.startswith("    ") or not line.strip()):
        if is_code:
            yield textwrap.dedent("\n".join(group)).strip("\n")


def commands(page: Path) -> Iterator[list[str]]:
    """The words behind `softprompt` in each command of the page; `...` stands for words left out."""
    for block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            for match in re.finditer(r"(?:^|[|(] ?)softprompt (?=[a-z-])", line):
                yield words_of(re.split(r" [|>] |\)$", line[match.end() :])[0])
    # In a line of prose a name alone is the name of a command, and not one to give.
    inline = (words_of(" ".join(line.split())) for line in re.findall(r"`softprompt\s([a-z][^`]*)`", page.read_text()))
    yield from (words for words in inline if len(words) > len(named(words)))


def words_of(line: str) -> list[str]:
    return [word for word in shlex.split(line, comments=True) if word != "..."]


def named(words: list[str]) -> list[str]:
    """The leading words that name a command."""
    command, names = program(), []
    for word in words:
        if (command := getattr(command, "commands", {}).get(word)) is None:
            break
        names.append(word)
    return names


@functools.cache
def program() -> Any:
    return typer.main.get_command(app)


def parse(words: list[str]) -> dict[str, Any]:
    """The arguments of the command; an option that it does not have is an error."""
    command = program()
    context = command.make_context("softprompt", list(words))
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, words)
        context = command.make_context(name, list(words), parent=context)
    return context.params


SHOWN = [(page.name, words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize(("page", "words"), SHOWN, ids=[f"{page} {' '.join(words)}" for page, words in SHOWN])
def test_every_command_of_a_page_is_one_that_the_program_takes(page: str, words: list[str]):
    given = parse(words)
    methods = given.get("method") or []
    assert set(methods) <= METHODS.keys()


def test_the_commands_of_all_pages_are_found():
    assert {words[0] for _, words in SHOWN} >= {
        "demo", "train", "evaluate", "predict", "landscape", "lab", "study", "stability", "tasks", "methods"
    }  # fmt: skip
    assert len(SHOWN) > 40


def options_of(command: Any) -> set[str]:
    inner = getattr(command, "commands", {}).values()
    names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return names.union(*map(options_of, inner))


def options_of_benchmarks() -> set[str]:
    return {
        name for path in (ROOT / "benchmarks").glob("*.py") for name in re.findall(r'"(--[\w-]+)"', path.read_text())
    }


@functools.cache
def options_of_studies() -> set[str]:
    """Of the studies that read their options by typer, and of those that name them to argparse."""
    apps = [importlib.import_module(f"experiments.{name}.__main__").app for name in
            ("claims", "pretraining", "real_lm", "t5", "which_method")]  # fmt: skip
    sources = [path.read_text() for path in (ROOT / "experiments").rglob("*.py")]
    return set().union(*(options_of(typer.main.get_command(app)) for app in apps),
                       *(re.findall(r'"(--[\w-]+)"', source) for source in sources))  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_that_a_page_names_exists(page: Path):
    ours = re.sub(r"(?m)^ *pip install .*$", "", page.read_text())
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*(?![\w*-])", ours))
    of_other_tools = {f"--{name}" for name in OTHER_NAMES} | OF_LAUNCHERS
    known = options_of(program()) | options_of_benchmarks() | options_of_studies() | of_other_tools | {"--help"}
    assert named - known == set()


@functools.cache
def anchors(page: Path) -> set[str]:
    """What a link may name behind `#`: headings as GitHub writes them, and marks of the page's own."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
    headings = re.findall(r"(?m)^#+ (.+)$", text)
    slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_to_a_heading_in_it(page: Path):
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert dead == []


def test_the_index_names_every_page_once():
    index = ROOT / "docs" / "index.md"
    pages = {path.relative_to(index.parent).as_posix() for path in index.parent.rglob("*.md")} - {index.name}
    named = re.findall(r"(?m)^(?:- |\d\. )\[[^\]]+\]\(([\w/-]+\.md)\): ", index.read_text())
    assert sorted(named) == sorted(pages), "give each page one line in docs/index.md: - [Title](page.md): what it says."


def test_a_page_names_every_public_name_of_python_once():
    named = re.findall(r"(?m)^\| `(\w+)` \| ", (ROOT / "docs" / "python.md").read_text())
    assert sorted(named) == sorted(dir(softprompt)), "give each public name one line in docs/python.md"


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text().split()) <= 600


def test_no_page_that_teaches_has_more_than_900_words():
    pages = {path.name: len(path.read_text().split()) for path in (ROOT / "docs").glob("*.md") if path.name != "log.md"}
    assert {name: words for name, words in pages.items() if words > 900} == {}


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "results").glob("*.md")), ids=lambda page: page.name)
def test_a_page_of_results_opens_with_question_result_and_certainty(page: Path):
    opening = page.read_text().partition("\n\n")[2].partition("\n\n")[0]
    asked, result, sure = (opening.find(f"**{word}:**") for word in ("Asked", "Result", "Certainty"))
    assert 0 <= asked < result
    assert result < sure or "not run yet" in opening


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The study file of docs/studies.md, with the rows that it names beside it."""
    (block,) = [block for block in blocks(ROOT / "docs" / "studies.md") if "[[runs]]" in block]
    file = tmp_path / "study.toml"
    file.write_text(block[block.index("[defaults]") :])
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.csv").write_text("text,label\ngood,pos\nbad,neg\n")
    return file


def test_the_table_of_the_studies_page_is_printed_from_its_own_study_file(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store = tmp_path / "store"
    path_of(store, "x").parent.mkdir(parents=True)
    specs = load_specs(study)
    for spec in specs:
        score = 0.9 if spec.prompt.method == "ept" and spec.prompt.seeds != Seeds.all(1) else 0.5
        run = StoredRun(
            name=spec.name, spec=spec, metrics={"test": {"score": score}}, majority=0.5, best_step=1, trainable=1,
            head=0, stored=1, seconds=1.0, status="finished",
        )  # fmt: skip
        path_of(store, spec.name).write_bytes(to_bytes(run))
    table = ["study", "table", str(study), "--store", str(store)]
    assert main(table) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 + 2 * 3
    assert len([row for row in rows if "| core | ept |" in row]) == 2
    assert main([*table, "--against", "method=prompt-tuning"]) == 0
    assert main([*table, "--against", "part="]) == 2
    assert "agree in part, task, seed; pair by more keys" in capsys.readouterr().err


def python_blocks() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in blocks(page):
            if re.search(r"^(from|import) ", block, re.MULTILINE) and "softprompt" in block:
                yield page.name, block


@pytest.mark.parametrize(("page", "block"), list(python_blocks()))
def test_every_python_block_of_a_page_is_python_and_what_it_imports_is_there(page: str, block: str):
    imports = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Import | ast.ImportFrom)]
    ours = [line for line in map(ast.unparse, imports) if "softprompt" in line]
    for line in ours:
        exec(line, {})
