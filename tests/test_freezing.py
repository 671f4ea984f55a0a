import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from nbrepro import _policy, freezing, models
from nbrepro.freezing import freeze

NORMS = (
    *("bn", "blocks.0.bn1", "blocks.0.bn2", "blocks.1.bn1", "blocks.1.bn2", "blocks.2.bn1"),
    *("blocks.2.bn2", "blocks.1.shortcut.1", "blocks.2.shortcut.1"),
)
GAMMA = {f"{norm}.weight" for norm in NORMS}
BETA = {f"{norm}.bias" for norm in NORMS}
OUTPUT = {"fc.weight", "fc.bias"}
SHORTCUT = {"blocks.1.shortcut.0.weight", "blocks.2.shortcut.0.weight"}
OTHER = {"conv.weight", *(f"blocks.{i}.conv{j}.weight" for i in range(3) for j in (1, 2))}
CONVOLUTIONS = OTHER | SHORTCUT
ALL = GAMMA | BETA | OUTPUT | SHORTCUT | OTHER

POLICIES = {
    "batchnorm": GAMMA | BETA,
    "gamma": GAMMA,
    "beta": BETA,
    "output": OUTPUT,
    "shortcut": SHORTCUT,
    "other": OTHER,
    "all": ALL,
    "batchnorm+output": GAMMA | BETA | OUTPUT,
    "shortcut+output": SHORTCUT | OUTPUT,
    "gamma+beta": GAMMA | BETA,
    "other+shortcut+output": OTHER | SHORTCUT | OUTPUT,
    "random:2": CONVOLUTIONS,
    "random:2+output": CONVOLUTIONS | OUTPUT,
    "scattered:2": CONVOLUTIONS,
    "scattered:2+batchnorm": CONVOLUTIONS | GAMMA | BETA,
}

MakeOptimizer = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]


class Restless(torch.optim.Optimizer):
    """An optimizer around another one, as averaging ones are; moves everything once more."""

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        self.inner = torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.1)
        super().__init__(self.inner.param_groups, {})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        self.inner.step()
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.add_(0.01)


OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    "sgd fused": lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.1, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "around another": Restless,
}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return models.create("cifar_resnet8", batchnorm_init="oneone")


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def take_steps(
    model: nn.Module,
    make_optimizer: MakeOptimizer = OPTIMIZERS["sgd"],
    *,
    all_parameters: bool = False,
    steps: int = 4,
) -> None:
    optimizer = make_optimizer(p for p in model.parameters() if p.requires_grad or all_parameters)
    generator = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(steps):
        images = torch.randn(16, 3, 8, 8, generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.arange(16) % 10).backward()
        optimizer.step()


@pytest.mark.parametrize("train", POLICIES)
def test_trained_names(model: nn.Module, train: str) -> None:
    report = freeze(model, train)
    assert set(dict(model.named_parameters())) == ALL
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert set(trainable) == POLICIES[train]
    assert report.names == tuple(trainable)
    assert report.train == train


@pytest.mark.parametrize("all_parameters", [False, True], ids=["trainable", "all"])
@pytest.mark.parametrize("train", [p for p in POLICIES if ":" not in p])
def test_only_what_is_trained_moves(model: nn.Module, train: str, all_parameters: bool) -> None:
    """Momentum and weight decay included, even if the optimizer is given every parameter."""
    freeze(model, train)
    before = parameters_of(model)
    take_steps(model, all_parameters=all_parameters)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == POLICIES[train]


def test_counts_and_shares(model: nn.Module) -> None:
    report = freeze(model, "batchnorm+output")
    assert report.total == 78_042
    assert report.counts == {
        "batchnorm": 672,
        "gamma": 336,
        "beta": 336,
        "affine": 0,
        "output": 650,
        "shortcut": 0,
        "other": 0,
        "all": 1_322,
    }
    assert report.shares == {group: n / 78_042 for group, n in report.counts.items()}
    text = str(report)
    assert "train=batchnorm+output: 1,322 of 78,042 parameters" in text
    assert "650    0.833%" in text
    assert "shortcut" not in text


def test_counts_of_one_half_of_batchnorm(model: nn.Module) -> None:
    counts = freeze(model, "gamma").counts
    assert (counts["batchnorm"], counts["gamma"], counts["beta"]) == (336, 336, 0)


