import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nbrepro.optim import EMA, LARS, parameter_groups, sam
from nbrepro.optim.ema import ema_decay


class Net(nn.Module):
    """One of everything that the weight decay distinguishes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.gain = nn.Parameter(torch.ones(6, 1, 1, 1))
        self.bn = nn.BatchNorm2d(6)
        self.skip = nn.Parameter(torch.tensor(0.5))
        self.hidden = nn.Linear(6, 4)
        self.again = nn.Linear(6, 4, bias=False)
        self.again.weight = self.hidden.weight
        self.fc = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        h = self.skip * self.bn(self.conv(images) * self.gain.squeeze(-1)).relu()
        h = self.hidden(h.mean((2, 3))) + self.again(h.amax((2, 3)))
        out: Tensor = self.fc(h)
        return out


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def batch(size: int = 10, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, 6, 6, generator=generator)
    return images, torch.randint(3, (size,), generator=generator)


def loss_of(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda images, labels: F.cross_entropy(model(images), labels)


def names(model: nn.Module, group: dict[str, list[Tensor]]) -> set[str]:
    known: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    return {known[parameter] for parameter in group["params"]}


# Weight decay


def test_weights_are_decayed_and_gains_and_biases_are_not() -> None:
    model = net()
    model.fc.weight.requires_grad_(False)
    decayed, exempt = parameter_groups(model, 1e-4)
    assert names(model, decayed) == {"conv.weight", "hidden.weight"}
    assert names(model, exempt) == {
        *("conv.bias", "gain", "bn.weight", "bn.bias", "skip", "hidden.bias", "fc.bias")
    }
    assert decayed["weight_decay"] == 1e-4
    assert exempt["weight_decay"] == 0
    assert len(decayed["params"]) == 2  # the shared weight once


def test_groups_are_never_empty() -> None:
    model = net().requires_grad_(False)
    with pytest.raises(ValueError, match="unfreeze"):
        parameter_groups(model, 1e-4)
    model.bn.requires_grad_(True)
    (only,) = parameter_groups(model, 1e-4)
    assert names(model, only) == {"bn.weight", "bn.bias"}
    assert only["weight_decay"] == 0


def test_groups_of_an_nfnet_are_the_authors() -> None:
    """Their rule goes by name; timm's own would decay the gains."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model("dm_nfnet_f0")
    decayed, exempt = parameter_groups(model, 2e-5)
    by_name = {
        name for name, _ in model.named_parameters() if "gain" in name or name.endswith("bias")
    }
    assert names(model, exempt) == by_name
    assert len(decayed["params"]) + len(exempt["params"]) == len(list(model.parameters()))


# Averaged weights


def test_the_decay_rises_to_its_bound() -> None:
    for step, expected in ((0, 0.1), (1000, 0.99109), (10_000, 0.99910), (112_600, 0.99992)):
        assert ema_decay(step) == pytest.approx(expected, abs=5e-6)
        assert float(ema_decay(torch.tensor(step))) == pytest.approx(expected, abs=5e-6)
    assert ema_decay(899_980) < 0.99999
    assert ema_decay(900_000) == 0.99999
    assert ema_decay(10**7, 0.5) == 0.5


