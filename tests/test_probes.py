from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro import agc, models, probes
from nbrepro.layers import StochasticDepth, expected_stds
from nbrepro.models.cifar_resnet import BasicBlock
from nbrepro.models.nf_resnet import NFResNet
from nbrepro.probes import clip_fraction, mean_shift, signal_propagation

Probe = Callable[[nn.Module, Tensor], object]


def _nfnet(**options: object) -> nn.Module:
    widths = (32, 32, 64, 64)
    return models.create("cifar_nfnet_f0", 10, widths=widths, group_width=16, **options)


def _small(name: str, **options: object) -> nn.Module:
    torch.manual_seed(1)
    return _nfnet(**options) if name == "cifar_nfnet_f0" else models.create(name, 10, **options)


def _images(count: int = 6) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def _walk(model: nn.Module, x: Tensor) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
    """Each block with its input and output, run one by one."""
    entry = "stem" if hasattr(model, "stem") else "conv"
    x = model.get_submodule(entry)(x)
    if entry == "conv":
        x = F.relu(model.bn(x))
    for block in model.blocks:
        y = block(x)
        yield block, x, y
        x = y


def _numpy(y: Tensor) -> tuple[float, float]:
    array = y.detach().double().numpy()
    channels = array.transpose(1, 0, 2, 3).reshape(array.shape[1], -1)
    return float((channels.mean(1) ** 2).mean()), float(channels.var(1).mean())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cifar_resnet8", {}),
        ("cifar_nf_resnet14", {"skip_gain": 0.7}),
        ("cifar_nf_resnet14", {"skip_gain": None, "fold": False}),
        ("cifar_nf_resnet14", {"skip_gain": 0.7, "standardize": False}),
        ("cifar_nf_resnet20b", {"skip_gain": 0.7}),
        ("bn_cifar_nf_resnet14", {}),
        ("bn_cifar_nf_resnet14", {"order": "relu-bn"}),
        ("plain_cifar_nf_resnet14", {}),
        ("cifar_nfnet_f0", {"stochastic_depth": 0.0}),
        ("cifar_nfnet_f0", {"stochastic_depth": 0.0, "fold": True}),
    ],
)
def test_statistics_against_blocks_run_one_by_one(name: str, options: dict[str, object]) -> None:
    model = _small(name, **options)
    gains = [p for n, p in model.named_parameters() if n.endswith("skip_gain")]
    with torch.no_grad():
        for gain in gains:
            gain.fill_(0.7)
    rows = signal_propagation(model, _images())
    compared = 0
    with torch.no_grad():
        for row, (block, x, y) in zip(rows, _walk(model, _images()), strict=True):
            squared_mean, variance = _numpy(y)
            assert row["squared_mean"] == pytest.approx(squared_mean, rel=1e-4)
            assert row["variance"] == pytest.approx(variance, rel=1e-4)
            # The branch is what the block adds, without the scalars in front of it.
            if isinstance(block, BasicBlock):
                relu = F.relu
                branch = block.bn2(block.conv2(relu(block.bn1(block.conv1(x)))))
                torch.testing.assert_close(relu(branch + block.shortcut(x)), y)
            elif block.shortcut is None:
                branch = (y - x) / (block.alpha * (0.7 if gains else 1.0))
            else:
                continue
            compared += 1
            assert row["branch_variance"] == pytest.approx(_numpy(branch)[1], rel=1e-3)
    assert compared >= 3


def test_branch_variance_is_known_behind_batchnorm() -> None:
    """γ = 1 makes every channel's batch variance 1, in training mode only."""
    model = _small("cifar_resnet8", batchnorm_init="oneone")
    for row in signal_propagation(model, _images()):
        assert row["branch_variance"] == pytest.approx(1, abs=1e-3)
    with torch.no_grad():
        model.conv.weight.mul_(3)  # no running statistics fit any more
    for row in signal_propagation(model.eval(), _images()):
        assert abs(row["branch_variance"] - 1) > 0.1


