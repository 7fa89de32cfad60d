"""The table of methods: exact counts, wrong options refused, networks that follow from their seed."""

import dataclasses
import inspect
import subprocess
import sys

import pytest
import torch
from softprompt.errors import BadInput, UnknownName
from softprompt.prompts.method_list import describe
from softprompt.prompts.method_table import NETWORK_OPTIONS
from softprompt.prompts.methods import METHODS, Method
from softprompt.prompts.reparam import REPARAMETERIZATIONS
from softprompt.settings import PromptSettings
from softprompt.study import grid
from torch import nn

COUNTS = {  # by e = 512, 768, 1024: the EPT paper's, exact (spec 2.2); the LSTM's are PEFT's
    "prompt-tuning": (5_120, 7_680, 10_240),
    "spot": (5_120, 7_680, 10_240),
    "p-tuning": (793_088, 1_779_456, 3_159_040),
    "p-tuning-lstm": (12_081_664, 27_166_464, 48_280_576),
    "residual": (416_656, 624_784, 832_912),
    "ept": (1_536, 2_304, 3_072),
    "ept-star": (1_536, 2_304, 3_072),
    "scaled": (512, 768, 1_024),
    "polar": (512, 768, 1_024),
    "linear-probe": (0, 0, 0),
}
LENGTHS = dict.fromkeys(COUNTS, 10) | {"ept": 1, "linear-probe": 0}
STORED_VECTORS = LENGTHS | {"ept-star": 1, "scaled": 1, "polar": 1}
# Units and learning rate where none are given: measured, see docs/methods.md.
DEFAULTS = {
    "prompt-tuning": ("rms", 0.3),
    "spot": ("rms", 0.3),
    "p-tuning": ("raw", 0.1),
    "p-tuning-lstm": ("raw", 0.03),
    "residual": ("raw", 0.3),
    "ept": ("raw", 0.3),
    "ept-star": ("raw", 0.3),
    "scaled": ("rms", 1.0),
    "polar": ("rms", 0.1),
    "linear-probe": ("raw", None),
    "full": ("raw", 3e-4),
    "bitfit": ("raw", 3e-4),
    "adapter": ("raw", 3e-4),
    "adapter-drop": ("raw", 3e-4),
    "lora": ("raw", 1e-3),
    "ia3": ("raw", 3e-2),
    "prefix-tuning": ("raw", 3e-2),
    "cartridge": ("raw", 3e-2),
    "dept": ("rms", 0.3),
    "attempt": ("rms", 0.3),
    "mpt": ("rms", 0.3),
}
WEIGHTS = list(DEFAULTS)[list(DEFAULTS).index("full") :]


@pytest.mark.parametrize(("column", "width"), [(0, 512), (1, 768), (2, 1024)])
def test_counts_are_those_of_the_papers(column, width):
    assert [row for row in describe(width) if row["method"] not in WEIGHTS] == [
        {
            "method": name,
            "prompt_length": LENGTHS[name],
            "trainable": counts[column],
            "stored": width * STORED_VECTORS[name],
            "units": DEFAULTS[name][0],
            "lr": DEFAULTS[name][1],
        }
        for name, counts in COUNTS.items()
    ]


def test_how_many_weights_a_model_has_is_not_told_by_its_width():
    rows = {row["method"]: row for row in describe(768)}
    assert [(rows[name]["trainable"], rows[name]["stored"]) for name in WEIGHTS] == [(None, None)] * len(WEIGHTS)
    assert [name for name, method in METHODS.items() if method.weights] == WEIGHTS


@pytest.mark.parametrize(("method", "kind"), [("p-tuning", "MLP"), ("p-tuning-lstm", "LSTM")])
def test_p_tuning_counts_are_pefts(method, kind):
    from peft import PromptEncoder, PromptEncoderConfig

    config = PromptEncoderConfig(
        num_virtual_tokens=10,
        token_dim=24,
        num_transformer_submodules=1,
        encoder_hidden_size=24,
        encoder_reparameterization_type=kind,
    )
    assert METHODS[method].trainable(24) == sum(p.numel() for p in PromptEncoder(config).parameters())