def drift(model: nn.Module, step: int) -> None:
    """What an optimizer and a forward pass would do."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    model(torch.randn(4, 3, 6, 6, generator=generator))


@pytest.mark.parametrize("on_device", [False, True])
def test_the_average_is_the_loop(on_device: bool) -> None:
    model = net()
    expected = {name: t.double() for name, t in model.state_dict().items()}
    ema = EMA(model, decay=0.3)
    for step in range(6):
        drift(model, step)
        ema.update(torch.tensor(step) if on_device else step)
        decay = min(0.3, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
    for name, tensor in ema.state_dict().items():
        if name == "bn.num_batches_tracked":
            assert tensor == 6
        else:
            torch.testing.assert_close(tensor, expected[name].float())
    assert "bn.running_mean" in ema.state_dict()


def test_late_steps_on_the_device_keep_their_digits() -> None:
    model = nn.Linear(1, 1, bias=False)
    averages = []
    for step in (800_000, torch.tensor(800_000)):
        nn.init.zeros_(model.weight)
        ema = EMA(model)
        nn.init.ones_(model.weight)
        ema.update(step)
        averages.append(ema.state_dict()["weight"].item())
    assert averages[0] == pytest.approx(9 / 800_010, rel=1e-6)
    assert averages[1] == pytest.approx(averages[0], rel=1e-6)


def test_past_the_rise_the_average_is_that_of_torch() -> None:
    model = net()
    reference = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    reference.update_parameters(model)  # the first call copies
    ema = EMA(model, decay=0.8)
    for step in range(100, 105):
        drift(model, step)
        ema.update(step)
        reference.update_parameters(model)
    state = reference.module.state_dict()
    for name, tensor in ema.state_dict().items():
        if tensor.is_floating_point():  # torch also averages counters
            torch.testing.assert_close(tensor, state[name])


def test_the_average_is_lent_to_the_model() -> None:
    model = net()
    ema = EMA(model)
    drift(model, 0)
    own = copy.deepcopy(model.state_dict())
    places = [tensor.data_ptr() for tensor in model.state_dict().values()]

    def evaluate() -> None:
        with ema.applied():
            assert not torch.equal(model.conv.weight, own["conv.weight"])
            for name, tensor in ema.state_dict().items():
                assert torch.equal(model.state_dict()[name], tensor)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        evaluate()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, own[name])
    # a captured graph goes on reading the same memory
    assert places == [tensor.data_ptr() for tensor in model.state_dict().values()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_average_of_a_half_precision_model_moves(dtype: torch.dtype) -> None:
    """A change of 1e-5 of the difference is far below what half precision can add to 1."""
    model = nn.Linear(4, 2).to(dtype)
    nn.init.ones_(model.weight)
    ema = EMA(model, decay=0.999)
    nn.init.constant_(model.weight, 2.0)
    for step in range(10**5, 10**5 + 10):
        ema.update(step)
    average = ema.state_dict()["weight"]
    assert average.dtype == torch.float32
    torch.testing.assert_close(average, torch.full_like(average, 2 - 0.999**10))
    with ema.applied():
        assert torch.equal(model.weight, average.to(dtype))
    assert torch.equal(model.weight, torch.full_like(model.weight, 2.0))
    assert model.weight.dtype == dtype
    ema.load_state_dict({name: t.to(dtype) for name, t in ema.state_dict().items()})  # an old one
    assert ema.state_dict()["weight"].dtype == torch.float32


def test_frozen_parameters_are_left_out() -> None:
    model = net()
    model.conv.requires_grad_(False)
    assert {"conv.weight", "conv.bias"}.isdisjoint(EMA(model).state_dict())


def test_the_average_survives_a_checkpoint() -> None:
    first, second = net(), net(1)
    one, two = EMA(first), EMA(second)
    drift(first, 0)
    one.update(0)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    second.load_state_dict(first.state_dict())
    for model, ema in ((first, one), (second, two)):
        drift(model, 1)
        ema.update(1)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name])
    with pytest.raises(ValueError, match="another model"):
        two.load_state_dict(EMA(nn.Linear(2, 2)).state_dict())


class Masked(nn.Module):
    """A layer beside buffers that are no running statistics."""

    mask: Tensor
    scratch: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.bn = nn.BatchNorm1d(3)
        self.register_buffer("mask", torch.triu(torch.full((3, 3), -math.inf), 1))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def test_a_mask_is_copied_and_no_average() -> None:
    model = Masked()
    mask = model.mask.clone()
    ema = EMA(model)
    ema.update(0)
    assert torch.equal(ema.state_dict()["mask"], mask)
    model.mask.mul_(2).add_(1)
    model.bn.running_mean.fill_(1)
    ema.update(0)
    assert torch.equal(ema.state_dict()["mask"], mask + 1)
    assert ema.state_dict()["bn.running_mean"].tolist() == pytest.approx([0.9] * 3)
    with ema.applied():
        assert torch.equal(model.mask, mask + 1)


def test_the_average_follows_buffers_that_others_take_the_place_of() -> None:
    model = nn.BatchNorm1d(2)
    ema = EMA(model, decay=0.5)
    model.double()
    model.running_mean = torch.ones(2, dtype=torch.float64)
    ema.update(100)
    assert ema.state_dict()["running_mean"].tolist() == [0.5, 0.5]
    with ema.applied():
        assert model.running_mean.tolist() == [0.5, 0.5]
        model.float()
    assert model.running_mean.tolist() == [1, 1]


def test_the_averaged_model_is_exported_through_the_model() -> None:
    model, other = net(), net(1)
    model.conv.requires_grad_(False)
    ema = EMA(model)
    drift(model, 0)
    with ema.applied():
        other.load_state_dict(model.state_dict())
    for name, tensor in ema.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    assert torch.equal(other.conv.weight, model.conv.weight)
    assert torch.equal(other.again.weight, ema.state_dict()["hidden.weight"])


def test_what_is_not_saved_with_the_model_is_left_out() -> None:
    model = Masked()
    ema = EMA(model)
    model.load_state_dict(ema.state_dict())
    model.scratch.fill_(1)
    with ema.applied():
        assert model.scratch.tolist() == [1, 1]


def test_an_average_of_other_shapes_is_refused_before_anything_is_copied() -> None:
    ema, other = EMA(nn.Linear(4, 3)), EMA(nn.Linear(4, 1))
    before = copy.deepcopy(ema.state_dict())
    with pytest.raises(ValueError, match=r"weight has shape \(1, 4\), expected \(3, 4\)"):
        ema.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match=r"bias has shape \(1,\), expected \(3,\)"):
        ema.load_state_dict({"weight": torch.zeros(3, 4), "bias": torch.zeros(1)})
    for name, tensor in ema.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_decay_is_a_number_from_0_to_1() -> None:
    for decay in (math.nan, -1, 1.5, math.inf):
        with pytest.raises(ValueError, match=f"decay is {decay}; expected a number from 0 to 1"):
            EMA(nn.Linear(1, 1), decay)
    for odd in ("0.9", None):
        with pytest.raises(TypeError, match=f"decay is {odd!r}; expected a number"):
            EMA(nn.Linear(1, 1), odd)  # type: ignore[arg-type]
    EMA(nn.Linear(1, 1), 0), EMA(nn.Linear(1, 1), 1)


# The loss


def test_torch_smooths_soft_targets_as_the_authors_do() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 5, generator=generator)
    targets = torch.rand(8, 5, generator=generator).softmax(1)
    smooth = 0.9 * targets + 0.1 / 5
    expected = -(smooth * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(F.cross_entropy(logits, targets, label_smoothing=0.1), expected)


# Sharpness-aware minimisation


class Bowl(nn.Module):
    """Half the weighted sum of squared weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, curvature: Tensor) -> Tensor:
        out: Tensor = (curvature * self.weight**2).sum(1).mean() / 2
        return out