def test_random_counts_equal_batchnorms() -> None:
    """Two weights a channel are as many as γ and β: the control of the paper."""
    with torch.device("meta"):
        model = models.create("cifar_resnet110")
    model.to_empty(device="cpu")
    random = freeze(model, "random:2")
    assert random.counts["random"] == random.counts["all"] == 8_288
    assert random.counts["other"] == random.counts["batchnorm"] == 0
    assert freeze(model, "batchnorm").counts["all"] == 8_288
    assert "random" not in freeze(model, "batchnorm").counts


def test_default_trains_batchnorm(model: nn.Module) -> None:
    assert freeze(model).train == "batchnorm"


@pytest.mark.parametrize("k", [1, 2, 27])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_random_moves_exactly_k_weights_a_channel(model: nn.Module, optimizer: str, k: int) -> None:
    if k == 27:  # every weight of the stem; the 1×1 projections have fewer
        stem = map(model.get_submodule, ("conv", "bn"))
        model = nn.Sequential(*stem, nn.Flatten(), nn.Linear(16 * 64, 10))
    freeze(model, f"random:{k}")
    before = parameters_of(model)
    take_steps(model, OPTIMIZERS[optimizer])
    for name, parameter in model.named_parameters():
        moved = parameter != before[name]
        if parameter.ndim == 4:
            assert bool((moved.flatten(1).sum(1) == k).all()), name
        else:
            assert not moved.any(), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_scattered_moves_as_many_weights_per_layer_unevenly(
    model: nn.Module, optimizer: str
) -> None:
    freeze(model, "scattered:2")
    before = parameters_of(model)
    take_steps(model, OPTIMIZERS[optimizer])
    shares = []
    for name, parameter in model.named_parameters():
        moved = parameter != before[name]
        if parameter.ndim == 4:
            assert int(moved.sum()) == 2 * len(parameter), name
            shares += moved.flatten(1).sum(1).tolist()
        else:
            assert not moved.any(), name
    # nearly binomial: channels with none, e^-2 of them, and with more than two
    assert 0.07 < shares.count(0) / len(shares) < 0.2
    assert max(shares) > 4


def test_scattered_weights_are_equally_likely() -> None:
    layer = nn.Conv2d(5, 4, 1, bias=False)
    picked = torch.zeros(4, 5, 1, 1)
    for seed in range(2000):
        freeze(layer, "scattered:2", seed=seed)
        layer(torch.ones(1, 5, 1, 1)).sum().backward()
        picked += layer.weight.grad != 0
        layer.zero_grad()
    share, error = 8 / 20, (8 / 20 * 12 / 20 / 2000) ** 0.5
    assert float((picked / 2000 - share).abs().max()) < 4 * error


def test_scattered_counts_are_those_of_random(model: nn.Module) -> None:
    random, scattered = (freeze(model, train).counts for train in ("random:3", "scattered:3"))
    assert scattered["scattered"] == random["random"] == scattered["all"]
    assert "random" not in scattered


NF = "cifar_nf_resnet8"


def test_affine_is_gains_biases_and_skip_scalars() -> None:
    model = models.create(NF)
    parameters = dict(model.named_parameters())
    affine = {
        name
        for name in parameters
        if name.endswith((".gain", ".bias", ".skip_gain")) and "shortcut" not in name
    } - {"fc.bias"}
    assert set(freeze(model, "affine").names) == affine
    assert not affine & set(freeze(model, "other+output+shortcut").names)
    freeze(model, "affine")
    before = parameters_of(model)
    take_steps(model)
    assert {n for n, p in model.named_parameters() if not torch.equal(p, before[n])} == affine


@pytest.mark.parametrize(
    ("name", "blocks"), [("cifar_nf_resnet20x2", 9), ("cifar_nf_resnet29b", 9), ("nf_resnet50", 16)]
)
def test_affine_counts_as_many_as_batchnorm_in_the_twin(name: str, blocks: int) -> None:
    with torch.device("meta"):
        free = freezing.count(models.create(name, skip_gain=None))
        whole = freezing.count(models.create(name))
        twin = freezing.count(models.create(f"bn_{name}"))
    assert free["affine"] == twin["batchnorm"] > 0
    assert free["other"] == twin["other"]
    assert free["output"] == twin["output"]
    assert whole["affine"] == free["affine"] + blocks


