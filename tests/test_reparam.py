"""Every reparameterisation keeps the contract; each equals PEFT's or its paper's formula written plainly."""

import itertools
import math

import pytest
import torch
from softprompt.errors import BadInput, UnknownName
from softprompt.prompts.reparam import (
    LSTM,
    MLP,
    REPARAMETERIZATIONS,
    AbstractReparameterization,
    Bottleneck,
    Polar,
    ResidualBottleneck,
)
from torch import Tensor, nn

E, M = 16, 3


@pytest.fixture
def initial():
    return torch.randn(M, E, generator=torch.Generator().manual_seed(1))


def randomized(network: AbstractReparameterization, seed: int = 2) -> AbstractReparameterization:
    """All weights normal and the network in float64, so that LayerNorm's ones and zeros hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    for p in network.double().parameters():
        p.data.normal_(generator=generator)
    return network


@pytest.mark.parametrize("kind", REPARAMETERIZATIONS.values(), ids=REPARAMETERIZATIONS)
class TestEveryReparameterization:
    def test_fold_equals_the_evaluation_forward(self, kind, initial):
        network = randomized(kind(E))
        expected = network.eval()(initial.double())
        assert torch.equal(network.train().fold(initial.double()), expected)

    def test_fold_is_detached_and_a_copy(self, kind, initial):
        before = initial.clone()
        folded = kind(E).fold(initial.requires_grad_())
        assert not folded.requires_grad
        folded.zero_()
        assert torch.equal(initial, before)

    @pytest.mark.parametrize("training", [True, False])
    def test_fold_leaves_the_training_mode_as_it_was(self, kind, initial, training):
        network = kind(E).train(training)
        network.fold(initial)
        assert all(module.training is training for module in network.modules())

    def test_shape_and_precision_are_those_of_the_vectors(self, kind, initial):
        for dtype in (torch.float32, torch.float64):
            prompt = kind(E).to(dtype)(initial.to(dtype))
            assert (prompt.shape, prompt.dtype) == (initial.shape, dtype)

    def test_every_parameter_and_every_vector_gets_a_gradient(self, kind, initial):
        network, initial = randomized(kind(E)), initial.double().requires_grad_()
        weights = torch.randn(M, E, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        (network(initial) * weights).sum().backward()
        silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        assert silent == []
        assert initial.grad is not None
        assert initial.grad.any(dim=1).all()

    def test_no_weight_is_shared_by_accident(self, kind):
        parameters = dict(kind(E).named_parameters(remove_duplicate=False))
        modules = dict(kind(E).named_modules(remove_duplicate=False))
        assert len({id(p) for p in parameters.values()}) == len(parameters)
        assert len({id(m) for m in modules.values()}) == len(modules)

    def test_a_state_dict_restores_the_same_prompt(self, kind, initial):
        one, other = randomized(kind(E), seed=4), kind(E).double()
        other.load_state_dict(one.state_dict())
        assert torch.equal(other(initial.double()), one(initial.double()))

    def test_a_width_of_zero_is_refused(self, kind):
        with pytest.raises(BadInput, match="e must be at least 1, not 0"):
            kind(0)


@pytest.mark.parametrize("hidden", [None, 7])
def test_mlp_equals_peft_to_the_last_bit(initial, hidden):
    theirs = peft_encoder("MLP", hidden)
    ours = MLP(E, hidden)
    ours.layers.load_state_dict(theirs.mlp_head.state_dict())
    assert torch.equal(ours(initial), peft_prompt(theirs, initial))


@pytest.mark.parametrize("hidden", [None, 7])
def test_lstm_equals_peft_to_the_last_bit(initial, hidden):
    theirs = peft_encoder("LSTM", hidden)
    ours = LSTM(E, hidden)
    ours.lstm.load_state_dict(theirs.lstm_head.state_dict())
    ours.head.load_state_dict(theirs.mlp_head.state_dict())
    assert torch.equal(ours(initial), peft_prompt(theirs, initial))


def peft_encoder(kind, hidden):
    from peft import PromptEncoder, PromptEncoderConfig

    config = PromptEncoderConfig(
        num_virtual_tokens=M,
        token_dim=E,
        num_transformer_submodules=1,
        encoder_hidden_size=hidden or E,
        encoder_reparameterization_type=kind,
        encoder_dropout=0.0,
    )
    return PromptEncoder(config)


def peft_prompt(encoder, initial):
    encoder.embedding.weight.data.copy_(initial)
    return encoder(torch.arange(M)[None])[0]


FUNCTIONS = {
    "none": lambda x: x,
    "relu": lambda x: x * (x > 0),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "tanh": lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
}


def pair(
    weights: dict[str, Tensor], x: Tensor, activation: str, *, bias: bool = True, norm: str | None = None
) -> Tensor:
    """`LayerNorm(U act(D x + b) + c)`, a vector at a time; `norm` is the LayerNorm's place among the layers."""
    rows = []
    for row in x:
        hidden = FUNCTIONS[activation](weights["0.weight"] @ row + (weights["0.bias"] if bias else 0))
        up = weights["2.weight"] @ hidden + (weights["2.bias"] if bias else 0)
        if norm:
            centred = up - up.mean()
            up = centred / (centred.square().mean() + 1e-5).sqrt()
            up = up * weights[f"{norm}.weight"] + weights[f"{norm}.bias"]
        rows.append(up)
    return torch.stack(rows)


def weights_below(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): w for name, w in network.state_dict().items() if name.startswith(prefix)}


