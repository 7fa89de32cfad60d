"""The commands on a report train what it shows: each prompt once, on the same rows in the same words."""

import shlex

import pytest
from softprompt.reports._commands import commands
from softprompt.reports._entry import Entry
from softprompt.reports._settings import Setting
from softprompt.settings import PromptSettings, Seeds
from softprompt.study import RunSpec, StoredRun
from softprompt.tasks import Wording, custom_task, rephrased, styled
from softprompt.tasks import task as find_task


class TestCommands:
    def command(self, **changes):
        spec = RunSpec(**{"task": "glue/sst2", "model": "m", **changes})
        run = StoredRun(
            name=spec.name, spec=spec, metrics={}, majority=0.5, best_step=1, trainable=1, head=0, stored=1,
            seconds=1.0, status="finished", curve={},
        )  # fmt: skip
        entry = Entry(label="p", run=run)
        (line,) = commands(Setting(name="p", key=entry.key, entries=[entry], numbers={}, validation=None))
        return line

    @pytest.mark.parametrize(
        ("seeds", "count"),
        [
            ([(1, 1, 1, 1), (2, 2, 2, 2)], 1),
            # Only the draw varies, or only the noise.
            ([(0, 0, 1, 0), (0, 0, 2, 0), (0, 0, 0, 0)], 1),
            ([(5, 5, 5, 1), (5, 5, 5, 2)], 1),
            ([(1, 7, 1, 1), (2, 7, 2, 2)], 1),
            # No single line can say these.
            ([(0, 0, 1, 2), (0, 0, 2, 1)], 2),
            ([(0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 3, 0), (1, 1, 3, 1)], 2),
        ],
    )
    def test_every_combination_of_seeds_is_trained_by_one_of_the_commands(self, seeds, count):
        from softprompt.cli._prompts import PromptGrid

        from test_docs import parse

        names = ("initialization", "order", "draw", "noise")
        chosen = [Seeds(**dict(zip(names, each, strict=True))) for each in seeds]
        specs = [RunSpec(task="lab/color", model="m", prompt=PromptSettings(seeds=each)) for each in chosen]
        entries = [
            Entry(label="p", run=StoredRun(
                name=spec.name, spec=spec, metrics={}, majority=0.5, best_step=1, trainable=1, head=0, stored=1,
                seconds=1.0, status="finished",
            ))
            for spec in specs
        ]  # fmt: skip
        lines = commands(Setting(name="p", key=entries[0].key, entries=entries, numbers={}, validation=None))
        assert len(lines) == count
        trained = []
        for line in lines:
            given = parse(shlex.split(line)[1:])
            of_purposes = {f"{name}_seed": given[f"{name}_seed"] for name in ("init", "order", "draw", "noise")}
            grid = PromptGrid(seed=tuple(given["seed"]), **of_purposes)
            trained += [prompt.seeds for prompt in grid.prompts(PromptSettings())]
        assert len(trained) == len(seeds)
        assert set(trained) == set(chosen)

    def test_files_columns_and_wording_of_own_rows_are_in_it(self, tmp_path):
        for split in ("tr", "va"):
            (tmp_path / f"{split}.csv").write_text("review;stars\nx;0\ny;1\n")
        files = {"train": str(tmp_path / "tr.csv"), "test": str(tmp_path / "va.csv")}
        task = custom_task(
            files, template="Review: {review}\nGood:", instruction="Is it good?", label_column="stars",
            label_words={"0": "no", "1": "yes"}, delimiter=";",
        )  # fmt: skip
        words = shlex.split(self.command(task=task))
        given = dict(zip(words[2::2], words[3::2], strict=False))
        assert (given["--data"], given["--test-data"]) == tuple(files.values())
        assert (given["--delimiter"], given["--label-column"], given["--instruction"]) == (";", "stars", "Is it good?")
        assert given["--template"] == "Review: {review}\nGood:"
        assert [words[i + 1] for i, word in enumerate(words) if word == "--label-words"] == ["0=no", "1=yes"]

    def test_style_wording_sources_and_scale_of_a_known_task_are_in_it(self):
        task = find_task("glue/sst2")
        assert "--style t5" in self.command(task=styled(task, "t5"))
        own = rephrased(task, Wording(instruction="Good?", template="Film: {sentence}\nGood:"))
        assert "--instruction 'Good?'" in self.command(task=own)
        line = self.command(
            prompt=PromptSettings(method="spot", sources=("a", "b")), backbone={"embedding_scale": 100.0}
        )
        assert "--source a --source b" in line
        assert "--embedding-scale 100.0" in line
        assert "--sources" not in line
