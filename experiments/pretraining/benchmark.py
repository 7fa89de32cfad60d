"""What helps a lab backbone to learn: the recipe of lab-t5-small, and the same without one of its parts.

    python -m experiments.pretraining.benchmark [--steps 3000]

One seed; skills on 200 fresh questions each.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from ..common.places import RESULTS
from . import pretrain, recipes, skills
from .recipes import RECIPES, Recipe

NAME = "lab-t5-small"


@contextmanager
def no_comparing_head() -> Iterator[None]:
    """T5's own initialisation of queries and keys."""
    with patch.object(recipes, "_match", lambda query, key, scale: None):
        yield


@contextmanager
def as_it_is() -> Iterator[None]:
    """Nothing changed but the recipe."""
    yield


def variants(steps: int) -> dict[str, tuple[Recipe, Callable]]:
    """Name -> recipe, and what else is changed."""
    whole = dataclasses.replace(RECIPES[NAME], steps=steps, first_steps=steps // 3, lr=1e-3)
    return {
        "as the recipe": (whole, as_it_is),
        "no head that starts on equal words": (whole, no_comparing_head),
        "no first lessons": (dataclasses.replace(whole, first_steps=0), as_it_is),
        "three times the learning rate": (dataclasses.replace(whole, lr=3e-3), as_it_is),
    }


def main() -> None:
    """Train every variant and write its skills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args()
    measure = skills.measure
    found = {}
    for name, (recipe, change) in variants(arguments.steps).items():
        with (
            tempfile.TemporaryDirectory() as folder,
            patch.dict(RECIPES, {NAME: recipe}),
            patch.object(pretrain, "measure", lambda model, lesson: measure(model, lesson, 200)),
            change(),
        ):
            made = pretrain.pretrain(NAME, folder, progress=True)
            learned = json.loads((made / pretrain.SKILLS).read_text())
        attributes = learned["attributes"].values()
        found[name] = {"attributes, mean": round(sum(attributes) / len(attributes), 3), **learned["kinds"]}
        print(name, found[name])
    results = {"what": f"{NAME}, {arguments.steps} steps, one seed, 200 questions each", "skills": found}
    (RESULTS / "lab_pretraining.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