@pytest.mark.parametrize("passes", [1, 2, 3])
@pytest.mark.parametrize("per_position", [0, M])
@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_residual_equals_its_formula(initial, passes, per_position, layer_norm, activation):
    """P + f(..f(P)): one network for all passes, one residual around them."""
    network = ResidualBottleneck(E, 5, passes, per_position, layer_norm, activation)
    network, initial = randomized(network), initial.double()
    expected = []
    for position, vector in enumerate(initial):
        weights = weights_below(network, f"networks.{position if per_position else 0}.")
        x = vector[None]
        for _ in range(passes):
            x = pair(weights, x, activation, norm="4" if layer_norm else None)
        expected.append(vector + x[0])
    torch.testing.assert_close(network(initial), torch.stack(expected), rtol=0, atol=1e-10)


def test_residual_defaults_are_two_passes_through_400_relu_units_with_layer_norm(initial):
    default, initial = randomized(ResidualBottleneck(E)), initial.double()
    weights = weights_below(default, "networks.0.")
    assert weights["0.weight"].shape == (400, E)
    expected = initial + pair(weights, pair(weights, initial, "relu", norm="4"), "relu", norm="4")
    torch.testing.assert_close(default(initial), expected, rtol=0, atol=1e-10)


def test_residual_dropout_acts_in_training_and_not_in_the_folded_prompt(initial):
    plain, dropping = ResidualBottleneck(E), ResidualBottleneck(E, dropout=0.5)
    dropping.load_state_dict(plain.state_dict())
    assert not torch.equal(dropping(initial), plain(initial))
    assert torch.equal(dropping.fold(initial), plain.fold(initial))


def test_a_network_per_position_refuses_another_number_of_positions(initial):
    with pytest.raises(BadInput, match="per_position is 4 but the prompt has 3 vectors; set per_position to 3"):
        ResidualBottleneck(E, per_position=4)(initial)


@pytest.mark.parametrize(("depth", "share_depth"), [(1, True), (3, True), (3, False)])
@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize(("layer_norm", "residual", "bias"), [*itertools.product([False, True], repeat=3)])
def test_bottleneck_equals_its_formula(initial, depth, share_depth, activation, layer_norm, residual, bias):
    """g(..g(P)), the same g or another each time, P added once at the end if asked."""
    network = Bottleneck(E, 2, depth, share_depth, layer_norm, residual, activation, bias)
    network, initial = randomized(network), initial.double() / 4
    expected = initial
    for number in range(depth):
        weights = weights_below(network, f"pairs.{0 if share_depth else number}.")
        expected = pair(weights, expected, activation, bias=bias, norm="3" if layer_norm else None)
    torch.testing.assert_close(network(initial), expected + initial if residual else expected, rtol=1e-10, atol=1e-10)


def test_ept_is_a_rank_one_product(initial):
    """(d . p) u for each vector: the direction of the prompt is u alone (spec of EPT with h = 1)."""
    network, initial = randomized(Bottleneck(E)), initial.double()
    down, up = (p.flatten() for p in network.parameters())
    torch.testing.assert_close(network(initial), (initial @ down)[:, None] * up, rtol=1e-12, atol=0)


@pytest.mark.parametrize("train_radius", [False, True])
def test_polar_keeps_the_direction_and_sets_the_norm(initial, train_radius):
    """r exp(rho / 5) P / ||P|| for each vector, one r for all; rho starts at 0, so that the radius is as given."""
    network, initial = Polar(E, radius=2.5, train_radius=train_radius), initial.double()
    torch.testing.assert_close(network(initial).norm(dim=1), torch.full((M,), 2.5).double())
    radius = 2.5
    if train_radius:
        network = randomized(network)
        (rho,) = network.parameters()
        radius *= math.exp(rho.item() / 5)
        assert radius != 2.5
    expected = torch.stack([radius * row / row.square().sum().sqrt() for row in initial])
    torch.testing.assert_close(network(initial), expected, rtol=1e-12, atol=0)


def test_only_polar_is_measured_by_its_direction():
    assert [name for name, kind in REPARAMETERIZATIONS.items() if kind.is_direction] == ["polar"]


@pytest.mark.parametrize("kind", [k for k in REPARAMETERIZATIONS.values() if k.is_direction])
def test_a_direction_does_not_depend_on_the_length_of_a_vector(kind, initial):
    network = randomized(kind(E))
    torch.testing.assert_close(network(1000 * initial.double()), network(initial.double()), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Polar(E, radius=0.0), r"radius must be positive and finite, in token norms, not 0\.0"),
        (lambda: Polar(E, radius=float("nan")), "radius must be positive and finite, in token norms, not nan"),
        (lambda: MLP(E, 0), "hidden must be at least 1, not 0"),
        (lambda: LSTM(E, 0), "hidden must be at least 1, not 0"),
        (lambda: Bottleneck(E, hidden=0), "hidden must be at least 1, not 0"),
        (lambda: Bottleneck(E, depth=-2), "depth must be at least 1, not -2"),
        (lambda: ResidualBottleneck(E, bottleneck=0), "bottleneck must be at least 1, not 0"),
        (lambda: ResidualBottleneck(E, passes=0), "passes must be at least 1, not 0"),
        (lambda: ResidualBottleneck(E, per_position=-1), "the number of positions, not -1"),
        (lambda: ResidualBottleneck(E, dropout=1.0), "dropout must be at least 0 and below 1, not 1.0"),
        (
            lambda: ResidualBottleneck(E, dropout=float("nan")),
            "dropout must be at least 0 and below 1, not nan",
        ),
    ],
)
def test_an_impossible_size_is_refused_by_name(make, message):
    with pytest.raises(BadInput, match=message):
        make()


def test_an_unknown_activation_names_the_nearest():
    with pytest.raises(UnknownName, match=r"unknown activation 'rleu'\. Did you mean 'relu'\?"):
        Bottleneck(E, activation="rleu")