def test_skip_scalars_are_what_lets_gains_in_branches_count() -> None:
    """Frozen at zero they would leave the branches without effect: why affine trains them."""
    model = models.create(NF)
    freeze(model, "affine")
    take_steps(model, steps=2)
    before = parameters_of(model)
    take_steps(model, steps=1)
    assert not torch.equal(model.get_parameter("blocks.0.branch.conv1.gain"),
                           before["blocks.0.branch.conv1.gain"])  # fmt: skip
    assert all(float(block.skip_gain.detach()) != 0 for block in model.blocks)


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Of a loss that every weight has a part in."""
    model.zero_grad()
    model.eval()(torch.rand(4, 3, 8, 8)).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_random_has_no_gradient_elsewhere(model: nn.Module) -> None:
    """So that a norm of the gradients is one of what is trained."""
    freeze(model, "random:2")
    gradient = gradients_of(model)["conv.weight"]
    assert (gradient != 0).flatten(1).sum(1).unique().tolist() == [2]
    freeze(model, "other")
    assert bool((gradients_of(model)["conv.weight"] != 0).all())


def test_random_beside_a_whole_group(model: nn.Module) -> None:
    """A convolution that is trained as a whole is not masked as well."""
    report = freeze(model, "random:2+shortcut")
    assert (report.counts["random"], report.counts["shortcut"]) == (2 * 240, 2_560)
    before = parameters_of(model)
    take_steps(model)
    for name, parameter in model.named_parameters():
        moved = int((parameter != before[name]).sum())
        if name in SHORTCUT:
            assert moved == parameter.numel()
        elif name in OTHER:
            assert moved == 2 * parameter.shape[0]
        else:
            assert moved == 0


def moved_positions(model: nn.Module, seed: int) -> list[Tensor]:
    freeze(model, "random:2", seed=seed)
    before = parameters_of(model)
    take_steps(model, steps=2)
    return [p != before[n] for n, p in model.named_parameters() if p.ndim == 4]


def test_random_positions_follow_from_the_seed(model: nn.Module) -> None:
    a, b, other = (moved_positions(copy.deepcopy(model), seed) for seed in (5, 5, 6))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(a, other, strict=True))


def test_random_positions_are_spread_evenly() -> None:
    """Each of 9 places of 20,000 single-channel filters is drawn equally often."""
    convolution = nn.Conv2d(1, 20_000, 3, bias=False)
    freeze(convolution, "random:2")
    before = convolution.weight.detach().clone()
    optimizer = torch.optim.SGD(convolution.parameters(), 1.0)
    convolution(torch.ones(1, 1, 3, 3)).sum().backward()
    optimizer.step()
    share = (convolution.weight != before).flatten(1).float().mean(0)
    error = (2 / 9 * 7 / 9 / 20_000) ** 0.5
    assert float((share - 2 / 9).abs().max()) < 4 * error


def test_freezing_again_replaces_the_policy(model: nn.Module) -> None:
    freeze(model, "random:2", seed=1)
    freeze(model, "random:1", seed=2)
    before = parameters_of(model)
    take_steps(model)
    moved = (model.get_parameter("conv.weight") != before["conv.weight"]).flatten(1).sum(1)
    assert moved.unique().tolist() == [1]

    freeze(model, "other")
    before = parameters_of(model)
    take_steps(model)
    for name, parameter in model.named_parameters():
        assert int((parameter != before[name]).sum()) == (name in OTHER) * parameter.numel(), name


def test_weights_loaded_after_freezing_stay(model: nn.Module) -> None:
    """What is frozen under random:k is what is there, not what was there at the time."""
    freeze(model, "random:2")
    loaded = models.create("cifar_resnet8").state_dict()
    model.load_state_dict(loaded)
    take_steps(model)
    moved = (model.get_parameter("conv.weight") != loaded["conv.weight"]).flatten(1).sum(1)
    assert moved.unique().tolist() == [2]


def moved_weights(model: nn.Module) -> list[Tensor]:
    """Of every convolution, which weights a few steps move."""
    before = parameters_of(model)
    take_steps(model)
    return [p != before[name] for name, p in model.named_parameters() if name in CONVOLUTIONS]


def per_filter(moved: list[Tensor]) -> set[int]:
    return {int(count) for weights in moved for count in weights.flatten(1).sum(1)}


def test_random_holds_for_weights_that_are_assigned(model: nn.Module) -> None:
    """``load_state_dict(assign=True)`` puts other parameters in place of the frozen ones."""
    freeze(model, "random:2")
    positions = moved_weights(model)
    old = model.get_parameter("conv.weight")
    model.load_state_dict(models.create("cifar_resnet8").state_dict(), assign=True)
    assert model.get_parameter("conv.weight") is not old
    assert all(map(torch.equal, moved_weights(model), positions))
    assert per_filter(positions) == {2}
    freeze(model, "other+shortcut")
    assert all(bool(weights.all()) for weights in moved_weights(model))


def test_random_holds_for_copies(model: nn.Module) -> None:
    freeze(model, "random:2")
    twin = copy.deepcopy(model)
    freeze(model, "random:1")
    assert per_filter(moved_weights(twin)) == {2}
    assert per_filter(moved_weights(model)) == {1}
    freeze(twin, "other+shortcut")
    assert all(bool(weights.all()) for weights in moved_weights(twin))


@pytest.mark.parametrize("train", ["random:2", "scattered:2"])
def test_drawn_weights_are_kept_by_models_that_are_saved_whole(
    model: nn.Module, train: str, tmp_path: Path
) -> None:
    """In this process and in one that has never frozen anything."""
    freeze(model, train)
    torch.save(model, tmp_path / "model.pt")
    script = """if True:
        import sys, torch
        model = torch.load(sys.argv[1], weights_only=False)
        weight = model.conv.weight
        before = weight.detach().clone()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
        for _ in range(2):
            model(torch.randn(4, 3, 8, 8)).logsumexp(1).sum().backward()
            optimizer.step()
        print(int((weight != before).sum()), int((weight.grad != 0).sum()))
    """
    command = [sys.executable, "-c", script, str(tmp_path / "model.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = 2 * len(model.get_parameter("conv.weight"))
    assert done.stdout.split() == [str(expected)] * 2
    twin = torch.load(tmp_path / "model.pt", weights_only=False)
    assert int((gradients_of(twin)["conv.weight"] != 0).sum()) == expected
    assert sum(int(moved.sum()) for moved in moved_weights(twin)[:1]) == expected


def test_what_is_frozen_between_two_steps_stands_still_at_once(model: nn.Module) -> None:
    """An optimizer that has all parameters finds no old gradient, and decays none."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    images = torch.randn(8, 3, 8, 8)
    model(images).logsumexp(1).sum().backward()
    freeze(model, "batchnorm")
    before = parameters_of(model)
    for _ in range(2):
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        model(images).logsumexp(1).sum().backward()
    after = parameters_of(model)
    assert {name for name in after if not torch.equal(after[name], before[name])} == GAMMA | BETA