def test_constant_and_linear_signals() -> None:
    """A block of zero weights passes its input on; its branch is its last bias."""
    model = _small("plain_cifar_nf_resnet8")
    assert isinstance(model, NFResNet)
    block = model.blocks[0]
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        block.branch.conv2.bias[:] = torch.arange(16.0)
        stem = model.stem(_images())
    row = signal_propagation(model, _images())[0]
    shifted = _numpy(stem + torch.arange(16.0).view(1, -1, 1, 1))
    assert (row["squared_mean"], row["variance"]) == pytest.approx(shifted, rel=1e-4)
    assert row["branch_variance"] == 0
    assert row["variance"] == pytest.approx(_numpy(stem)[1], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("cifar_resnet14", [1, 1, 2, 2, 3, 3]),
        ("cifar_nf_resnet14", [1, 1, 2, 2, 3, 3]),
        ("cifar_nf_resnet20b", [1, 1, 2, 2, 3, 3]),  # a projection in the first stage, too
        ("cifar_nfnet_f0", [1, 2, 2, *[3] * 6, 4, 4, 4]),
    ],
)
def test_stages(name: str, stages: list[int]) -> None:
    rows = signal_propagation(_small(name), _images(2))
    assert [row["stage"] for row in rows] == stages
    assert [row["block"] for row in rows] == [*range(1, len(stages) + 1)]


def test_expected_variance_is_the_next_blocks_beta_squared() -> None:
    for name, depths in (("nfnet_f0", (1, 2, 6, 3)), ("nf_resnet50", (3, 4, 6, 3))):
        with torch.device("meta"):
            blocks = models.create(name).blocks
        stds = [std for stage in expected_stds(depths) for std in stage]
        found = [block.expected_variance for block in blocks]
        assert found[:-1] == pytest.approx([std**2 for std in stds[1:]])
        assert found[-1] == pytest.approx(1.12)
    for name, options in (
        ("bn_cifar_nf_resnet8", {}),
        ("plain_cifar_nf_resnet8", {}),
        ("cifar_nf_resnet8", {"standardize": False}),
        ("cifar_resnet8", {}),
    ):
        rows = signal_propagation(models.create(name, **options), _images(2))
        assert {row["expected_variance"] for row in rows} == {None}


def test_signal_follows_the_rule_and_skipinit_silences_it() -> None:
    def rows(skip_gain: float | None) -> list[probes.BlockSignal]:
        torch.manual_seed(0)
        model = NFResNet(
            (4, 4),
            (256, 256),
            10,
            stem_channels=256,
            images="cifar",
            alpha=1.0,
            skip_gain=skip_gain,
            padding_mode="circular",
        )
        return signal_propagation(model, torch.randn(16, 3, 12, 12))

    for row in rows(None):
        assert row["variance"] == pytest.approx(row["expected_variance"], rel=0.1)
    for row in rows(0.0)[:4]:  # nothing is added, but the branch still divides by β² = 1, 2, 3, 4
        assert row["variance"] == pytest.approx(1, rel=0.1)
        assert row["branch_variance"] == pytest.approx(1 / row["block"], rel=0.15)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("probe", [signal_propagation, mean_shift])
@pytest.mark.parametrize("name", ["cifar_resnet8", "bn_cifar_nf_resnet8", "cifar_nfnet_f0"])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_changed(probe: Probe, name: str, fails: bool) -> None:
    model = _small(name).train()
    if name == "cifar_nfnet_f0":  # uses random numbers
        assert any(isinstance(m, StochasticDepth) and m.rate for m in model.modules())
    misfit = nn.Linear(3, 10)
    state, generator = _state(model), torch.get_rng_state()
    if fails:
        head, model.fc = model.fc, misfit  # the error comes at the end of the pass
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            probe(model, _images())
        model.fc = head
    else:
        probe(model, _images())
    assert model.training
    assert torch.equal(torch.get_rng_state(), generator)
    for (key, before), after in zip(state.items(), model.state_dict().values(), strict=True):
        assert torch.equal(before, after), key
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(p.grad is None for p in model.parameters())