@pytest.mark.parametrize(
    ("method", "options", "count"),
    [
        ("ept", {"depth": 2}, 2_304),  # table 4: a second pair, shared
        ("ept", {"depth": 2, "share_depth": False}, 3_840),
        ("ept", {"bias": True}, 3_073),
        ("ept", {"layer_norm": True}, 3_840),
        ("ept", {"hidden": 10}, 16_128),
        ("ept-star", {"m": 3}, 3_840),
        ("ept-star", {"repeats": 3}, 2_304),
        ("residual", {"passes": 1}, 624_784),
        ("residual", {"layer_norm": False}, 623_248),
        ("residual", {"per_position": 10}, 7_680 + 10 * 617_104),
        ("prompt-tuning", {"prompt_length": 100}, 76_800),
        ("polar", {"m": 10, "repeats": 1}, 7_680),
        ("polar", {"train_radius": "true"}, 769),
    ],
)
def test_options_change_the_count_as_the_paper_has_it(method, options, count):
    assert METHODS[method].with_options(options).trainable(768) == count


def test_the_options_in_the_table_are_those_of_the_networks():
    """The table has them once more, so that the names of a study's runs need no torch."""
    taken = {
        name: {p.name: p.default for p in inspect.signature(network).parameters.values() if p.name != "e"}
        for name, network in REPARAMETERIZATIONS.items()
    }
    assert taken == NETWORK_OPTIONS


def test_counting_a_huge_network_allocates_and_draws_nothing():
    before = torch.get_rng_state()
    e = 2**20
    assert METHODS["p-tuning"].trainable(e) == 3 * (e * e + e) + 10 * e  # 13 TB in float32
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
class TestEveryMethod:
    def test_the_built_network_and_its_vectors_have_the_counted_size(self, method):
        network = method.build(8, seed=0)
        assert method.m * 8 + sum(p.numel() for p in network.parameters()) == method.trainable(8)
        assert network(torch.zeros(method.m, 8)).shape == (method.m, 8)

    def test_the_same_seed_gives_the_same_network_and_leaves_the_global_generator(self, method):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        one = method.build(8, seed=7)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        other = method.build(8, seed=7)
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))

    def test_the_default_device_does_not_matter(self, method):
        with torch.device("meta"):
            network = method.build(8, seed=0)
        assert {p.device.type for p in network.parameters()} <= {"cpu"}

    def test_the_name_is_its_key_and_no_options_are_itself(self, method):
        assert METHODS[method.name] is method
        assert method.with_options({}) is method


@pytest.mark.parametrize("name", ["p-tuning", "p-tuning-lstm", "residual", "ept", "ept-star"])
def test_another_seed_gives_another_network(name):
    first, second = (next(METHODS[name].build(8, seed).parameters()) for seed in (1, 2))
    assert not torch.equal(first, second)


def test_a_network_starts_as_torch_starts_its_layers():
    network = METHODS["ept"].build(8, seed=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        down, up = nn.Linear(8, 1, bias=False), nn.Linear(1, 8, bias=False)
    assert [p.tolist() for p in network.parameters()] == [down.weight.tolist(), up.weight.tolist()]


def test_these_methods_store_one_vector():
    assert [m.name for m in METHODS.values() if m.one_vector] == ["ept", "ept-star", "scaled", "polar"]


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_units_and_learning_rate_are_the_methods_unless_given(method):
    units, lr = DEFAULTS[method.name]
    found = method.resolved(PromptSettings(method=method.name))
    assert found.units == units
    assert lr is None or found.lr == lr
    given = PromptSettings(method=method.name, units=units if method.weights else "rms", lr=7.0)
    assert method.resolved(given) == given


def test_units_decide_the_default_learning_rate():
    method = METHODS["residual"]
    assert method.lr != method.lr_rms
    assert method.resolved(PromptSettings(units="raw")).lr == method.lr
    assert method.resolved(PromptSettings(units="rms")).lr == method.lr_rms


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "polar", "units": "raw"}, "'polar' gives its norm in token norms and has no raw units"),
        ({"method": "linear-probe", "max_norm": 3.0}, "'linear-probe' has no prompt for `max_norm` to bound"),
    ],
)
def test_units_and_guards_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        Method.of(PromptSettings(**settings))


def test_unknown_units_name_the_nearest():
    code = "from softprompt.settings import PromptSettings; PromptSettings(units='rsm')"
    # In a process of its own, where nothing checks types before we do.
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stderr.splitlines()[-1].endswith("unknown units 'rsm'. Did you mean 'rms'?")


@pytest.mark.parametrize("guard", [0.0, -1.0, float("nan"), float("inf")])
def test_a_norm_guard_that_bounds_nothing_is_refused(guard):
    with pytest.raises(BadInput, match=f"`max_norm` must be positive and finite, in token norms, not {guard}"):
        PromptSettings(max_norm=guard)


