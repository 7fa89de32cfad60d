"""A plan of runs for some settings, trained through the store and judged in a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...checks import listed
from ...errors import BadInput
from ...prompts.methods import Method
from ...regularizers import regularizers
from ...settings import Seeds
from ...tasks import row_names
from .. import RunSpec, StoredRun, run_all
from .._inputs import refuse_mixed
from ..tables import TableContext, value, varying
from ._arm import Arm
from ._report import Report, report
from ._seeds import TOGETHER, seed_sets
from ._untrained import Untrained, untrained


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The runs of a report on one task.

    Args:
        sets: what varies -> setting -> one run a seed. The last set is what settings are compared in.
        about: plain values that are kept with the report.

    Raises:
        BadInput: runs of several tasks or test rows.
    """

    sets: Mapping[str, Mapping[str, tuple[RunSpec, ...]]]
    about: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse runs that cannot be compared."""
        tasks = sorted(set(row_names(spec.declared for spec in self.specs).values()))
        if len(tasks) != 1:
            raise BadInput(f"a report is about one task, not {len(tasks)} ({', '.join(tasks)}); make one for each")
        counts = sorted({str(spec.settings.test_rows or "all") for spec in self.specs})
        if len(counts) != 1:
            raise BadInput(
                f"settings are scored on other test rows (--test-rows {', '.join(counts)}); give all of them one number"
            )

    @property
    def specs(self) -> list[RunSpec]:
        """All runs, set by set, setting by setting."""
        return [spec for settings in self.sets.values() for specs in settings.values() for spec in specs]

    @property
    def longest(self) -> int:
        """The most seeds of a setting: the prompts with which each setting is one fleet."""
        return max(len(specs) for settings in self.sets.values() for specs in settings.values())


def plan(
    settings: Mapping[str, RunSpec],
    *,
    seeds: int = 20,
    base_seed: int = 0,
    vary: Sequence[str] = (),
    may_repeat: bool = False,
) -> Plan:
    """Each setting with each seed.

    Args:
        settings: by name, the reference first; their own seeds do not count.
        seeds: of each setting, and of each source in `vary`.
        base_seed: the first, and where a source that does not vary stays.
        vary: sources of variance, of SOURCES; none varies everything at once.
        may_repeat: whether two settings may be the same runs, as those of a study that lists a run under two tags.

    Raises:
        UnknownName: no such source, method or option.
        BadInput: fewer than two seeds, several tasks, two settings that are one, or draws or noise that vary where
            there are none.
    """
    sources = listed("--vary", vary)
    chosen = seed_sets(sources, seeds, base_seed)
    _refuse_no_draw(settings, sources)
    _refuse_no_noise(settings, sources)
    if not may_repeat:
        _refuse_same(settings)
    sets = {
        name: {setting: tuple(spec.with_seeds(each) for each in group) for setting, spec in settings.items()}
        for name, group in chosen.items()
    }
    return Plan(sets=sets, about=_about(settings, seeds=seeds, base_seed=base_seed, vary=sources))


def as_given(specs: Sequence[RunSpec]) -> Plan:
    """The runs as a list has them, those that differ in their seeds alone being one setting.

    A setting is named by the tag "setting", or else by what varies between settings. A run that the list has under two
    such tags is in both settings.

    Raises:
        BadInput: several tasks, a setting with fewer than two seeds, or two settings of one name.
    """
    settings = by_setting(specs)
    for name, members in settings.items():
        if len(members) < 2:
            raise BadInput(f"setting {name!r} has one seed; give each setting at least 2, or --seeds for all")
    first = {name: members[0] for name, members in settings.items()}
    return Plan(sets={"given": settings}, about=_about(first, seeds="given"))


def by_setting(specs: Sequence[RunSpec]) -> dict[str, tuple[RunSpec, ...]]:
    """Setting -> its runs, each once, in order of appearance.

    Raises:
        BadInput: two settings of one name.
    """
    settings: dict[tuple[str, str], dict[str, RunSpec]] = {}
    for spec in specs:
        key = str(spec.tags.get("setting")), spec.with_seeds(Seeds()).name
        settings.setdefault(key, {})[spec.name] = spec
    keys, context = [key for key in varying(specs) if key not in ("task", "setting")], TableContext(specs)
    named: dict[str, tuple[RunSpec, ...]] = {}
    for members in settings.values():
        group = tuple(members.values())
        name = _setting_name(group[0], keys, context)
        if name in named:
            raise BadInput(f"two settings are named {name!r}; tell them apart by tags = {{setting = ...}}")
        named[name] = group
    return named


def arms(planned: Plan, runs: Sequence[StoredRun]) -> dict[str, dict[str, Arm]]:
    """What varies -> setting -> its scores, from the plan's runs in any order.

    Raises:
        KeyError: a run of the plan is missing.
        OtherInputs: a file had other contents for another run.
    """
    refuse_mixed(runs)
    stored = {run.name: run for run in runs}
    return {
        name: {setting: Arm.of(setting, [stored[spec.name] for spec in specs]) for setting, specs in settings.items()}
        for name, settings in planned.sets.items()
    }


def judged(planned: Plan, runs: Sequence[StoredRun], without_training: Sequence[Untrained] = ()) -> Report:
    """The report of a plan's runs: settings in the set where everything varies, and the sets as causes."""
    by_name = arms(planned, runs)
    names = {
        name: {setting: [spec.name for spec in specs] for setting, specs in settings.items()}
        for name, settings in planned.sets.items()
    }
    return report(
        list(by_name.values())[-1],
        causes=by_name if TOGETHER in by_name else None,
        about={**planned.about, "runs": names},
        untrained=without_training,
    )