def test_autocast_does_not_reach_the_measurement() -> None:
    model = _small("bn_cifar_nf_resnet8")
    expected = signal_propagation(model, _images())
    with torch.autocast("cpu", torch.bfloat16):
        assert signal_propagation(model, _images()) == expected


def test_mean_shift_against_all_pairs() -> None:
    model = _small("bn_cifar_nf_resnet14")
    found = mean_shift(model, _images())
    rows = signal_propagation(model, _images())
    assert found["ratio"] == pytest.approx([r["squared_mean"] / r["variance"] for r in rows])

    def cosine(y: Tensor) -> float:
        flat = y.flatten(1).double().numpy()
        pairs = [(i, j) for i in range(len(flat)) for j in range(i)]
        norm = np.linalg.norm
        return float(np.mean([flat[i] @ flat[j] / norm(flat[i]) / norm(flat[j]) for i, j in pairs]))

    with torch.no_grad():
        outputs = [y for _, _, y in _walk(model, _images())]
        pooled = model.act(outputs[-1]).mean(dim=(2, 3))
        labels = model(_images()).argmax(dim=1).tolist()
    assert found["cosine"] == pytest.approx([cosine(y) for y in outputs], abs=1e-5)
    assert found["pooled_cosine"] == pytest.approx(cosine(pooled), abs=1e-5)
    assert found["common_label"] == max(labels.count(label) for label in labels) / 6


def test_mean_shift_of_equal_images() -> None:
    model = _small("cifar_nf_resnet8")
    found = mean_shift(model, _images(1).expand(5, -1, -1, -1))
    assert found["cosine"] == pytest.approx([1, 1, 1])
    assert found["pooled_cosine"] == pytest.approx(1)
    assert found["common_label"] == 1
    with pytest.raises(ValueError, match="1 image; expected at least two"):
        mean_shift(model, _images(1))


def test_clip_fraction_names_the_part() -> None:
    model = _small("cifar_nfnet_f0", dropout=0.0)
    F.cross_entropy(model(_images()), torch.arange(6)).mul(100).backward()
    clipped = agc.clip_grads_(model.named_parameters(), exclude=["fc.weight"])
    rows = clip_fraction(model, clipped)
    assert [row["name"] for row in rows] == list(clipped)
    assert all(row["share"] == pytest.approx(float(clipped[row["name"]])) for row in rows)
    parts = {row["name"]: row["part"] for row in rows}
    assert parts["stem.conv1.weight"] == "stem"
    assert parts["blocks.0.shortcut.weight"] == "stage 1"
    assert parts["blocks.1.skip_gain"] == parts["blocks.2.branch.se.fc1.bias"] == "stage 2"
    assert parts["blocks.11.branch.conv1.gain"] == "stage 4"
    assert parts["final_conv.weight"] == "head"
    assert parts["fc.bias"] == "fc"
    assert "fc.weight" not in parts


def test_clip_fraction_takes_any_mapping_and_knows_the_names() -> None:
    model = _small("cifar_resnet8")
    shares = {"conv.weight": torch.tensor(0.25), "blocks.2.bn1.bias": torch.tensor(1.0)}
    assert clip_fraction(model, shares) == [
        {"name": "conv.weight", "part": "stem", "share": 0.25},
        {"name": "blocks.2.bn1.bias", "part": "stage 3", "share": 1.0},
    ]
    assert clip_fraction(model, {}) == []
    with pytest.raises(ValueError, match=r"'conv\.weigth'; did you mean 'conv\.weight'"):
        clip_fraction(model, {"conv.weigth": torch.tensor(0.0)})


@pytest.mark.parametrize("probe", [signal_propagation, mean_shift])
def test_a_network_without_residual_blocks(probe: Probe) -> None:
    with pytest.raises(ValueError, match="Linear has no residual block"):
        probe(nn.Linear(3, 2), _images())
