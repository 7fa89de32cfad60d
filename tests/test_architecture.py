"""The order of the layers, what may not be imported where, and the public names."""

import ast
import functools
import graphlib
import pydoc
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import softprompt

NAME = "softprompt"
PACKAGE = Path(softprompt.__file__).parent

# Packages and modules of softprompt, lowest first; those of one line do not import each other.
LAYERS = (
    {"errors"},
    {"cluster", "documents", "spoken"},
    {"checks", "initial", "legacy", "machine", "world", "options", "run_layout", "status"},
    {"losses", "tasks", "metrics", "settings"},
    {"prompts"},
    {"store"},
    {"data", "builtin"},
    {"backbones"},
    {"regularizers", "memory", "baselines"},
    {"inference"},
    {"interop"},
    {"training"},
    {"analysis", "estimators", "export", "serving"},
    {"study"},
    {"tuning"},
    {"lab", "reports", "live"},
    {"cli"},
    {"__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

TORCHLESS = ("errors", "documents", "checks", "initial", "settings", "tasks", "metrics", "options", "world")
MATHEMATICS = ("losses", "prompts")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    parts = [part.removesuffix(".py") for part in path.relative_to(PACKAGE.parent).parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imported(node: ast.AST, path: Path) -> Iterator[tuple[str, str | None]]:
    """(module, name in it or None) of what a statement imports, as far as they can be told without running it."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, None) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = [NAME, *path.relative_to(PACKAGE).parent.parts]
        base = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*base, *(node.module.split(".") if node.module else [])])
        for alias in node.names:
            # `from . import losses` names a module of the package on the left.
            is_module = f"{module}.{alias.name}" in MODULES
            yield (f"{module}.{alias.name}", None) if is_module else (module, alias.name)


@functools.cache
def imports(path: Path) -> tuple[tuple[str, str | None], ...]:
    """All imports of a file, those inside functions too."""
    return tuple(pair for node in ast.walk(ast.parse(path.read_text())) for pair in imported(node, path))


def own_imports(path: Path) -> list[tuple[str, str | None]]:
    """The imports of modules of the package."""
    return [(module, name) for module, name in imports(path) if module in MODULES]


def outside_imports(path: Path) -> set[str]:
    return {module.split(".")[0] for module, _ in imports(path)} - {NAME}


def test_every_package_has_a_layer_and_every_layer_a_package():
    assert {layer(path) for path in FILES} == set(LEVEL)


def points_down(path: Path, module: str) -> bool:
    used, user = module.split(".")[1], layer(path)
    return used == user or LEVEL[used] < LEVEL[user]


def test_imports_only_point_down():
    pairs = [(path, module) for path in FILES for module, _ in own_imports(path)]
    assert [(str(path), module) for path, module in pairs if not points_down(path, module)] == []


def is_private(module: str, name: str | None, user: str) -> bool:
    """Whether `user` reaches into another package: by a module whose name begins with _, or by such a name in it."""
    parts = module.split(".")
    hidden = next((i for i, part in enumerate(parts) if part.startswith("_")), None)
    if hidden is not None and not user.startswith(".".join(parts[:hidden]) + "."):
        return True
    return name is not None and name.startswith("_") and module != user


def test_no_package_imports_a_private_name_of_another():
    private = []
    for path in FILES:
        user = module_of(path) + ("." if path.name == "__init__.py" else "")
        private += [(user, module, name) for module, name in own_imports(path) if is_private(module, name, user)]
    assert private == []


def test_no_modules_import_each_other_in_a_circle():
    """Imports inside functions count too: a circle there is a circle of ideas."""
    graph = {name: {module for module, _ in own_imports(path)} - {name} for name, path in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()


def test_only_the_prompt_is_short_for_public_functions():
    """`prompt.save(folder)` calls `softprompt.save_prompt`; nothing else imports the root of the package."""
    users = {module_of(path) for path in FILES if any(module == NAME for module, _ in imports(path))}
    assert users == {f"{NAME}.prompts.prompt"}


def test_relative_imports_are_resolved_at_every_depth():
    path = PACKAGE / "data" / "_rows.py"
    expected = {
        "from . import _splits": [(f"{NAME}.data._splits", None)],
        "from ._splits import a, b": [(f"{NAME}.data._splits", "a"), (f"{NAME}.data._splits", "b")],
        "from .. import losses, errors": [(f"{NAME}.losses", None), (f"{NAME}.errors", None)],
        "from ..prompts.batch import Batch": [(f"{NAME}.prompts.batch", "Batch")],
        "from softprompt.prompts import trainable": [(f"{NAME}.prompts.trainable", None)],
        "from ..world import rows": [(f"{NAME}.world", "rows")],
        "import softprompt.losses": [(f"{NAME}.losses", None)],
    }
    for source, pairs in expected.items():
        assert list(imported(ast.parse(source).body[0], path)) == pairs, source


def test_mathematics_sees_no_model_and_tasks_no_tensor():
    models = {"transformers", "datasets", "peft"}
    forbidden = {package: models | {"huggingface_hub", "sklearn", "scipy"} for package in MATHEMATICS}
    forbidden |= {package: models | {"torch"} for package in TORCHLESS}
    used = {str(path): outside_imports(path) & forbidden.get(layer(path), set()) for path in FILES}
    assert {path: names for path, names in used.items() if names} == {}


def test_nothing_after_training_sees_a_reparameterization():
    after = [path for path in FILES if layer(path) not in ("prompts", "training")]
    assert [path for path in after for module, _ in own_imports(path) if ".prompts.reparam" in module] == []


def test_figures_are_drawn_from_arrays_alone():
    plots = PACKAGE / "analysis" / "plots.py"
    assert outside_imports(plots) - sys.stdlib_module_names == {"matplotlib", "numpy"}
    assert {module for module, _ in own_imports(plots)} == {f"{NAME}.errors"}
    others = {path for path in FILES if "matplotlib" in outside_imports(path)}
    assert others == {plots}


def modules_after(imported: Sequence[str], unwanted: Sequence[str]) -> str:
    """Which of the unwanted modules a process has after each of these imports, which it makes one after the other."""
    code = f"""
import importlib, sys
for module in {imported!r}:
    importlib.import_module("{NAME}" + module)
    print(*((module, name) for name in {unwanted!r} if name in sys.modules))
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_light_modules_import_nothing_heavy():
    heavy = ("torch", "transformers", "datasets", "peft", "sklearn", "scipy", "pandas", "pyarrow", "numpy")
    assert modules_after(["", ".errors", ".settings", ".tasks", ".metrics", ".cli"], heavy) == ""


def test_what_trains_and_answers_imports_no_more_than_it_needs():
    """What a model needs is imported when there is one; `datasets` only where the hub is asked for rows."""
    needless = ("transformers", "datasets", "peft", "accelerate", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib")
    assert modules_after([".training", ".study", ".inference.evaluate", ".inference.predict"], needless) == ""


PUBLIC = [
    "AbstractBackbone",
    "BackboneIdentity",
    "EarlyStopping",
    "LinearHead",
    "METHODS",
    "METRICS",
    "Method",
    "ModelSpec",
    "PromptClassifier",
    "PromptRegressor",
    "PromptSettings",
    "Provenance",
    "RegularizedLoss",
    "Result",
    "Run",
    "Seeds",
    "SoftPrompt",
    "Source",
    "TASKS",
    "Task",
    "TrainSettings",
    "TunedWeights",
    "Tuning",
    "__version__",
    "as_peft",
    "attach",
    "custom_task",
    "errors",
    "evaluate",
    "from_model",
    "limits",
    "load",
    "load_backbone",
    "load_prompt",
    "load_tuned",
    "predict",
    "push_prompt",
    "report",
    "resume",
    "save",
    "save_prompt",
    "task",
    "train",
    "tune",
    "with_difficulty",
]


def test_public_names_are_these_and_sorted():
    assert dir(softprompt) == PUBLIC == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_leads_somewhere(name: str):
    assert getattr(softprompt, name) is not None


def test_help_shows_every_public_function():
    # A terminal's bold is a letter, a backspace and the letter again.
    text = re.sub("[\x08].", "", pydoc.render_doc(softprompt))
    assert all(f"\n    {name}(" in text for name in ("train", "evaluate", "predict", "load_backbone", "attach"))


def test_the_package_tells_type_checkers_that_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()


def test_an_unknown_public_name_is_an_attribute_error():
    misspelt = "trian"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        getattr(softprompt, misspelt)
