"""Fixtures: factories of tiny random models (`tiny`), trained backbones, and what several test files need.

A factory returns a fresh (model, tokenizer), the same numbers for the same seed:

    model, tokenizer = tiny_t5("mt5", seed=3)      # ENCODER_DECODERS
    model, tokenizer = tiny_bert("albert")         # ENCODERS, with their masked-LM head
    model, tokenizer = tiny_bert("bert", head=False)
    model, tokenizer = tiny_gpt("gemma")           # DECODERS
    folder = save_tiny(tmp_path / "model", model, tokenizer)

Where a score matters, the trained backbones that softprompt brings: `lab_t5`, `lab_bert`, `lab_gpt`, loaded once and
not to be changed. All recipes shrunk to a moment of pretraining: `tiny_recipes`.
"""

import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

# Before anything imports huggingface_hub: a test that reaches for the network must fail, at once.
os.environ["HF_HUB_OFFLINE"] = "1"
# Token ids of test rows stay out of the user's cache.
os.environ["SOFTPROMPT_CACHE"] = tempfile.mkdtemp(prefix="softprompt-tests-")
# No test depends on which library is faster here at the moment.
os.environ["SOFTPROMPT_PRODUCTS"] = "onednn"

import pytest
import torch

import shapes
from tiny import ALL, DECODERS, ENCODER_DECODERS, ENCODERS, TWINS, build_model

shapes.install()


def pytest_configure(config):
    # PEFT asks transformers by a name that transformers is about to drop; nothing here can change that.
    config.addinivalue_line("filterwarnings", "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def _family(item):
    return str(item.callspec.params.get("family")) if hasattr(item, "callspec") else ""


def pytest_collection_modifyitems(config, items):
    if ALL:
        return
    families = {(item.nodeid.partition("[")[0], _family(item)) for item in items}
    # Where a test runs on the other family too.
    twins = [i for i in items if (i.nodeid.partition("[")[0], TWINS.get(_family(i))) in families]
    config.hook.pytest_deselected(items=twins)
    items[:] = [item for item in items if item not in set(twins)]


@pytest.fixture(scope="session")
def tiny_model():
    """Factory over all families: `tiny_model(family, head=True, seed=0, dtype=torch.float32, **config)`."""
    return build_model


@pytest.fixture(scope="session")
def tiny_t5():
    """Factory of encoder-decoders: `tiny_t5(family="t5", seed=0, dtype=torch.float32, **config)`."""

    def build(family="t5", **options):
        assert family in ENCODER_DECODERS
        return build_model(family, **options)

    return build


@pytest.fixture
def exact_norms(monkeypatch):
    """T5's norms in the precision of the model: in a float64 one too, transformers computes the variance in float32."""
    from transformers.models.mt5.modeling_mt5 import MT5LayerNorm
    from transformers.models.t5.modeling_t5 import T5LayerNorm
    from transformers.models.umt5.modeling_umt5 import UMT5LayerNorm

    for kind in (T5LayerNorm, MT5LayerNorm, UMT5LayerNorm):
        plain = kind.forward

        def forward(self, states, plain=plain):
            if states.dtype != torch.float64:
                return plain(self, states)
            return self.weight * states * (states.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()

        monkeypatch.setattr(kind, "forward", forward)


@pytest.fixture(scope="session")
def tiny_bert():
    """Factory of encoders: `tiny_bert(family="bert", head=True, seed=0, dtype=torch.float32, **config)`."""

    def build(family="bert", **options):
        assert family in ENCODERS
        return build_model(family, **options)

    return build


@pytest.fixture(scope="session")
def tiny_gpt():
    """Factory of decoders: `tiny_gpt(family="gpt2", seed=0, dtype=torch.float32, **config)`."""

    def build(family="gpt2", **options):
        assert family in DECODERS
        return build_model(family, **options)

    return build


def built_in(name):
    """A built-in backbone as users load it; skips the test while the package has no weights for it."""
    from softprompt.backbones import load_backbone
    from softprompt.builtin import WEIGHTS

    if not (WEIGHTS / name).is_dir():
        pytest.skip(f"the weights of {name} are not in the package")
    return load_backbone(name)


@pytest.fixture(scope="session")
def lab_t5():
    """The trained encoder-decoder that softprompt brings."""
    return built_in("lab-t5")


@pytest.fixture(scope="session")
def lab_bert():
    """The trained encoder that softprompt brings, with its masked-LM head."""
    return built_in("lab-bert")


@pytest.fixture(scope="session")
def lab_gpt():
    """The trained decoder that softprompt brings."""
    return built_in("lab-gpt")


@pytest.fixture
def tiny_recipes(monkeypatch):
    """Every recipe of a built-in backbone shrunk to a moment, and its skills not measured."""
    import dataclasses

    from experiments.pretraining import pretrain
    from experiments.pretraining.recipes import RECIPES

    monkeypatch.setattr(pretrain, "measure", lambda model, lesson: {"n": 0})
    for name, plan in list(RECIPES.items()):
        depth = {"layers": 1, "decoder_layers": min(1, plan.decoder_layers)}
        tiny = dataclasses.replace(plan, width=16, feed_forward=16, steps=3, first_steps=1, batch_size=2, **depth)
        monkeypatch.setitem(RECIPES, name, tiny)


@pytest.fixture(scope="session")
def save_tiny():
    """Writes a model with its tokenizer into a folder, as `save_pretrained` leaves it; returns the folder."""

    def save(folder, model, tokenizer):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium; skips without it. Of a module: while it is open, asyncio runs no other loop here."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium: make browser installs it")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def plots():
    """The module of figures; skips where matplotlib is not installed."""
    pytest.importorskip("matplotlib", reason="figures need the extra `plots`")
    from softprompt.analysis import plots

    return plots


@pytest.fixture(scope="module")
def benchmark():
    """Modules of `benchmarks/` by name; they are imported here, so that other tests start without them."""
    folder = str(Path(__file__).parent.parent / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def kept_task(tmp_path_factory):
    """A task whose rows outlive a test, for runs that several tests of a module share."""
    from kit import review_task

    return review_task(tmp_path_factory.mktemp("kept") / "data")