def test_a_step_that_fails_leaves_nothing_behind(model: nn.Module) -> None:
    freeze(model, "random:2")
    weight: Any = model.get_parameter("conv.weight")
    optimizer = torch.optim.SGD([weight], 0.1)

    def closure() -> float:
        raise RuntimeError("no data")

    for _ in range(3):
        with pytest.raises(RuntimeError, match="no data"):
            optimizer.step(closure)
    assert len(weight._nbrepro_masked.before) == 1


def test_gradients_that_are_not_finite_are_zero_outside_the_mask() -> None:
    layer = nn.Conv2d(1, 1, 3)
    freeze(layer, "random:2")
    layer(torch.full((1, 1, 3, 3), torch.inf)).backward()
    assert layer.weight.grad is not None
    assert int((layer.weight.grad != 0).sum()) == 2  # the others are 0, not NaN


def test_masks_do_not_depend_on_the_default_device() -> None:
    layer, twin = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    freeze(layer, "random:2")
    with torch.device("meta"):
        freeze(twin, "random:2")
    masks: list[Any] = [each.__dict__["_nbrepro_mask"] for each in (layer, twin)]
    assert torch.equal(*masks)


def statistics_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def test_statistics_move_though_batchnorm_is_frozen(model: nn.Module) -> None:
    freeze(model, "output", statistics=True)
    before = statistics_of(model)
    take_steps(model, steps=1)
    assert not any(torch.equal(b, before[n]) for n, b in model.named_buffers())