def measure(
    planned: Plan,
    store: "Path | str",
    *,
    fleet_size: int | None = None,
    with_frozen: bool = False,
    data_root: "Path | str | None" = None,
    device: str = "auto",
    **options: Any,
) -> Report:
    """Train the runs of a plan that the store lacks, and judge all of them.

    Args:
        planned: of `plan`.
        store: folder of the runs; killed or interrupted, the same call goes on.
        fleet_size: most runs that share a pass; None makes each setting one fleet.
        with_frozen: also score the frozen model without training, on all test rows, and keep that in the store.
        data_root: folder with rows; None asks the hub.
        device: "auto", "cpu", "cuda" ...
        **options: as in `run_all`.

    Raises:
        SoftPromptError: as in `run_all`.
    """
    with_frozen = options.pop("frozen", with_frozen)  # its earlier name
    runs = run_all(
        planned.specs,
        store,
        fleet_size=planned.longest if fleet_size is None else fleet_size,
        data_root=data_root,
        device=device,
        **options,
    )
    lines = untrained(planned.specs, runs[0], Path(store), data_root=data_root, device=device) if with_frozen else ()
    return judged(planned, runs, lines)


def _refuse_same(settings: Mapping[str, RunSpec]) -> None:
    seen: dict[str, str] = {}
    for name, spec in settings.items():
        if (other := seen.setdefault(spec.with_seeds(Seeds()).name, name)) != name:
            raise BadInput(f"settings {other!r} and {name!r} are the same runs; change or drop one")


def _refuse_no_draw(settings: Mapping[str, RunSpec], vary: Sequence[str]) -> None:
    for name, spec in settings.items():
        if "draw" in vary and spec.settings.shots is None and spec.settings.shots_per_class is None:
            raise BadInput(
                f"setting {name!r} is trained on all rows, so no draw varies; give --shots, or leave draw out of --vary"
            )


def _refuse_no_noise(settings: Mapping[str, RunSpec], vary: Sequence[str]) -> None:
    if "noise" in vary and not any(map(_has_noise, settings.values())):
        raise BadInput(
            "no setting draws numbers while it trains, so no noise varies; give --regularizer or --backbone-dropout, "
            "or leave noise out of --vary"
        )


def _has_noise(spec: RunSpec) -> bool:
    """Whether the noise seed may change a number: by a regulariser, or by dropout of the model or of the network."""
    perturbed = any(not regularizer.is_off for regularizer in regularizers(spec.prompt.regularizer))
    return perturbed or spec.settings.backbone_dropout or bool(Method.of(spec.prompt).defaults.get("dropout"))


def _about(settings: Mapping[str, RunSpec], **values: Any) -> dict[str, Any]:
    specs = list(settings.values())
    tasks = dict.fromkeys(spec.declared.name for spec in specs)
    models = dict.fromkeys(spec.model for spec in specs)
    described = {"task": ", ".join(tasks), "model": ", ".join(models), **values}
    return {**described, "settings": {name: spec.to_json() for name, spec in settings.items()}}


def _setting_name(spec: RunSpec, keys: Sequence[str], context: TableContext) -> str:
    if "setting" in spec.tags:
        return str(spec.tags["setting"])
    values = {key: item for key in keys if (item := value(spec, key, context)) is not None}
    parts = [str(item) if key == "method" else f"{key}={item}" for key, item in values.items()]
    return ", ".join(parts) or spec.prompt.method