def test_sam_on_a_quadratic() -> None:
    """Gradient (3, 4) at (1, 2); a step of 0.05 along (0.6, 0.8) leads to (1.03, 2.04)."""
    model = Bowl()
    curvature = torch.tensor([[3.0, 2.0]])
    loss = sam.sam_gradient(model, model, [curvature])
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == pytest.approx([3.09, 4.08])
    assert loss.item() == pytest.approx((3 * 1.03**2 + 2 * 2.04**2) / 2)
    assert not loss.requires_grad
    assert model.weight.tolist() == [1.0, 2.0]


def test_sam_ascends_from_a_share_and_descends_from_all() -> None:
    """Only the first of five examples curves along the first weight."""
    curvature = torch.tensor([[5.0, 0.0], *[[0.0, 5.0]] * 4])
    gradients = {}
    other = torch.tensor([[0.0, 1.0]])
    for name, options in (
        ("subset", {"share": 0.2}),
        ("full", {"share": 1.0}),
        ("other", {"other": [other]}),
    ):
        model = Bowl()
        sam.sam_gradient(model, model, [curvature], rho=1.0, **options)
        assert model.weight.grad is not None
        gradients[name] = model.weight.grad.tolist()
    # the whole batch's gradient is (w1, 4 w2) wherever the weights are held
    length = (1 + 64) ** 0.5
    assert gradients["subset"] == pytest.approx([2, 8])
    assert gradients["full"] == pytest.approx([1 + 1 / length, 4 * (2 + 8 / length)])
    assert gradients["other"] == pytest.approx([1, 12])


