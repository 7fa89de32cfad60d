"""Products with frozen matrices, and which library computes them."""

import pytest
import torch
from softprompt.backbones import _products, from_model
from softprompt.backbones.fast import frozen_linear as _frozen_linear
from softprompt.backbones.fast.frozen_linear import frozen_linear
from softprompt.errors import UnknownName
from softprompt.prompts.batch import PromptBatch

from engine_kit import close, drawn
from packed_kit import rows, tiny
from tiny import E


class TestFrozenLinear:
    def test_a_folded_gain_is_the_gain_before_the_product(self):
        x, (a, b), gain = drawn(5, 3), (drawn(2, 3, seed=1), drawn(4, 3, seed=2)), drawn(3, seed=3)
        torch.testing.assert_close(frozen_linear(a, b, library="torch", gain=gain)(x), (x * gain) @ torch.cat([a, b]).T)

    @pytest.mark.skipif(not _products.HAS_ONEDNN, reason="this torch has no oneDNN")
    @pytest.mark.parametrize("rows", [1, 5, 64])
    def test_products_by_onednn_are_torchs(self, rows, monkeypatch):
        x, weight = drawn(rows, 96, dtype=torch.float32), drawn(64, 96, seed=1, dtype=torch.float32)
        gradient, bias = drawn(rows, 64, seed=2, dtype=torch.float32), drawn(64, seed=3, dtype=torch.float32)
        found = []
        monkeypatch.setattr(_frozen_linear, "WORTHWHILE", 0)
        for library in _products.LIBRARIES:
            linear = _frozen_linear.FrozenLinear(weight, library, bias)
            found.append((linear.forward(x), linear.backward(gradient)))
        for a, b in zip(*found, strict=True):
            close(a, b, 1e-6)

    def test_its_gradient_is_autograds(self):
        x, weight = drawn(5, 3).requires_grad_(), drawn(7, 3, seed=1)
        assert torch.autograd.gradcheck(frozen_linear(weight, library="torch"), x)


class TestLibrary:
    @pytest.fixture(autouse=True)
    def measured_anew(self, monkeypatch):
        """What a process measured is forgotten, before and after."""
        monkeypatch.setattr(_products, "HAS_ONEDNN", True)
        _products.faster_library.cache_clear()
        yield
        _products.faster_library.cache_clear()

    @pytest.mark.parametrize(
        ("by_onednn", "by_torch", "expected"),
        [(1.0, 2.0, "onednn"), (1.0, 0.93, "torch"), (1.0, 0.99, "onednn"), (1.0, 1.0, "onednn")],
    )
    def test_the_clearly_faster_library_is_chosen_and_of_equals_onednn(
        self, by_onednn, by_torch, expected, monkeypatch
    ):
        seconds = {_products.by_onednn: by_onednn, torch.nn.functional.linear: by_torch}
        monkeypatch.setattr(_products, "seconds_of", lambda product, x, weight: seconds[product])
        monkeypatch.setenv(_products.VARIABLE, "auto")
        assert _products.chosen_library() == expected
        monkeypatch.delenv(_products.VARIABLE)
        assert _products.chosen_library() == expected

    def test_it_is_measured_once_a_process(self, monkeypatch):
        measured = []
        monkeypatch.setattr(
            _products, "seconds_of", lambda *products: float(len(measured.append(products) or measured))
        )
        monkeypatch.setenv(_products.VARIABLE, "auto")
        assert [_products.chosen_library() for _ in range(3)] == ["onednn"] * 3
        assert len(measured) == 2

    @pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch has no oneDNN")
    def test_what_is_measured_is_a_time(self):
        x, weight = torch.rand(2, 8, 8).unbind()
        assert all(
            _products.seconds_of(one, x, weight) > 0 for one in (_products.by_onednn, torch.nn.functional.linear)
        )

    def test_the_environment_forces_it_without_measuring(self, monkeypatch):
        monkeypatch.setattr(_products, "seconds_of", lambda *products: pytest.fail("measured"))
        for forced in ("torch", "onednn"):
            monkeypatch.setenv(_products.VARIABLE, forced)
            assert _products.chosen_library() == forced
            assert from_model(*tiny(dtype=torch.float32)).products == forced
            assert from_model(*tiny(dtype=torch.float32), engine="reference").products is None

    def test_a_library_that_does_not_exist_is_refused_with_the_nearest(self, monkeypatch):
        monkeypatch.setenv(_products.VARIABLE, "onedn")
        with pytest.raises(UnknownName, match=r"SOFTPROMPT_PRODUCTS.*'onednn'"):
            _products.chosen_library()

    def test_torch_without_onednn_multiplies_itself(self, monkeypatch):
        monkeypatch.setattr(_products, "HAS_ONEDNN", False)
        assert _products.chosen_library() == "torch"

    def test_the_passes_of_a_backbone_are_multiplied_by_its_library(self, monkeypatch):
        taken = []
        product = _products.by_onednn
        monkeypatch.setattr(_frozen_linear, "by_onednn", lambda x, *w: (taken.append(len(x)), product(x, *w))[1])
        monkeypatch.setattr(_frozen_linear, "WORTHWHILE", 0)
        backbone = from_model(*tiny(dtype=torch.float32), engine="packed")
        prompt_batch, batch = PromptBatch.stack([drawn(2, E, dtype=torch.float32)]), rows([5, 2])
        for library in (*_products.LIBRARIES, *_products.LIBRARIES):
            backbone.products = library
            taken.clear()
            backbone.logits(prompt_batch, batch)
            assert bool(taken) == (library == "onednn")
