"""The order of the layers, what may not be imported where, and the public names."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import softprompt

NAME = "softprompt"
PACKAGE = Path(softprompt.__file__).parent

# Lowest first; modules of one line do not import each other.
LAYERS = (
    {"errors"},
    {"checks", "lab.world"},
    {"prompt", "initializers", "losses", "reparam", "tasks", "metrics", "options", "settings"},
    {"bank", "methods", "standardization", "store", "units"},
    {"data", "intervals", "class_scores", "lab.backbones"},
    {"report"},
    {"backbones"},
    {"regularizers", "room"},
    {"answers", "fleet"},
    {"evaluation"},
    {"prediction", "interop"},
    {"training"},
    {"study"},
    {"analysis"},
    {"lab", "stability"},
    {"confirmation", "claims"},
    {"cli"},
)
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}

# The methods of SoftPrompt open doors to what lies above, each inside its own function.
DOORS = {
    ("load", "interop"),
    ("save", "store"),
    ("push_to_hub", "interop"),
    ("attach", "interop"),
    ("predict", "prediction"),
}

TORCHLESS = ("errors", "checks", "settings", "tasks", "metrics")
MATHEMATICS = ("reparam", "losses", "initializers", "prompt", "bank", "methods", "standardization", "units")
# Nothing after training sees a reparameterisation.
SEES_REPARAM = {"reparam", "methods", "fleet", "training"}


def files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def layer(path: Path) -> str:
    return layer_of([part.removesuffix(".py") for part in path.relative_to(PACKAGE).parts])


def layer_of(module: Sequence[str]) -> str:
    """The layer of a module below the package: its first name, or two where LAYERS lists them."""
    return ".".join(module[:2]) if ".".join(module[:2]) in LEVEL else module[0]


def imported(node: ast.AST, path: Path) -> Iterator[str]:
    """Absolute names of the modules that a statement imports, as far as they can be told without running it."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = [NAME, *path.relative_to(PACKAGE).parent.parts]
        base = package[: len(package) - node.level + 1] if node.level else []
        module = [*base, *(node.module.split(".") if node.module else [])]
        # `from . import losses` names a module where the left side is the package itself, or one of several layers.
        whole = module in ([NAME], [NAME, "lab"])
        yield from (".".join([*module, *([alias.name] if whole else [])]) for alias in node.names)


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(innermost function or "", imported module) of every import in a file, those inside functions too."""

    def visit(node: ast.AST, function: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
            yield from ((inside, name) for name in imported(child, path))
            yield from visit(child, inside)

    yield from visit(ast.parse(path.read_text()), "")


def own_imports(path: Path) -> Iterator[tuple[str, str]]:
    """(function, layer) of the imports from the package, other than from the file's own layer."""
    for function, name in imports(path):
        parts = name.split(".")
        if parts[0] == NAME and len(parts) > 1 and layer_of(parts[1:]) != layer(path):
            yield function, layer_of(parts[1:])


def outside_imports(path: Path) -> set[str]:
    return {name.split(".")[0] for _, name in imports(path)} - {NAME}


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_point_down(path: Path):
    ours = layer(path)
    assert ours in LEVEL, f"{ours} has no layer; give it one in LAYERS"
    for function, used in own_imports(path):
        if path == PACKAGE / "prompt.py" and (function, used) in DOORS:
            continue
        assert used in LEVEL, f"{ours} imports {used}, which has no layer"
        assert LEVEL[used] < LEVEL[ours], f"{path.name} may not import {used}"


def test_every_door_of_the_prompt_is_used():
    assert {pair for pair in own_imports(PACKAGE / "prompt.py") if pair[0]} == DOORS


def test_relative_imports_are_resolved_at_every_depth():
    path = PACKAGE / "data" / "_rows.py"
    found = {
        "from . import _splits": [f"{NAME}.data"],
        "from ._splits import a, b": [f"{NAME}.data._splits"] * 2,
        "from .. import losses, bank": [f"{NAME}.losses", f"{NAME}.bank"],
        "from ..bank import Batch": [f"{NAME}.bank"],
        "from softprompt.prompts.trainable import Fleet": [f"{NAME}.fleet"],
        "from softprompt import fleet": [f"{NAME}.fleet"],
        "from ..lab import world": [f"{NAME}.lab.world"],
        "from ..lab.world import rows": [f"{NAME}.lab.world"],
        "import softprompt.prompts.trainable": [f"{NAME}.fleet"],
    }
    for source, expected in found.items():
        assert list(imported(ast.parse(source).body[0], path)) == expected, source


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_mathematics_sees_no_model_and_tasks_no_tensor(path: Path):
    forbidden = set()
    if layer(path) in MATHEMATICS:
        forbidden = {"transformers", "datasets", "peft", "huggingface_hub", "sklearn", "scipy"}
    if layer(path) in TORCHLESS:
        forbidden = {"torch", "transformers", "datasets", "peft"}
    assert not outside_imports(path) & forbidden


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_after_training_sees_a_reparameterization(path: Path):
    if layer(path) not in SEES_REPARAM:
        assert "reparam" not in {used for _, used in own_imports(path)}


def test_figures_are_drawn_from_arrays_alone():
    plots = PACKAGE / "analysis" / "plots.py"
    assert outside_imports(plots) - sys.stdlib_module_names == {"matplotlib", "numpy"}
    assert {used for _, used in own_imports(plots)} == {"errors"}
    others = {path for path in files() if "matplotlib" in outside_imports(path)}
    assert others == {plots}


@pytest.mark.parametrize("module", ["", ".errors", ".settings", ".tasks", ".metrics", ".cli"])
def test_light_modules_import_nothing_heavy(module: str):
    heavy = ("torch", "transformers", "datasets", "peft", "sklearn", "scipy", "pandas", "pyarrow", "numpy")
    code = f"import sys, {NAME}{module}; print([m for m in {heavy!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("module", [".training", ".study", ".evaluation", ".prediction"])
def test_what_trains_and_answers_imports_no_more_than_it_needs(module: str):
    """What a model needs is imported when there is one; `datasets` only where the hub is asked for rows."""
    needless = ("transformers", "datasets", "peft", "accelerate", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib")
    code = f"import sys, {NAME}{module}; print([m for m in {needless!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


PUBLIC = [
    "AbstractBackbone",
    "BackboneIdentity",
    "LaneSettings",
    "LinearHead",
    "METHODS",
    "METRICS",
    "Method",
    "Provenance",
    "Result",
    "Run",
    "Seeds",
    "SoftPrompt",
    "Source",
    "TASKS",
    "Task",
    "TrainSettings",
    "__version__",
    "custom_task",
    "errors",
    "evaluate",
    "from_model",
    "harder",
    "load_backbone",
    "predict",
    "resume",
    "task",
    "train",
]


def test_public_names_are_these_and_sorted():
    assert dir(softprompt) == PUBLIC == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_leads_somewhere(name: str):
    assert getattr(softprompt, name) is not None


def test_type_checkers_see_the_same_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (alias.name, node.module) for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == set(softprompt._HOMES.items())


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        softprompt.trian  # noqa: B018  (the access is the test)