def test_a_share_reaches_into_both_halves() -> None:
    (chosen,) = sam.subset([torch.arange(20)], 0.2)
    assert chosen.tolist() == [0, 5, 10, 15]
    assert sam.subset([torch.arange(4)], 0.01)[0].tolist() == [0]
    images, labels = batch(7)
    everything = sam.subset([images, labels], 1)
    assert torch.equal(everything[0], images)
    assert torch.equal(everything[1], labels)
    for share in (0, -0.2, 1.5):
        with pytest.raises(ValueError, match="share is"):
            sam.subset([images], share)


def test_weights_come_back_bit_for_bit() -> None:
    model = net()
    model.fc.requires_grad_(False)
    own = copy.deepcopy(model.state_dict())
    sam.sam_gradient(model, loss_of(model), batch(), rho=0.7)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, own[name])
        assert (parameter.grad is None) == name.startswith("fc.")

    def fail() -> None:
        with sam.ascended(model, loss_of(model), batch(), rho=0.7):
            assert not torch.equal(model.conv.weight, own["conv.weight"])
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, own[name])


def test_the_step_has_its_length_over_all_parameters() -> None:
    model = net()
    own = [parameter.detach().clone() for parameter in model.parameters()]
    with sam.ascended(model, loss_of(model), batch(), rho=0.3), torch.no_grad():
        moved = torch.cat([(p - o).flatten() for p, o in zip(model.parameters(), own, strict=True)])
        assert moved.norm().item() == pytest.approx(0.3, rel=1e-4)


def test_the_ascent_leaves_running_statistics_alone() -> None:
    """They end as if only the descent's forward pass had been."""
    model, twin = net(), net()
    images, labels = batch()
    with sam.ascended(model, loss_of(model), sam.subset([images, labels], 0.5)):
        assert model.bn.num_batches_tracked == 0
        assert torch.equal(model.bn.running_mean, torch.zeros(6))
        twin.load_state_dict(model.state_dict())
        model(images)
        twin(images)
    assert model.bn.num_batches_tracked == 1
    assert torch.equal(model.bn.running_mean, twin.bn.running_mean)
    assert torch.equal(model.bn.running_var, twin.bn.running_var)
    assert model.bn.track_running_stats


def test_at_a_flat_point_sam_stays() -> None:
    model = Bowl()
    sam.sam_gradient(model, model, [torch.zeros(3, 2)])
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == [0, 0]


def test_sam_leaves_unused_parameters_where_they_are() -> None:
    model, alone = Bowl(), Bowl()
    model.unused = nn.Parameter(torch.ones(3))
    curvature = torch.tensor([[3.0, 2.0]])
    for each in (model, alone):
        sam.sam_gradient(each, each, [curvature])
    assert model.unused.grad is None
    assert torch.equal(model.unused, torch.ones(3))
    assert torch.equal(model.weight.grad, alone.weight.grad)


