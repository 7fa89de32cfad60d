"""Whether the lowest versions that pyproject.toml declares still work: an environment of them, and the short tests.

    python benchmarks/lowest_versions.py --pins        prints the pins and does nothing else
    python benchmarks/lowest_versions.py               makes build/lowest and runs the tests there: a quarter of an hour

What a dependency itself needs decides where it is newer than our bound: then pip names the two that disagree, and the
bound in pyproject.toml has to rise.
"""

import argparse
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "build" / "lowest"
# What the tests need beside the package; their versions are those of constraints.txt.
TOOLS = ("beartype", "hypothesis", "peft", "pytest")
TESTS = ("tests/test_documents.py", "tests/store", "tests/training", "tests/interop")


def pins() -> list[str]:
    """`name==version` of the lowest version of each dependency that is always needed."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [f"{need.name}=={lowest(need)}" for need in map(Requirement, declared)]


def lowest(need: Requirement) -> str:
    """The version behind `>=` or `==`."""
    return next(part.version for part in need.specifier if part.operator in (">=", "=="))


def main() -> int:
    """Print the pins, or install and test them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pins", action="store_true")
    if parser.parse_args().pins:
        print("\n".join(pins()))
        return 0
    python = PLACE / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--clear", PLACE], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *pins(), *TOOLS], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "-e", ROOT], check=True)
    return subprocess.run([python, "-m", "pytest", "-q", *TESTS], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
