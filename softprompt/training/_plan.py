"""The plan of a run: everything needed to start it, or to start it again, as plain values in run.json."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..documents import check_shape, in_file, read_sealed, refuse_no_name
from ..errors import BadInput
from ..legacy import renamed
from ..run_layout import PLAN
from ..settings import ModelSpec, PromptSettings, TrainSettings, from_values
from ..store import found_model, json_bytes, sealed_bytes
from ..tasks import Task, read_from

# Format 1 has earlier names; from format 3 on run.json has a checksum.
FORMAT = 4
READ = (1, 2, 3, 4)
SEALED_FROM = 3
# Before this format adv-emb had an alpha of 1.
ALPHA_ONE_BEFORE = 4
REPAIR = "restore it from a copy, or start a new run"
# Early runs name neither answers nor engine: these were the only ones.
_DEFAULTS_OF_OLD_RUNS = {"answers": "tokens", "engine": "reference"}


@dataclass(frozen=True)
class StoredPlan:
    """The kinds of what run.json holds besides the fields of the model, as far as no other class has them."""

    task: Mapping[str, Any]
    prompts: tuple[Mapping[str, Any], ...]
    settings: Mapping[str, Any]
    data_root: str | None
    products: str | None
    max_bad_rows: int
    log_with: str | None
    with_frozen: bool
    inputs: Mapping[str, str]
    files: Mapping[str, str]


_KEPT = tuple(field.name for field in dataclasses.fields(StoredPlan))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `softprompt train` was asked for.

    Args:
        task: with its style applied.
        model: the frozen model as it was when the run was started: no field of it is "auto" but the device.
        prompts: one a prompt.
        settings: what the prompts share.
        data_root: folder with rows; None asks the hub.
        products: "onednn" or "torch", whichever multiplied in packed passes when the run was started.
        max_bad_rows: malformed rows to drop before it is an error.
        log_with: trackers that Accelerate knows, joined by commas.
        with_frozen: whether the frozen model without training is scored beside the prompts.
        inputs: digests of what the run began from (`with_inputs`); older runs name none.
        files: SHA-256 of each file of the user with rows, by path, as the run began; older runs name none.
    """

    task: Task
    model: ModelSpec
    prompts: tuple[PromptSettings, ...]
    settings: TrainSettings
    data_root: str | None = None
    # Older runs name none: their packed passes took oneDNN.
    products: str | None = None
    max_bad_rows: int = 0
    log_with: str | None = None
    with_frozen: bool = False
    inputs: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        # No field is called "frozen": under that name stood what is called "quantize" today, and files are read with
        # that in mind.
        return {"format": FORMAT, **dataclasses.asdict(self), "task": self.task.to_json(), **self.model.to_json()}

    def written(self) -> bytes:
        """The bytes of run.json.

        Raises:
            BadInput: they could not be read again, so that a run of them could not be resumed.
        """
        values = self.to_json()
        try:
            self.from_json(json.loads(json_bytes(values)))
        except BadInput as error:
            raise BadInput(f"this run could not be read again, and is not begun: {error.message}") from error
        return sealed_bytes(values)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Plan":
        """The plan that `to_json` wrote.

        Raises:
            BadInput: written by another version of the format.
        """
        if values.get("format") not in READ:
            raise BadInput(
                f"run.json is of format {values.get('format')!r}, this softprompt reads {READ[0]} to {READ[-1]}; "
                "upgrade it"
            )
        values = renamed(values)
        check_shape(StoredPlan, {name: value for name, value in values.items() if name in _KEPT}, partial=True)
        of_model = ModelSpec().to_json().keys()
        plain = {name: value for name, value in values.items() if name not in ("format", *of_model)}
        plain["model"] = ModelSpec.from_json(
            {**_DEFAULTS_OF_OLD_RUNS, **{n: v for n, v in values.items() if n in of_model}}
        )
        plain["task"] = Task.from_json(values["task"])
        prompts = map(_in_units, values["prompts"])
        prompts = map(_with_alpha, prompts) if values["format"] < ALPHA_ONE_BEFORE else prompts
        plain["prompts"] = tuple(from_values(PromptSettings, prompt) for prompt in prompts)
        # Older runs name no loss: there was no other.
        plain["settings"] = from_values(TrainSettings, {"loss": "tokens", **values["settings"]})
        return cls(**plain)

    def prompt_names(self) -> list[str]:
        """One folder name a prompt: its method, and what distinguishes it from the others."""
        methods = [f"{prompt.method}-deep" if prompt.deep else prompt.method for prompt in self.prompts]
        names = [f"{m}-seed{prompt.seeds.initialization}" for m, prompt in zip(methods, self.prompts, strict=True)]
        if len(set(names)) < len(names):
            names = [f"{n}-lr{prompt.lr:g}" if prompt.lr else n for n, prompt in zip(names, self.prompts, strict=True)]
        if len(set(names)) < len(names):
            names = [f"{number:02d}-{name}" for number, name in enumerate(names)]
        return names


def _in_units(prompt: Mapping[str, Any]) -> Mapping[str, Any]:
    """A prompt as it was meant: before there were units all were raw, and 0.3 was every method's learning rate."""
    return (
        prompt if "units" in prompt else {**prompt, "units": "raw", "lr": 0.3 if prompt["lr"] is None else prompt["lr"]}
    )


def _with_alpha(prompt: Mapping[str, Any]) -> Mapping[str, Any]:
    """A prompt with the alpha of adv-emb that its run began with, so that it goes on with the same loss."""
    parts = str(prompt.get("regularizer", "")).split("+")
    meant = [f"{part}{',' if ':' in part else ':'}alpha=1.0" if _is_plain_adv(part) else part for part in parts]
    return {**prompt, "regularizer": "+".join(meant)} if meant != parts else prompt


def _is_plain_adv(part: str) -> bool:
    name, _, options = part.partition(":")
    return name.strip() == "adv-emb" and "alpha=" not in options


def read_plan(folder: Path) -> Plan:
    """The plan of the run in `folder`.

    Raises:
        BadInput: there is no run, or its run.json cannot be read.
        DamagedFile: run.json is not as it was written.
    """
    path = folder / PLAN
    if not path.is_file():
        raise BadInput(f"{folder} holds no run (no run.json); give the folder of a run, which `softprompt train` makes")
    try:
        with in_file(path):
            plan = Plan.from_json(read_sealed(path, earlier_names=["format"], sealed_from=SEALED_FROM, repair=REPAIR))
            for name in plan.prompt_names():
                refuse_no_name(name)
    except (TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{path} cannot be read ({error}); start the run anew") from error
    return dataclasses.replace(
        plan,
        model=dataclasses.replace(plan.model, name=found_model(plan.model.name, folder)),
        task=dataclasses.replace(plan.task, source=read_from(plan.task.source, folder)),
    )