@pytest.mark.parametrize("train", ["batchnorm", "output"])
def test_stored_statistics_are_used_and_kept(model: nn.Module, train: str) -> None:
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    freeze(model, train, statistics=False)
    before = statistics_of(model)
    images = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(model.train()(images), model.eval()(images), rtol=0, atol=0)
    take_steps(model)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_statistics_can_be_switched_on_again(model: nn.Module) -> None:
    model.train()
    freeze(model, "batchnorm", statistics=False)
    model(torch.randn(4, 3, 8, 8))
    freeze(model, "batchnorm", statistics=True)
    before = statistics_of(model)
    model(torch.randn(4, 3, 8, 8))
    assert not any(torch.equal(b, before[n]) for n, b in model.named_buffers())


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("batchnrom", "did you mean 'batchnorm'"),
        ("batchnorm+outptu", "did you mean 'output'"),
        ("", "unknown group"),
        ("batchnorm+", "unknown group"),
        ("random:28", "conv.weight has per channel \\(27\\)"),
        ("scattered:28", "scattered:28 asks .* conv.weight has per channel \\(27\\)"),
        ("scattered:0", "k must be a whole number of at least 1, as in scattered:2"),
        ("scattered", "unknown group"),
        ("random:0", "k must be a whole number of at least 1"),
        ("random:-1", "k must be"),
        ("random:two", "k must be"),
        ("random:", "k must be"),
        ("random", "unknown group"),
        ("random:2+random:4", "weights are drawn twice; leave out random:4"),
        ("random:2+scattered:2", "weights are drawn twice"),
        ("all+scattered:2", "scattered:2 selects nothing more"),
        ("all+random:2", "selects nothing more"),
    ],
)
def test_errors_leave_the_model_as_it_was(model: nn.Module, train: str, message: str) -> None:
    freeze(model, "random:1+output", statistics=False)
    with pytest.raises(ValueError, match=message):
        freeze(model, train)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == CONVOLUTIONS | OUTPUT
    before = state_of(model)
    take_steps(model)
    moved = {n: int((t != before[n]).sum()) for n, t in model.state_dict().items()}
    assert moved["conv.weight"] == 16
    assert all((moved[n] > 0) == (n in CONVOLUTIONS | OUTPUT) for n in moved), moved


@pytest.mark.parametrize(
    "train", ["batchnorm", "affine", "shortcut", "random:2", "scattered:2", "output+gamma"]
)
def test_nothing_to_train(train: str) -> None:
    linear = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="nothing to train: this model has no"):
        freeze(linear, train)
    assert all(p.requires_grad for p in linear.parameters())


def test_output_is_the_last_linear_layer_alone() -> None:
    report = freeze(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), "output")
    assert report.names == ("2.weight", "2.bias")


def test_an_output_layer_may_share_its_weight() -> None:
    """As language models share that of their embedding."""
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 10, bias=False))
    model[2].weight = model[0].weight
    assert freeze(model, "output").names == ("0.weight",)
    assert freezing.count(model) | {"all": 0} == dict.fromkeys(_policy.GROUPS, 0) | {
        "output": 40,
        "other": 20,
    }


def test_shared_parameters_count_once() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    assert freezing.count(nn.Sequential(first, second, first))["all"] == 15


def test_torchvision_resnet18() -> None:
    with torch.device("meta"):
        model = resnet18()
    counts = freezing.count(model)
    assert counts["all"] == 11_689_512
    assert counts["shortcut"] == 172_032
    assert counts["batchnorm"] == 9_600
    assert counts["output"] == 513_000
    report = freeze(model, "shortcut")
    assert report.names == tuple(f"layer{i}.0.downsample.0.weight" for i in (2, 3, 4))
    assert freeze(model, "batchnorm").counts["all"] == 9_600


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("all", "all"),
        ("output+batchnorm", "batchnorm+output"),
        ("output+gamma+random:02+output", "random:2+gamma+output"),
        ("affine+scattered:3+output", "scattered:3+affine+output"),
    ],
)
def test_one_policy_has_one_canonical_name(written: str, canonical: str) -> None:
    assert _policy.canonical(written) == canonical
    assert _policy.parse(canonical) == _policy.parse(written)


def test_the_grammar_needs_no_torch() -> None:
    code = "import sys, nbrepro._policy; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_imports_leave_every_optimizer_alone() -> None:
    """Hooks are registered when random:k is asked for, and then touch masked weights only."""
    code = """
import importlib, pkgutil
from torch.optim import optimizer
import nbrepro

def registered():
    return [len(optimizer._global_optimizer_pre_hooks), len(optimizer._global_optimizer_post_hooks)]

for module in pkgutil.walk_packages(nbrepro.__path__, "nbrepro."):
    importlib.import_module(module.name)
from nbrepro import freezing, models, spec

spec.Spec(model="cifar_resnet8", train="random:2")
model = models.create("cifar_resnet8")
freezing.freeze(model, "batchnorm+output")
assert registered() == [0, 0], registered()
for _ in range(2):
    freezing.freeze(model, "random:2")
assert registered() == [1, 1], registered()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("train", [None, 3, ["batchnorm"]])
def test_a_policy_is_text(train: Any) -> None:
    with pytest.raises(TypeError, match="expected text, such as"):
        freeze(models.create("cifar_resnet8"), train)


def test_a_policy_may_have_spaces() -> None:
    model = models.create("cifar_resnet8")
    spaced = freeze(model, "batchnorm + output").names
    assert spaced == freeze(model, "batchnorm+output").names