def test_sam_says_what_it_cannot_ascend() -> None:
    model, other = Bowl(), torch.ones(1, requires_grad=True)
    for rho in (-0.05, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"rho is {rho}; expected a finite number of at least"):
            sam.sam_gradient(model, model, [torch.ones(1, 2)], rho=rho)
    assert model.weight.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="depends on none of the model's trainable parameters"):
        sam.sam_gradient(model, lambda _: other.sum(), [torch.ones(1, 2)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_step_of_half_precision_has_its_length(dtype: torch.dtype) -> None:
    """The gradient's norm, 300 · 512, is more than float16 can hold."""
    model = nn.Linear(512, 512, bias=False).to(dtype)
    nn.init.zeros_(model.weight)

    def loss(slopes: Tensor) -> Tensor:
        return (model.weight * slopes).sum(dtype=torch.float32)

    with sam.ascended(model, loss, [torch.full((512,), 300, dtype=dtype)], rho=5), torch.no_grad():
        torch.testing.assert_close(model.weight, torch.full_like(model.weight, 5 / 512))
    assert not model.weight.any()


def test_a_gradient_that_is_too_long_for_its_type_is_not_taken_for_zero() -> None:
    model = Bowl()
    with sam.ascended(model, lambda x: 1e30 * model(x), [torch.ones(1, 2)]):
        assert model.weight.isnan().all()
    assert model.weight.tolist() == [1.0, 2.0]


# LARS


def gradients_for(model: nn.Module, step: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("scalars", [1.0, 0.25])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_lars_is_the_formula(as_tensor: bool, scalars: float) -> None:
    model = net()
    with torch.no_grad():
        model.hidden.weight.zero_()
    weights = {name: p.detach().double() for name, p in model.named_parameters()}
    velocity = {name: torch.zeros_like(w) for name, w in weights.items()}
    rate: float | Tensor = torch.tensor(0.0) if as_tensor else 0.0
    groups = parameter_groups(model, 0.01)
    exempt = names(model, groups[1])
    optimizer = LARS(groups, rate, momentum=0.8, trust=0.02, scalars=scalars)
    for step, lr in enumerate((1.0, 3.0, 0.5)):
        gradients_for(model, step)
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(lr) if as_tensor else lr
        optimizer.step()
        for name, parameter in model.named_parameters():
            w, g = weights[name], parameter.grad.double()
            decay = 0 if name in exempt else 0.01
            ratio = scalars
            if name not in exempt and w.norm() > 0:
                ratio = float(0.02 * w.norm() / (g.norm() + decay * w.norm()))
            velocity[name] = 0.8 * velocity[name] + lr * ratio * (g + decay * w)
            weights[name] = w - velocity[name]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.double(), weights[name], atol=1e-5, rtol=1e-5)


def test_at_a_constant_rate_lars_is_that_of_timm() -> None:
    pytest.importorskip("timm")
    from timm.optim import Lars

    models = net(), net()
    ours = LARS(parameter_groups(models[0], 0.01), 2.0, momentum=0.9, trust=0.01)
    theirs = Lars(parameter_groups(models[1], 0.01), 2.0, momentum=0.9, trust_coeff=0.01)
    for step in range(4):
        for model, optimizer in zip(models, (ours, theirs), strict=True):
            gradients_for(model, step)
            optimizer.step()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_lars_names_a_number_that_is_out_of_range() -> None:
    weight = torch.ones(2, 2, requires_grad=True)
    for option, value, expected in (
        ("lr", -1, "at least 0"),
        ("lr", float("nan"), "at least 0"),
        ("momentum", 2, "at least 0 and below 1"),
        ("momentum", -0.1, "at least 0 and below 1"),
        ("weight_decay", -1e-4, "at least 0"),
        ("trust", -0.001, "at least 0"),
        ("scalars", -1.0, "at least 0"),
    ):
        with pytest.raises(ValueError, match=f"{option} is {value}; expected .*{expected}$"):
            LARS([weight], **{"lr": 1.0, option: value})
    with pytest.raises(TypeError, match=r"lr is '0\.1'; expected a number"):
        LARS([weight], "0.1")  # type: ignore[arg-type]


def test_lars_refuses_sparse_gradients_before_anything_moves() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    linear = nn.Linear(2, 1)
    optimizer = LARS([*linear.parameters(), *table.parameters()], 1.0)
    before = linear.weight.detach().clone()
    linear(table(torch.tensor([1, 2]))).sum().backward()
    with pytest.raises(TypeError, match=r"of shape \(5, 2\) is sparse; LARS expects dense ones"):
        optimizer.step()
    assert torch.equal(linear.weight, before)


def test_lars_takes_a_closure() -> None:
    weight = torch.ones(2, 2, requires_grad=True)
    optimizer = LARS([weight], 1.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 4
    assert (weight < 1).all()


def test_lars_ignores_the_size_of_a_gradient() -> None:
    models = net(), net()
    for model, scale in zip(models, (1.0, 1000.0), strict=True):
        gradients_for(model, 0, scale)
        LARS(model.parameters(), 1.0).step()
    torch.testing.assert_close(models[0].conv.weight, models[1].conv.weight)
    assert not torch.allclose(models[0].conv.bias, models[1].conv.bias)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lars_moves_half_precision_as_far_as_float32(dtype: torch.dtype) -> None:
    """The gradient's norm, 300 · 512, is more than float16 can hold."""
    weights = [torch.ones(512, 512, dtype=t, requires_grad=True) for t in (dtype, torch.float32)]
    for weight in weights:
        weight.grad = torch.full_like(weight, 300)
        LARS([weight], 10.0, trust=0.002).step()
        weight.grad.fill_(6e4)
        LARS([weight], 10.0, trust=0.002).step()
    assert (weights[1] < 0.97).all()
    torch.testing.assert_close(weights[0].float(), weights[1], rtol=2**-7, atol=0)


def test_lars_shows_a_norm_that_is_too_large_for_its_type() -> None:
    for size, slope in ((1.0, 1e30), (1e30, 1.0), (1.0, math.inf), (1.0, math.nan)):
        weight = torch.full((4, 4), size, requires_grad=True)
        weight.grad = torch.full_like(weight, slope)
        LARS([weight], 1.0).step()
        assert weight.isnan().all()


def test_lars_takes_types_side_by_side() -> None:
    weights = [torch.ones(2, 2, dtype=t, requires_grad=True) for t in (torch.float16, torch.double)]
    for weight in weights:
        weight.grad = torch.full_like(weight, 3)
    LARS(weights, 1.0, trust=0.5).step()
    for weight in weights:
        assert weight.flatten().tolist() == pytest.approx([0.5] * 4)


def test_lars_skips_what_has_no_gradient_and_resumes() -> None:
    model = net()
    optimizer = LARS(parameter_groups(model, 0.01), 0.5)
    gradients_for(model, 0)
    model.fc.weight.grad = None
    before = model.fc.weight.detach().clone()
    optimizer.step()
    assert torch.equal(model.fc.weight, before)
    twin = copy.deepcopy(model)
    resumed = LARS(parameter_groups(twin, 0.01), 0.5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for other, step in ((model, optimizer), (twin, resumed)):
        gradients_for(other, 1)
        step.step()
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)


# What the training loop relies on


def test_nothing_waits_for_the_device() -> None:
    """Tensors without data: reading one back would raise."""
    model = net().to("meta")
    images, labels = (tensor.to("meta") for tensor in batch())
    ema = EMA(model)
    optimizer = LARS(parameter_groups(model, 1e-4), torch.empty((), device="meta"))
    sam.sam_gradient(model, loss_of(model), [images, labels])
    optimizer.step()
    ema.update(torch.empty((), dtype=torch.int64, device="meta"))
    with ema.applied():
        model(images)