def test_strings_become_the_type_of_the_default():
    method = METHODS["residual"].with_options(
        {
            "prompt_length": "5",
            "bottleneck": "7",
            "layer_norm": "False",
            "dropout": "0.25",
            "activation": "tanh",
        }
    )
    assert method.m == 5
    assert method.options == {"bottleneck": 7, "layer_norm": False, "dropout": 0.25, "activation": "tanh"}
    assert METHODS["p-tuning"].with_options({"hidden": "3"}).options == {"hidden": 3}
    assert METHODS["ept"].with_options({"residual": "true"}).options == {"residual": True}


def test_options_add_up_and_leave_the_table_alone():
    before = dataclasses.replace(METHODS["ept"])
    method = METHODS["ept"].with_options({"hidden": 5}).with_options({"bias": True, "repeats": 2})
    assert (dict(method.options), method.repeats) == ({"hidden": 5, "bias": True}, 2)
    assert METHODS["ept"] == before


def test_prompt_length_counts_vectors_where_nothing_is_repeated():
    assert METHODS["prompt-tuning"].with_options({"prompt_length": 20}).prompt_length == 20
    assert METHODS["ept-star"].with_options({"prompt_length": 4, "repeats": 1}).m == 4
    assert METHODS["ept-star"].with_options({"m": 2, "repeats": 5}).prompt_length == 10


@pytest.mark.parametrize(
    ("method", "option", "nearest"),
    [
        ("residual", "botleneck", "bottleneck"),
        ("ept", "promt_length", "prompt_length"),
        ("ept", "repeat", "repeats"),
    ],
)
def test_an_unknown_option_names_the_nearest(method, option, nearest):
    with pytest.raises(UnknownName, match=f"unknown method option '{option}'. Did you mean '{nearest}'?"):
        METHODS[method].with_options({option: 1})


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("prompt-tuning", {"prompt_length": 0}, "`prompt_length` must be at least 1, not 0"),
        ("prompt-tuning", {"prompt_length": "ten"}, "'prompt_length' is a whole number, not 'ten'"),
        ("prompt-tuning", {"m": 3, "prompt_length": 3}, "give `prompt_length` or the option 'm', not both"),
        ("ept-star", {"prompt_length": 5}, "repeats its vectors 10 times"),
        ("ept", {"repeats": 0}, "method option 'repeats' must be at least 1, not 0"),
        ("polar", {"radius": 0}, r"radius must be positive and finite, in token norms, not 0\.0"),
        ("polar", {"radius": "inf"}, "radius must be positive and finite, in token norms, not inf"),
        ("ept", {"hidden": 0}, "hidden must be at least 1, not 0"),
        ("ept", {"hidden": 2.5}, "'hidden' is a whole number, not 2.5"),
        ("ept", {"hidden": True}, "'hidden' is a whole number, not True"),
        ("ept", {"bias": "maybe"}, "'bias' is true or false, not 'maybe'"),
        ("ept", {"activation": 3}, "'activation' is a word, not 3"),
        ("residual", {"dropout": "much"}, "'dropout' is a number, not 'much'"),
        ("residual", {"per_position": 3}, "per_position is 3 but the prompt has 10 vectors"),
        ("linear-probe", {"prompt_length": 5}, "'linear-probe' has no prompt and takes no option 'prompt_length'"),
    ],
)
def test_an_impossible_option_is_refused_before_anything_is_built(method, options, message):
    with pytest.raises(BadInput, match=message):
        METHODS[method].with_options(options)


def test_a_width_of_zero_is_refused():
    with pytest.raises(BadInput, match="width must be at least 1, not 0"):
        describe(0)


@pytest.mark.parametrize(
    ("init", "lr"), [("uniform", 0.3), ("instruction", 0.03), ("examples:4", 0.03), ("text:a", 0.3)]
)
def test_a_prompt_that_begins_as_a_hand_written_one_learns_at_a_tenth_of_the_rate(init, lr):
    method = METHODS["prompt-tuning"]
    assert method.resolved(PromptSettings(init=init)).lr == pytest.approx(lr)
    assert method.resolved(PromptSettings(init=init, lr=0.2)).lr == 0.2


@pytest.mark.parametrize(
    ("method", "name"),
    [("prompt-tuning", "57fafc8ee41a8384"), ("ept", "06c9601cc748edbc"), ("lora", "8a8e8e1568406242")],
)
def test_a_stored_study_finds_its_runs_by_the_names_of_before(method, name):
    # Printed by `grid` before methods had source prompts: a new field of a method must not rename every run.
    assert grid(task="glue/sst2", model="lab-t5", method=method, steps=10)[0].name == name
