"""AGC attached to an optimizer: in every kind of loop the same weights as by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro import agc

EXCLUDE = ["2.weight"]
STEPS = 4


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(16, 6, generator=generator), torch.randint(3, (16,), generator=generator)


def loss_of(model: nn.Module, number: int) -> Tensor:
    images, labels = batch(number)
    return F.cross_entropy(model(images), labels)


def closure_of(model: nn.Module, number: int) -> Callable[[], Any]:
    def closure() -> Tensor:
        model.zero_grad()
        loss = loss_of(model, number)
        loss.backward()
        return loss

    return closure


def adamw(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01, **options)


def by_hand(passes: int = 1) -> nn.Module:
    model = net()
    optimizer = adamw(model)
    for number in range(STEPS):
        optimizer.zero_grad()
        for part in range(passes):
            (loss_of(model, passes * number + part) / passes).backward()
        clipped = agc.clip_grads_(model.named_parameters(), exclude=EXCLUDE)
        assert 0 < agc.share(clipped) <= 1
        optimizer.step()
    return model


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def attached(model: nn.Module, **options: Any) -> tuple[torch.optim.Optimizer, agc.Attached]:
    optimizer = adamw(model, **options)
    return optimizer, agc.attach(optimizer, model.named_parameters(), exclude=EXCLUDE)


def plain(optimizer: torch.optim.Optimizer, closure: Callable[[], Any]) -> None:
    closure()
    optimizer.step()


STYLES: dict[str, Callable[[torch.optim.Optimizer, Callable[[], Any]], object]] = {
    "no closure": plain,
    "closure": lambda optimizer, closure: optimizer.step(closure),
    "closure by name": lambda optimizer, closure: optimizer.step(closure=closure),
}


@pytest.mark.parametrize("style", STYLES)
def test_every_way_to_step_clips_the_gradients_of_this_step(style: str) -> None:
    model = net()
    optimizer, handle = attached(model)
    assert not handle.clipped
    for number in range(STEPS):
        STYLES[style](optimizer, closure_of(model, number))
        assert list(handle.clipped) == ["0.weight", "0.bias", "2.bias"]
    assert same(model, by_hand())


def test_a_hook_that_clips_when_the_step_begins_would_not_do() -> None:
    """The trap that attach() is for: under a closure the gradients come later."""
    ends = []
    for hooked in (True, False):
        model = net()
        optimizer = adamw(model)

        def hook(*_: Any, model: nn.Module = model) -> None:
            agc.clip_grads_(model.named_parameters(), exclude=EXCLUDE)

        if hooked:
            optimizer.register_step_pre_hook(hook)
        for number in range(STEPS):
            optimizer.step(closure_of(model, number))
        ends.append(model)
    assert same(*ends)
    assert not same(ends[0], by_hand())


def test_accumulated_gradients_are_clipped_once_whole() -> None:
    model = net()
    optimizer, _ = attached(model)
    for number in range(STEPS):
        optimizer.zero_grad()
        for part in range(2):
            (loss_of(model, 2 * number + part) / 2).backward()
        optimizer.step()
    assert same(model, by_hand(passes=2))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscaled", [False, True])
def test_a_loss_scaler_unscales_first_or_is_told_to(fused: bool, unscaled: bool) -> None:
    model = net()
    optimizer, handle = attached(model, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    for number in range(STEPS):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, number)).backward()
        if unscaled:
            scaler.unscale_(optimizer)
        if fused and not unscaled:
            with pytest.raises(RuntimeError, match=r"call scaler.unscale_\(optimizer\) before"):
                scaler.step(optimizer)
            assert same(model, net())
            return
        scaler.step(optimizer)
        scaler.update()
    for a, b in zip(model.parameters(), by_hand().parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6 if fused else 0, atol=1e-8 if fused else 0)
    assert handle.clipped


def test_who_forgot_to_unscale_can_go_on_with_the_same_optimizer() -> None:
    model, other = net(), net()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    (optimizer, _), (fresh, _) = attached(model, fused=True), attached(other, fused=True)
    scaler.scale(loss_of(model, 0)).backward()
    with pytest.raises(RuntimeError, match=r"call scaler.unscale_\(optimizer\) before"):
        scaler.step(optimizer)
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    loss_of(other, 0).backward()
    fresh.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
    assert not same(model, net())


def test_a_step_that_the_scaler_leaves_out_is_left_out() -> None:
    model = net()
    optimizer, handle = attached(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(loss_of(model, 0)).backward()
    next(model.parameters()).grad[0] = torch.inf
    scaler.step(optimizer)
    assert same(model, net())
    assert not handle.clipped


def test_with_accelerate_it_is_attached_before_prepare() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    raw = net()
    bare, handle = attached(raw)
    model, optimizer = accelerator.prepare(raw, bare)
    for number in range(2 * STEPS):
        with accelerator.accumulate(model):
            accelerator.backward(loss_of(model, number))
            optimizer.step()
            assert bool(handle.clipped) == (number > 0)
            optimizer.zero_grad()
    assert same(raw, by_hand(passes=2))
    with pytest.raises(TypeError, match="AcceleratedOptimizer takes no hooks; attach to the opti"):
        agc.attach(optimizer, model.named_parameters())


def test_with_a_compiled_model_and_a_schedule() -> None:
    raw = net()
    optimizer, _ = attached(raw)
    model: Any = torch.compile(raw, backend="eager")
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    for number in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, number).backward()
        optimizer.step()
        schedule.step()
    assert same(raw, by_hand())


def test_removed_it_clips_no_more() -> None:
    free, model = net(), net()
    optimizer, handle = attached(model)
    handle.remove()
    for each, stepper in ((free, adamw(free)), (model, optimizer)):
        loss_of(each, 0).backward()
        stepper.step()
    assert same(free, model)
    assert not handle.clipped


def test_what_is_wrong_is_said_at_once() -> None:
    model = net()
    optimizer = adamw(model)
    named = model.named_parameters
    with pytest.raises(ValueError, match="has none of these parameters; give those of the model"):
        agc.attach(optimizer, net().named_parameters())
    with pytest.raises(ValueError, match=r"matches no name; nearest: 2\.weight"):
        agc.attach(optimizer, named(), exclude=["2"])
    with pytest.raises(ValueError, match="unknown rule for units 'offical'; did you mean"):
        agc.attach(optimizer, named(), units="offical")
    with pytest.raises(ValueError, match="clipping is 0"):
        agc.attach(optimizer, named(), clipping=0)
    with pytest.raises(TypeError, match=r"\(name, parameter\) pairs"):
        agc.attach(optimizer, model.parameters())  # type: ignore[arg-type]


def test_only_what_the_optimizer_trains_is_clipped() -> None:
    """Two networks that are trained in turn: a step of one leaves gradients of the other alone."""
    both = nn.ModuleDict({"G": net(), "D": net()})
    optimizer = adamw(both["G"])
    handle = agc.attach(optimizer, both.named_parameters())
    for model in both.values():
        loss_of(model, 0).backward()
    before = [p.grad.clone() for p in both["D"].parameters()]
    optimizer.step()
    assert all(map(torch.equal, before, (p.grad for p in both["D"].parameters())))
    assert set(handle.clipped) == {f"G.{name}" for name, _ in both["G"].named_parameters()}


def test_a_part_of_what_is_trained_may_be_named() -> None:
    model = net()
    optimizer = adamw(model)
    handle = agc.attach(optimizer, model[0].named_parameters(prefix="0"))
    loss_of(model, 0).backward()
    optimizer.step()
    assert set(handle.clipped) == {"0.weight", "0.bias"}


def test_parameters_that_are_named_may_join_later() -> None:
    model = net()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    model[0].requires_grad_(False)
    handle = agc.attach(optimizer, model.named_parameters())
    model[0].requires_grad_(True)
    optimizer.add_param_group({"params": list(model[0].parameters())})
    loss_of(model, 0).backward()
    optimizer.step()
    assert set(handle.clipped) == {name for name, _ in model.named_parameters()}


def test_nothing_is_clipped_twice() -> None:
    model = net()
    optimizer, handle = attached(model)
    with pytest.raises(ValueError, match=r"0\.weight, 0\.bias, 2\.bias would be clipped twice"):
        attached_again(model, optimizer)
    other = agc.attach(optimizer, model.named_parameters(), 0.1, exclude=["0.*", "2.bias"])
    loss_of(model, 0).backward()
    optimizer.step()
    assert set(handle.clipped).isdisjoint(other.clipped)
    handle.remove()
    other.remove()
    attached_again(model, optimizer)


def attached_again(model: nn.Module, optimizer: torch.optim.Optimizer) -> agc.Attached:
    return agc.attach(optimizer, model.named_parameters(), exclude=EXCLUDE)


def test_what_is_no_optimizer_is_named() -> None:
    model = net()
    schedule = torch.optim.lr_scheduler.ConstantLR(adamw(model))
    for wrong, name in ((None, "NoneType"), (schedule, "ConstantLR"), (model, "Sequential")):
        with pytest.raises(
            TypeError, match=f"expected an optimizer of torch, got {name}; attach to"
        ):
            agc.attach(wrong, model.named_parameters())  # type: ignore[arg-type]
