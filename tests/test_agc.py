"""Adaptive gradient clipping: against the formula written out, against timm, in real loops."""

import copy
import io
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from nbrepro import agc, models
from nbrepro.optim import ClippedSGD, clipped_sgd, parameter_groups, undecayed

#: All three classes of shapes, with shapes that are not square and sizes that are 1.
SHAPES = {
    "scalar": (),
    "bias": (6,),
    "one": (1,),
    "gain": (5, 1, 1, 1),
    "row": (1, 4),
    "column": (4, 1),
    "linear": (4, 7),
    "conv1d": (3, 2, 5),
    "conv": (5, 3, 2, 4),
    "grouped": (6, 1, 3, 3),
}
WHOLE = {"scalar", "bias", "one", "gain", "row", "column"}


def parameters(
    shapes: dict[str, tuple[int, ...]] = SHAPES,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    scale: float = 0.02,
) -> dict[str, nn.Parameter]:
    """Parameters with gradients whose units lie on both sides of the bound."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes.items():
        parameter = nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
        sizes = torch.rand(shape[:1] or (), generator=generator) ** 4
        gradient = torch.randn(shape, generator=generator)
        gradient *= scale * sizes.view(-1, *[1] * (len(shape) - 1)) if shape else scale
        parameter.grad = gradient.to(dtype)
        made[name] = parameter
    return made


def gradients(named: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in named.items() if p.grad is not None}


def units(tensor: Tensor, whole: bool) -> list[Tensor]:
    return [tensor.reshape(-1)] if whole else [row.reshape(-1) for row in tensor]


def equation_3(
    weight: Tensor, gradient: Tensor, whole: bool, clipping: float, eps: float = 1e-3
) -> tuple[Tensor, float]:
    """The paper's formula, one number after another in float64, and the share clipped."""
    clipped, pieces = 0, []
    for w, g in zip(units(weight, whole), units(gradient, whole), strict=True):
        numbers = [float(x) for x in g.detach()]
        norm = math.sqrt(math.fsum(x * x for x in numbers))
        star = max(math.sqrt(math.fsum(float(x) ** 2 for x in w.detach())), eps)
        if norm / star > clipping:
            clipped += 1
            numbers = [clipping * star / norm * x for x in numbers]
        pieces.append(torch.tensor(numbers, dtype=torch.float64))
    return torch.cat(pieces).view(gradient.shape), clipped / len(pieces)


def timm_clip(named: dict[str, nn.Parameter], clipping: float = 0.01) -> None:
    pytest.importorskip("timm").utils.adaptive_clip_grad(named.values(), clipping)


def test_by_hand() -> None:
    """λ = 0.1 and ε = 0.5: bounds, factors and shares that can be checked without a computer."""
    named = {
        "scalar": nn.Parameter(torch.tensor(-2.0)),  # bound 0.2
        "zero": nn.Parameter(torch.zeros(2)),  # 0 counts as ε: bound 0.05
        "gain": nn.Parameter(torch.tensor([3.0, 0.0, 4.0]).view(3, 1, 1, 1)),  # one unit: 0.5
        "linear": nn.Parameter(torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]])),  # 0.5 and 0.2
        "conv": nn.Parameter(torch.full((2, 1, 2, 2), 5.0)),  # 1 and 1
    }
    grads = {
        "scalar": torch.tensor(0.4),
        "zero": torch.tensor([0.03, 0.04]),
        "gain": torch.tensor([0.0, 2.0, 0.0]).view(3, 1, 1, 1),
        "linear": torch.tensor([[0.0, 0.0, 0.25], [0.3, 0.4, 0.0]]),
        "conv": torch.stack([torch.full((1, 2, 2), 1.0), torch.full((1, 2, 2), 0.25)]),
    }
    expected = {
        "scalar": torch.tensor(0.2),
        "zero": torch.tensor([0.03, 0.04]),  # its norm is the bound itself
        "gain": torch.tensor([0.0, 0.5, 0.0]).view(3, 1, 1, 1),
        "linear": torch.tensor([[0.0, 0.0, 0.25], [0.12, 0.16, 0.0]]),
        "conv": torch.stack([torch.full((1, 2, 2), 0.5), torch.full((1, 2, 2), 0.25)]),
    }
    shares = {"scalar": 1, "zero": 0, "gain": 1, "linear": 0.5, "conv": 0.5}
    for name, gradient in grads.items():
        named[name].grad = gradient
    clipped = agc.clip_grads_(named.items(), clipping=0.1, eps=0.5)
    for name, gradient in expected.items():
        torch.testing.assert_close(named[name].grad, gradient)
    assert {name: float(value) for name, value in clipped.items()} == shares
    assert float(agc.share(clipped)) == pytest.approx(4 / 7)


@pytest.mark.parametrize("clipping", [1e-4, 0.01, 0.5])
def test_equals_the_formula_in_every_shape(clipping: float) -> None:
    named = parameters(dtype=torch.float64)
    before = gradients(named)
    clipped = agc.clip_grads_(named.items(), clipping)
    assert list(clipped) == list(SHAPES)
    for name, parameter in named.items():
        wanted, part = equation_3(parameter, before[name], name in WHOLE, clipping)
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-13, atol=0)
        assert float(clipped[name]) == pytest.approx(part)
    assert 0 < agc.share(clipped) < 1 or clipping != 0.01


@given(
    seed=st.integers(0, 10**6),
    clipping=st.floats(1e-4, 1.0),
    scale=st.sampled_from([1e-8, 1e-3, 0.02, 1.0, 1e4]),
    rule=st.sampled_from(list(agc.UNITS)),
    channels_last=st.booleans(),
)
def test_properties(
    seed: int, clipping: float, scale: float, rule: str, channels_last: bool
) -> None:
    named = parameters(seed=seed, scale=scale)
    if channels_last:
        for name in ("conv", "grouped"):
            for change in (named[name].data, named[name].grad):
                change.data = change.contiguous(memory_format=torch.channels_last)
    before = gradients(named)
    clipped = agc.clip_grads_(named.items(), clipping, units=rule)
    for name, parameter in named.items():
        whole = agc.UNITS[rule](parameter)
        triples = [units(t, whole) for t in (parameter.detach(), before[name], parameter.grad)]
        for w, old, new in zip(*triples, strict=True):
            bound = clipping * max(w.norm(), 1e-3)
            assert new.norm() <= bound * (1 + 1e-5)
            if old.norm() < bound * (1 - 1e-5):
                assert torch.equal(new, old)
            else:  # the direction stays
                assert F.cosine_similarity(old, new, dim=0) > 1 - 1e-5
        assert len(clipped.factors[name]) == len(triples[0])
        assert 0 <= clipped[name] <= 1
    once = gradients(named)
    agc.clip_grads_(named.items(), clipping, units=rule)
    for name, gradient in gradients(named).items():
        torch.testing.assert_close(gradient, once[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["cifar_resnet14", "cifar_resnet20"])
@pytest.mark.parametrize("clipping", [0.001, 0.01, 0.16])
def test_equals_timm_bit_for_bit(name: str, clipping: float) -> None:
    named, theirs = [
        parameters({n: tuple(p.shape) for n, p in models.create(name).named_parameters()})
        for _ in range(2)
    ]
    timm_clip(theirs, clipping)
    agc.clip_grads_(named.items(), clipping, units="timm")
    for parameter, other in zip(named.values(), theirs.values(), strict=True):
        assert torch.equal(parameter.grad, other.grad)


def test_equals_timm_on_its_own_network_but_for_the_gains() -> None:
    """TR-2: gains of shape [out, 1, 1, 1] are one unit here, as in the authors' code."""
    timm = pytest.importorskip("timm")
    shapes = {
        name: tuple(parameter.shape)
        for name, parameter in timm.create_model("nf_resnet26", num_classes=3).named_parameters()
    }
    theirs, same, named = parameters(shapes), parameters(shapes), parameters(shapes)
    before = gradients(named)
    timm_clip(theirs)
    agc.clip_grads_(same.items(), units="timm")
    agc.clip_grads_(named.items())
    assert all(torch.equal(same[name].grad, theirs[name].grad) for name in shapes)
    differ = {name for name in shapes if not torch.equal(named[name].grad, theirs[name].grad)}
    assert differ
    assert differ <= {name for name in shapes if name.endswith(".gain")}
    for name in differ:
        wanted, _ = equation_3(named[name], before[name], True, 0.01)
        torch.testing.assert_close(named[name].grad.double(), wanted, rtol=1e-5, atol=1e-12)


def test_the_first_dimension_is_the_output() -> None:
    """A transposed weight in memory is still clipped by rows, and written where it lies."""
    named = parameters({"linear": (4, 7)})
    turned = nn.Parameter(named["linear"].detach().t().contiguous().t())
    turned.grad = named["linear"].grad.t().contiguous().t()
    assert not turned.grad.is_contiguous()
    agc.clip_grads_(named.items())
    agc.clip_grads_([("turned", turned)])
    torch.testing.assert_close(turned.grad, named["linear"].grad, rtol=1e-6, atol=0)


def test_one_ratio_per_layer() -> None:
    named = parameters(dtype=torch.float64)
    before = gradients(named)
    clipped = agc.clip_grads_(named.items(), units="layer")
    for name, parameter in named.items():
        wanted, part = equation_3(parameter, before[name], True, 0.01)
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-13, atol=0)
        assert clipped[name] == part


@pytest.mark.parametrize(
    ("exclude", "unclipped"),
    [
        ([], set()),
        (["linear"], {"linear"}),
        (["conv*"], {"conv", "conv1d"}),
        (["*ai*", "scalar"], {"gain", "scalar"}),
        (["*"], set(SHAPES)),
    ],
)
def test_exclusion(exclude: list[str], unclipped: set[str]) -> None:
    named = parameters(scale=10.0)
    before = gradients(named)
    clipped = agc.clip_grads_(named.items(), exclude=exclude)
    same = {name for name, p in named.items() if torch.equal(p.grad, before[name])}
    assert same == unclipped
    assert set(clipped) == set(SHAPES) - unclipped
    assert (agc.share(clipped) > 0.5) == bool(clipped)


@pytest.mark.parametrize("build", [agc.clip_grads_, ClippedSGD])
def test_bad_input_says_what_was_expected(build: Callable[..., object]) -> None:
    named = parameters()
    with pytest.raises(ValueError, match=r"'linaer' matches no name; nearest: linear"):
        build(named.items(), exclude=["linaer"])
    with pytest.raises(ValueError, match=r"'fc\.\*' matches no name"):
        build(named.items(), exclude=["fc.*"])
    with pytest.raises(ValueError, match=r"'fc' matches no name; nearest: fc\.weight, fc\.bias$"):
        build(Net().named_parameters(), exclude=["fc"])
    with pytest.raises(TypeError, match="expected a list of names"):
        build(named.items(), exclude="linear")
    for clipping, eps in ((0.0, 1e-3), (-1.0, 1e-3), (math.nan, 1e-3), (0.01, -1.0)):
        with pytest.raises(ValueError, match=r"clipping is .* and eps is"):
            build(named.items(), clipping=clipping, eps=eps)
    for wrong in (named.values(), named, nn.Linear(2, 2), nn.Linear(2, 2).parameters()):
        with pytest.raises(TypeError, match=r"pairs, such as model\.named_parameters\(\)"):
            build(wrong)
    shared = named["conv"]
    with pytest.raises(ValueError, match="two names"):
        build([("a", shared), ("b", shared)])
    with pytest.raises(ValueError, match="same name"):
        build([("a", shared), ("a", named["linear"])])


def test_unknown_rule_and_bad_gradients() -> None:
    with pytest.raises(ValueError, match="did you mean 'layer'"):
        agc.clip_grads_(parameters().items(), units="layers")
    weight = nn.Parameter(torch.randn(4, 2))
    weight.grad = torch.randn(4, 2).to_sparse()
    with pytest.raises(TypeError, match="gradients of embedding are sparse_coo; expected dense"):
        agc.clip_grads_([("embedding", weight)])
    weight = nn.Parameter(torch.randn(4, 2, dtype=torch.complex64))
    weight.grad = torch.randn(4, 2, dtype=torch.complex64)
    with pytest.raises(TypeError, match="gradients of phase are complex"):
        agc.clip_grads_([("phase", weight)])


@pytest.mark.parametrize("take", [agc.clip_grads_, agc.ratios])
def test_gradients_that_cannot_be_clipped_have_no_ratios(take: Callable[..., object]) -> None:
    for gradient, kind in (
        (torch.randn(4, 2).to_sparse(), "sparse_coo"),
        (torch.randn(4, 2, dtype=torch.complex64), "complex"),
    ):
        weight = nn.Parameter(torch.randn(4, 2, dtype=gradient.dtype))
        weight.grad = gradient
        with pytest.raises(TypeError, match=f"gradients of weight are {kind}; expected dense"):
            take([("weight", weight)])


@pytest.mark.parametrize("take", [agc.clip_grads_, agc.ratios, ClippedSGD])
def test_pairs_of_something_else_are_named(take: Callable[..., object]) -> None:
    model = Net()
    with pytest.raises(TypeError, match="got a int named 'a'"):
        take([("skip", model.skip), ("a", 3)])
    with pytest.raises(TypeError, match=r"got a parameter group\. ClippedSGD .* no_decay="):
        take(parameter_groups(model, 1e-4))
    with pytest.raises(ValueError, match=r"none of these .* a state_dict\(\) holds copies"):
        take(model.state_dict().items())


def test_a_frozen_network_has_nothing_to_clip() -> None:
    """As while it waits to be thawed: that is no mistake, unlike the tensors of a state_dict."""
    assert not agc.clip_grads_(Net().requires_grad_(False).named_parameters())


def test_parameters_without_elements_have_no_units() -> None:
    named = {
        name: nn.Parameter(torch.randn(shape))
        for name, shape in {"row": (0, 3), "column": (3, 0), "none": (0,), "real": (2, 3)}.items()
    }
    optimizer = ClippedSGD(named.items())
    for parameter in named.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for clipped in (optimizer.clipped, agc.clip_grads_(named.items())):
        shares = {name: float(part) for name, part in clipped.items()}
        assert shares == {"row": 0, "column": 0, "none": 0, "real": 1}
        assert repr(clipped) == "Clipped(100.0% of 2 units; most: real 100%)"
    empty = agc.clip_grads_((name, named[name]) for name in ("row", "column"))
    assert repr(empty) == "Clipped(0.0% of 0 units; most: none)"


def test_shares_of_parameters_on_two_devices() -> None:
    """Tensors without data stand for a second device; what is on it cannot be read."""
    here, there = parameters(), {f"meta.{n}": p.to("meta") for n, p in parameters().items()}
    there = {name: nn.Parameter(p.detach()) for name, p in there.items()}
    for parameter in there.values():
        parameter.grad = torch.empty_like(parameter)
    both = agc.clip_grads_([*there.items(), *here.items()])
    assert agc.share(both).device.type == "meta"
    assert agc.share(both).shape == ()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_network_on_two_devices_says_what_was_clipped() -> None:
    here, there = parameters(), {f"cuda.{n}": p.cuda() for n, p in parameters().items()}
    there = {name: nn.Parameter(p.detach()) for name, p in there.items()}
    for parameter, twin in zip(there.values(), here.values(), strict=True):
        parameter.grad = twin.grad.cuda()
    both = agc.clip_grads_([*here.items(), *there.items()])
    alone = agc.clip_grads_(parameters().items())
    assert float(agc.share(both)) == pytest.approx(float(agc.share(alone)))
    assert f" of {2 * sum(map(len, alone.factors.values()))} units" in repr(both)


def test_what_has_no_gradient_is_skipped() -> None:
    named = parameters()
    named["conv"].grad = None
    clipped = agc.clip_grads_(named.items(), exclude=["conv"])  # a name all the same
    assert set(clipped) == set(SHAPES) - {"conv"}
    for parameter in named.values():
        parameter.grad = None
    clipped = agc.clip_grads_(named.items())
    assert (len(clipped), float(agc.share(clipped))) == (0, 0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_of_half_precision_are_taken_in_float32(dtype: torch.dtype) -> None:
    """4,096 gradients of 0.25 have the norm 16; added up in bfloat16 they would stop at 256."""
    shapes = {"vector": (4096,), "matrix": (2, 4096)}
    named = parameters(shapes, dtype=dtype)
    for parameter in named.values():
        parameter.data.fill_(1.0)
        parameter.grad.fill_(0.25)
    clipped = agc.clip_grads_(named.items(), clipping=0.1)  # bound 6.4
    for name, parameter in named.items():
        assert clipped.factors[name].dtype == torch.float32
        assert clipped.factors[name].tolist() == pytest.approx([0.4] * len(clipped.factors[name]))
        assert parameter.grad.dtype == dtype
        assert torch.equal(parameter.grad, torch.full_like(parameter.grad, 0.1))


def test_kinds_may_be_mixed() -> None:
    named = parameters(dtype=torch.float64)
    half = {f"half.{name}": p for name, p in parameters(dtype=torch.bfloat16, seed=1).items()}
    wanted = [{n: copy.deepcopy(p) for n, p in part.items()} for part in (named, half)]
    for part, other in zip(wanted, (named, half), strict=True):
        for name, parameter in part.items():
            parameter.grad = other[name].grad.clone()
        agc.clip_grads_(part.items())
    clipped = agc.clip_grads_([*half.items(), *named.items()])
    assert list(clipped) == [*half, *named]
    for part, other in zip(wanted, (named, half), strict=True):
        assert all(torch.equal(part[name].grad, other[name].grad) for name in part)


def test_what_was_clipped_can_be_printed() -> None:
    named = parameters({"linear": (4, 7), "bias": (4,), "deep": (3, 2)})
    for name, scale in (("linear", [1.0, 1.0, 0.0, 0.0]), ("bias", 0.0), ("deep", 1.0)):
        gradient = torch.ones_like(named[name])
        named[name].grad = gradient * torch.tensor(scale).reshape(-1, *[1] * (gradient.ndim - 1))
    clipped = agc.clip_grads_(named.items())
    assert repr(clipped) == "Clipped(62.5% of 8 units; most: deep 100%, linear 50%)"
    assert repr(agc.clip_grads_([])) == "Clipped(0.0% of 0 units; most: none)"


def test_a_generator_that_was_used_before_is_not_taken_for_nothing_to_clip() -> None:
    model = nn.Linear(2, 3)
    model(torch.ones(1, 2)).sum().backward()
    once = model.named_parameters()
    assert len(agc.clip_grads_(once)) == 2
    with pytest.raises(ValueError, match="only once"):
        agc.clip_grads_(once)


@pytest.mark.parametrize("number", ["0.01", None, [0.01]])
def test_what_is_no_number_is_named(number: Any) -> None:
    with pytest.raises(TypeError, match=r"clipping is .* expected numbers"):
        agc.clip_grads_([], clipping=number)


@pytest.mark.parametrize(
    ("entries", "said"), [(None, "got None"), ([torch.ones(1)], "got a Tensor")]
)
def test_an_exclusion_that_is_no_list_of_names(entries: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        agc.clip_grads_([], exclude=entries)


@pytest.mark.parametrize("rule", agc.UNITS)
def test_a_unit_is_clipped_if_its_ratio_is_above_lambda(rule: str) -> None:
    named = parameters(dtype=torch.float64)
    ratios = agc.ratios(named.items(), units=rule)
    clipped = agc.clip_grads_(named.items(), 0.01, units=rule)
    assert list(ratios) == list(named)
    for name, ratio in ratios.items():
        torch.testing.assert_close((0.01 / ratio).clamp(max=1), clipped.factors[name])


def test_ratios_leave_out_what_clipping_will() -> None:
    named = parameters()
    ratios = agc.ratios(named.items(), exclude=["conv*", "bias"])
    assert list(ratios) == list(agc.clip_grads_(named.items(), exclude=["conv*", "bias"]))
    with pytest.raises(ValueError, match=r"to exclude: 'linaer' matches no name; nearest: linear"):
        agc.ratios(named.items(), exclude=["linaer"])
    with pytest.raises(TypeError, match="to exclude: expected a list of names"):
        agc.ratios(named.items(), exclude="linear")


@pytest.mark.parametrize(
    ("tensors", "error", "said"),
    [
        (torch.ones(4, 7), TypeError, "expected a list of tensors, got a tensor"),
        ([], ValueError, "expected at least one"),
    ],
)
def test_norms_of_what_is_no_list_of_tensors(
    tensors: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        agc.unitwise_norm(tensors, 0)


def test_in_bfloat16_timm_is_a_percent_off() -> None:
    shapes = {
        name: tuple(p.shape) for name, p in models.create("cifar_resnet14").named_parameters()
    }
    named, theirs = (parameters(shapes, dtype=torch.bfloat16) for _ in range(2))
    exact = {name: p.detach().double().requires_grad_() for name, p in named.items()}
    for name, parameter in exact.items():
        parameter.grad = named[name].grad.double()
    timm_clip(theirs)
    for tensors in (named, exact):
        agc.clip_grads_(tensors.items(), units="timm")
    off = []
    for tensors in (named, theirs):
        pairs = [(tensors[name].grad.double(), exact[name].grad) for name in shapes]
        off.append(max(float((a - b).norm() / b.norm()) for a, b in pairs if b.norm() > 0))
    assert off[0] < 0.003 < off[1] < 0.02


def test_importing_the_method_imports_torch_alone() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import nbrepro.agc; "
        "print(*sorted(m for m in set(sys.modules) - before if not m.startswith('torch')))"
    )
    seen = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    new = [name for name in seen.stdout.split() if name not in sys.stdlib_module_names]
    assert new == ["nbrepro", "nbrepro._suggest", "nbrepro.agc"]


def test_zeros_stay_finite() -> None:
    named = parameters()
    for parameter in named.values():
        parameter.data.zero_()
    clipped = agc.clip_grads_(named.items(), eps=1e-3)  # bound 1e-5 everywhere
    for name, parameter in named.items():
        assert parameter.grad.isfinite().all()
        for unit in units(parameter.grad, name in WHOLE):
            assert unit.norm() <= 1e-5 * (1 + 1e-5)
    assert agc.share(clipped) > 0.5
    for eps in (1e-3, 0.0):
        for parameter in named.values():
            parameter.grad.zero_()
        clipped = agc.clip_grads_(named.items(), eps=eps)
        assert all((parameter.grad == 0).all() for parameter in named.values())
        assert agc.share(clipped) == 0


def test_small_gradients_under_the_authors_floor_stay() -> None:
    """‖G‖ is floored at 1e-6 in a division that is only used above the bound (here 1e-7)."""
    zero = nn.Parameter(torch.zeros(3))
    zero.grad = torch.tensor([5e-8, 0.0, 0.0])
    agc.clip_grads_([("zero", zero)], clipping=1e-4)
    assert zero.grad.tolist() == pytest.approx([5e-8, 0, 0])
    zero.grad = torch.tensor([5e-7, 0.0, 0.0])
    agc.clip_grads_([("zero", zero)], clipping=1e-4)
    assert zero.grad.tolist() == pytest.approx([5e-7 * 0.1, 0, 0])  # 1e-7 / 1e-6, not 1e-7 / 5e-7


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_gradients_that_are_not_finite_stay_visible(bad: float) -> None:
    """1e30 is finite, its square is not: the norm overflows and must not become a zero gradient."""
    named = parameters()
    for name in ("linear", "bias"):
        named[name].grad.view(-1)[1] = bad
    before = gradients(named)
    agc.clip_grads_(named.items(), clipping=100.0)
    assert named["linear"].grad[0].isnan().all()
    assert named["bias"].grad.isnan().all()
    assert torch.equal(named["linear"].grad[1:], before["linear"][1:])
    assert torch.equal(named["conv"].grad, before["conv"])


class Operations(TorchDispatchMode):
    """Counts operations that do work, and those that wait for the device."""

    NO_WORK = frozenset({
        *("_unsafe_view", "alias", "as_strided", "detach", "empty", "expand", "select", "slice"),
        *("split", "split_with_sizes", "t", "unbind", "unsqueeze", "view"),
        *("_record_function_enter_new", "_record_function_exit"),
    })  # fmt: skip
    WAITING = ("_local_scalar_dense", "nonzero", "item", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        self.counts[operation._schema.name.split("::")[1]] += 1
        return operation(*arguments, **(options or {}))

    def work(self) -> int:
        assert not any(self.counts[name] for name in self.WAITING)
        return sum(n for name, n in self.counts.items() if name not in self.NO_WORK)


def with_gradients(name: str) -> nn.Module:
    model = models.create(name)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * 0.01
    return model


@pytest.mark.parametrize("name", ["cifar_resnet14", "cifar_resnet56"])
def test_operations_of_the_function(name: str) -> None:
    """A norm of gradient and weight for each layer, and a few for all vectors together."""
    model = with_gradients(name)
    everything = list(model.named_parameters())
    layers = sum(parameter.ndim > 1 for _, parameter in everything)
    with Operations() as operations:
        agc.share(agc.clip_grads_(everything, exclude=["fc.*"]))
    assert operations.work() <= 2 * layers + 20 <= 2 * len(everything) + 8


@pytest.mark.parametrize("tensor_rate", [False, True])
def test_operations_of_the_optimizer_do_not_grow_with_depth(tensor_rate: bool) -> None:
    counts = []
    for name in ("cifar_resnet14", "cifar_resnet56", "cifar_resnet110"):
        optimizer = ClippedSGD(
            with_gradients(name).named_parameters(),
            lr=torch.tensor(0.1) if tensor_rate else 0.1,
            momentum=0.9,
            nesterov=True,
            weight_decay=1e-4,
            exclude=["fc.weight"],
            no_decay=["*bn*", "fc.bias"],
        )
        optimizer.step()
        with Operations() as operations:
            optimizer.step()
        counts.append(operations.work())
    assert counts[0] == counts[1] == counts[2] <= 45


class Net(nn.Module):
    """Every kind of parameter: convolutions, gains, biases, a scalar that starts at 0, a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 4, 3)
        self.mid = nn.Conv2d(4, 6, 3, bias=False)
        self.gain = nn.Parameter(torch.ones(6))
        self.skip = nn.Parameter(torch.zeros(()))
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.mid(F.relu(self.stem(x)))).mean((2, 3))
        logits: Tensor = self.fc(h * self.gain * (1 + self.skip))
        return logits


EXCLUDE, NO_DECAY = ["fc.weight"], ["*.bias", "gain", "skip"]
HYPER: list[dict[str, Any]] = [
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"momentum": 0.9},
    {"weight_decay": 0.01},
]


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(8, 1, 8, 8, generator=generator)
    return images, torch.randint(3, (8,), generator=generator)


def backward(model: nn.Module, number: int) -> None:
    images, labels = batch(number)
    logits = model(images.to(next(model.parameters()).dtype))
    F.cross_entropy(logits.double(), labels).backward()


class Reference:
    """The two in turn: the function, then torch's own SGD with the same two parameter groups."""

    def __init__(self, model: nn.Module, lr: float = 0.1, **hyper: Any) -> None:
        named = dict(model.named_parameters())
        free = {n: p for n, p in named.items() if n.endswith("bias") or n in ("gain", "skip")}
        rest = [p for n, p in named.items() if n not in free]
        self.model = model
        self.optimizer = torch.optim.SGD([{"params": rest}], lr, **hyper)
        self.optimizer.add_param_group({"params": list(free.values()), "weight_decay": 0.0})

    def step(self) -> None:
        self.clipped = agc.clip_grads_(self.model.named_parameters(), exclude=EXCLUDE)
        self.optimizer.step()


@pytest.fixture(params=[False, True], ids=["one block", "where they are"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take all weights for small ones, and then for large ones in pieces of few units."""
    if request.param:
        monkeypatch.setattr(clipped_sgd, "_LARGE", 1)
        monkeypatch.setattr(clipped_sgd, "_PIECE", 40)


def ours(model: nn.Module, lr: float | Tensor = 0.1, **hyper: Any) -> ClippedSGD:
    named = model.named_parameters()
    return ClippedSGD(named, lr, exclude=EXCLUDE, no_decay=NO_DECAY, **hyper)


def train(model: nn.Module, optimizer: Any, numbers: Iterable[int]) -> None:
    for number in numbers:
        model.zero_grad()
        backward(model, number)
        optimizer.step()


def assert_same(one: nn.Module, other: nn.Module) -> None:
    """In float64, where one rounding more or less does not grow into anything."""
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(value, states[1][name], rtol=1e-11, atol=1e-13)


def twins(**hyper: Any) -> tuple[Net, Reference, Net, ClippedSGD]:
    one, two = Net().double(), Net().double()
    return one, Reference(one, **hyper), two, ours(two, **hyper)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("hyper", HYPER)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_optimizer_equals_the_function_and_sgd(
    hyper: dict[str, Any], memory_format: torch.memory_format
) -> None:
    one, reference, two, optimizer = twins(**hyper)
    for model in (one, two):
        model.to(memory_format=memory_format)
    strides = {name: p.stride() for name, p in two.named_parameters()}
    train(one, reference, range(5))
    train(two, optimizer, range(5))
    assert_same(one, two)
    assert {name: p.stride() for name, p in two.named_parameters()} == strides
    assert dict(optimizer.clipped.items()) == dict(reference.clipped.items())
    assert 0 < agc.share(optimizer.clipped) == agc.share(reference.clipped) < 1


@pytest.mark.usefixtures("pieces")
def test_what_a_step_clipped_stays_as_it_was() -> None:
    model = Net()
    optimizer = ours(model)
    train(model, optimizer, [0])
    first = optimizer.clipped
    factors = {name: factor.clone() for name, factor in first.factors.items()}
    train(model, optimizer, [1])
    for name, factor in factors.items():
        assert torch.equal(first.factors[name], factor)
    for name in ("stem.weight", "stem.bias"):
        assert not torch.equal(optimizer.clipped.factors[name], factors[name])


@pytest.mark.usefixtures("pieces")
def test_another_device_may_be_the_default() -> None:
    one, reference, two, optimizer = twins(momentum=0.9, weight_decay=0.01)
    train(one, reference, range(2))
    for number in range(2):
        two.zero_grad()
        backward(two, number)
        with torch.device("meta"):
            optimizer.step()
            assert agc.share(optimizer.clipped) > 0
    assert_same(one, two)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_step_in_lower_precision(dtype: torch.dtype) -> None:
    """Torch's fused SGD rounds differently with a tensor's place in memory, hence a tolerance."""
    one, two = Net().to(dtype), Net().to(dtype)
    train(one, Reference(one, momentum=0.9, weight_decay=0.01), range(1))
    train(two, ours(two, momentum=0.9, weight_decay=0.01), range(1))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert b.dtype == dtype
        torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("pieces")
def test_step_leaves_gradients_and_calls_a_closure() -> None:
    one, reference, two, optimizer = twins(momentum=0.9)
    train(one, reference, [0])

    def closure() -> str:
        two.zero_grad()
        backward(two, 0)
        return "loss"

    assert optimizer.step(closure) == "loss"
    assert_same(one, two)
    taken = {name: p.grad.clone() for name, p in two.named_parameters()}
    backward_again = Net().double()
    backward(backward_again, 0)
    for name, parameter in backward_again.named_parameters():
        assert torch.equal(taken[name], parameter.grad)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("hyper", HYPER)
def test_parameters_without_a_gradient_stay_as_in_sgd(hyper: dict[str, Any]) -> None:
    """Some come late, some pause, some never get one; momentum and decay leave them alone."""
    one, reference, two, optimizer = twins(**hyper)
    for step, hidden in enumerate(
        [
            {"skip", "mid.weight"},
            {"skip"},
            {"skip", "fc.bias", "fc.weight"},
            {"skip", "gain"},
            set(),
        ]
    ):
        for model, stepper in ((one, reference), (two, optimizer)):
            model.zero_grad()
            backward(model, step)
            for name, parameter in model.named_parameters():
                if name in hidden or name == "stem.bias":
                    parameter.grad = None
            stepper.step()
        assert set(optimizer.clipped) == set(reference.clipped)
        assert_same(one, two)
    assert two.stem.bias not in optimizer.state
    assert torch.equal(two.stem.bias, Net().double().stem.bias)
    two.zero_grad()
    before = copy.deepcopy(two.state_dict())
    optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in two.state_dict().items())


@pytest.mark.usefixtures("pieces")
def test_taking_turns_moves_nothing() -> None:
    """Two heads trained in turn are placed once."""
    heads = nn.ModuleDict({name: nn.Linear(3, 2) for name in "ab"})
    optimizer = ClippedSGD(heads.named_parameters(), lr=0.1, momentum=0.9)
    seen = []
    for name in "abab":
        heads.zero_grad()
        heads[name](torch.ones(1, 3)).sum().backward()
        optimizer.step()
        seen.append([parameter.data_ptr() for parameter in heads.parameters()])
    assert seen[1] == seen[2] == seen[3]


@pytest.mark.usefixtures("pieces")
def test_a_weight_that_lies_transposed() -> None:
    """Its units are not runs of memory, so it is laid out anew; the numbers are the same."""
    ends = []
    for turn in (False, True):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(4, 7, dtype=torch.float64))
        gradient = torch.randn(4, 7, dtype=torch.float64)
        if turn:
            weight = nn.Parameter(weight.detach().t().contiguous().t())
        weight.grad = gradient * torch.logspace(-4, 1, 4)[:, None]
        ClippedSGD([("weight", weight)], lr=0.1).step()
        ends.append(weight.detach())
    torch.testing.assert_close(ends[0], ends[1])


@pytest.mark.usefixtures("pieces")
def test_gradients_that_are_kept_and_zeroed() -> None:
    one, reference, two, optimizer = twins(momentum=0.9)
    for number in range(3):
        for model, stepper in ((one, reference), (two, optimizer)):
            model.zero_grad(set_to_none=False)
            backward(model, number)
            stepper.step()
    assert_same(one, two)


@pytest.mark.usefixtures("pieces")
def test_parameters_may_be_moved_and_replaced() -> None:
    """At any time, as Accelerate and a change of memory format do; momentum goes along."""
    one, reference, two, optimizer = twins(momentum=0.9, weight_decay=0.01)
    train(one, reference, range(5))
    train(two, optimizer, [0])
    two.to(memory_format=torch.channels_last)
    train(two, optimizer, [1])
    two.load_state_dict(two.state_dict())
    train(two, optimizer, [2])
    for parameter in two.parameters():
        parameter.data = parameter.data.clone()
    train(two, optimizer, [3, 4])
    assert_same(one, two)
    two.float()
    train(two, optimizer, [5])
    assert {p.dtype for p in two.parameters()} == {torch.float32}


def saved(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("first", ["ours", "sgd"])
@pytest.mark.parametrize("second", ["ours", "sgd"])
def test_resume(first: str, second: str) -> None:
    """Through files, and from one optimizer to the other: their states have one form."""
    hyper = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    one, reference, two, optimizer = twins(**hyper)
    train(one, reference, range(6))
    if first == "sgd":
        early = Reference(two, **hyper)
        train(two, early, range(3))
        state = early.optimizer.state_dict()
    else:
        train(two, optimizer, range(3))
        state = optimizer.state_dict()
    model_state, state = saved(two.state_dict()), saved(state)

    three = Net().double()
    three.load_state_dict(model_state)
    if second == "sgd":
        late = Reference(three, lr=7.0)
        late.optimizer.load_state_dict(state)
        train(three, late, range(3, 6))
    else:
        again = ours(three, lr=7.0, clipping=0.01)
        again.load_state_dict(state)
        assert again.param_groups[0]["lr"] == 0.1
        train(three, again, range(3, 6))
    assert_same(one, three)


@pytest.mark.usefixtures("pieces")
def test_a_state_that_names_parameters_as_a_compiled_model_does() -> None:
    """What is unclipped goes by position, since the names come from the file."""
    one, two = Net().double(), Net().double()
    compiled: Any = torch.compile(one)
    sgd = torch.optim.SGD(compiled.named_parameters(), 0.1, momentum=0.9)
    train(one, sgd, [0])
    optimizer = ClippedSGD(two.named_parameters(), 0.1, 0.9, exclude=EXCLUDE)
    two.load_state_dict(one.state_dict())
    optimizer.load_state_dict(saved(sgd.state_dict()))
    assert optimizer.param_groups[0]["unclipped"] == ["_orig_mod.fc.weight"]
    for model in (one, two):
        model.zero_grad()
        backward(model, 1)
    agc.clip_grads_(one.named_parameters(), exclude=EXCLUDE)
    sgd.step()
    optimizer.step()
    assert_same(one, two)
    assert "_orig_mod.fc.weight" not in optimizer.clipped


@pytest.mark.usefixtures("pieces")
def test_copies_go_on_alone() -> None:
    one, reference, two, optimizer = twins(momentum=0.9)
    train(one, reference, range(4))
    train(two, optimizer, range(2))
    three, copied = copy.deepcopy((two, optimizer))
    train(two, optimizer, [9])
    train(three, copied, range(2, 4))
    assert_same(one, three)


@pytest.mark.usefixtures("pieces")
def test_every_parameter_has_a_storage_of_its_own(tmp_path: Path) -> None:
    """Else torch.save writes all for one, and Accelerate takes all for tied and keeps the first."""
    two = Net()
    named = two.named_parameters()
    optimizer = ClippedSGD(named, lr=0.1, momentum=0.9, exclude=EXCLUDE)
    train(two, optimizer, range(2))
    for parameter in two.parameters():
        assert parameter.untyped_storage().nbytes() == 4 * parameter.numel()
    for layer in (two.stem, two.mid):
        assert layer.weight.data_ptr() % 16 == 0  # what convolution kernels like
    accelerator = Accelerator(cpu=True)
    accelerator.save_model(two, tmp_path)
    three = Net()
    load = pytest.importorskip("safetensors.torch").load_file
    three.load_state_dict(load(tmp_path / "model.safetensors"))
    for a, b in zip(two.parameters(), three.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("pieces")
def test_autograd_notices_the_update() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    optimizer = ClippedSGD(model.named_parameters(), lr=0.1)
    loss = model(torch.randn(2, 3)).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.usefixtures("pieces")
def test_momentum_that_is_switched_on_and_off() -> None:
    one, reference, two, optimizer = twins()
    for number, momentum in enumerate([0.0, 0.9, 0.9, 0.0, 0.5]):
        for stepper in (reference.optimizer, optimizer):
            for group in stepper.param_groups:
                group["momentum"] = momentum
        train(one, reference, [number])
        train(two, optimizer, [number])
    assert_same(one, two)


@pytest.mark.usefixtures("pieces")
def test_learning_rates() -> None:
    """A schedule, a tensor that is written to, and a float are the same."""
    rates, ends = [0.2, 0.1, 0.05], []
    for kind in ("float", "tensor", "schedule"):
        model = Net().double()
        rate = torch.tensor(0.0, dtype=torch.float64)
        optimizer = ours(model, rate if kind == "tensor" else 0.2, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for number, lr in enumerate(rates):
            if kind == "tensor":
                rate.fill_(lr)
            elif kind == "float":
                for group in optimizer.param_groups:
                    group["lr"] = lr
            train(model, optimizer, [number])
            if kind == "schedule":
                schedule.step()
        ends.append(model)
    assert_same(ends[0], ends[1])
    assert_same(ends[0], ends[2])


@pytest.mark.usefixtures("pieces")
def test_parameter_groups() -> None:
    model = Net()
    optimizer = ours(model, weight_decay=0.5, momentum=0.9)
    decayed, free = optimizer.param_groups
    assert decayed["param_names"] == ["stem.weight", "mid.weight", "fc.weight"]
    assert decayed["unclipped"] == ["fc.weight"]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.5, 0.0)
    assert free["param_names"] == ["gain", "skip", "stem.bias", "fc.bias"]
    extra = nn.Parameter(torch.zeros(3))
    optimizer.add_param_group({"params": [("extra", extra)], "lr": 1.0, "weight_decay": 0.0})
    extra.grad = torch.tensor([3.0, 0.0, 4.0])
    optimizer.step()
    torch.testing.assert_close(extra.detach(), torch.tensor([-0.6e-5, 0.0, -0.8e-5]))
    assert list(optimizer.clipped) == ["extra"]


@pytest.mark.usefixtures("pieces")
def test_a_group_that_is_added_names_what_is_not_clipped() -> None:
    model, head = Net(), nn.Linear(2, 2)
    optimizer = ours(model)
    optimizer.add_param_group({"params": head.named_parameters(), "unclipped": ["weight"]})
    head(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert list(optimizer.clipped) == ["bias"]


def test_a_group_that_is_added_is_checked_as_the_first_ones() -> None:
    model = Net()
    optimizer = ours(model)
    head = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})

    def add(**group: Any) -> None:
        optimizer.add_param_group({"params": head["a"].named_parameters(), **group})

    with pytest.raises(ValueError, match=r"not to clip: 'wieght' matches no name; nearest: weight"):
        add(unclipped=["wieght"])
    with pytest.raises(TypeError, match="expected a list of names"):
        add(unclipped="weight")
    with pytest.raises(ValueError, match="no key 'exclude'; list what is not clipped as 'unclip"):
        add(exclude=["weight"])
    with pytest.raises(ValueError, match=r"dampening is 0\.5; ClippedSGD has none"):
        add(dampening=0.5)
    with pytest.raises(TypeError, match=r"pairs, such as model\.named_parameters\(\)"):
        add(params=head["a"].parameters())
    assert len(optimizer.param_groups) == 2
    add(unclipped=["wei*"])
    assert optimizer.param_groups[-1]["unclipped"] == ["weight"]
    with pytest.raises(ValueError, match=r"'weight' already; .*named_parameters\(prefix='head'\)"):
        add(params=head["b"].named_parameters())
    add(params=head["b"].named_parameters(prefix="b"))
    head["b"](head["a"](torch.ones(1, 2))).sum().backward()
    optimizer.step()
    assert list(optimizer.clipped) == ["bias", "b.weight", "b.bias"]


def test_a_group_may_give_its_names_apart() -> None:
    """As the groups of torch's optimizers have them."""
    optimizer, layer = ours(Net()), nn.Linear(2, 2)
    names, params = zip(*layer.named_parameters(), strict=True)
    optimizer.add_param_group({"params": params, "param_names": names})
    assert optimizer.param_groups[-1]["param_names"] == ["weight", "bias"]


def test_names_of_what_is_not_decayed() -> None:
    model = Net()
    model.stem.requires_grad_(False)
    optimizer = ClippedSGD(model.named_parameters(), weight_decay=1e-4, no_decay=undecayed(model))
    decayed, free = optimizer.param_groups
    assert decayed["param_names"] == ["stem.weight", "mid.weight", "fc.weight"]
    assert free["param_names"] == ["gain", "skip", "stem.bias", "fc.bias"]
    model.stem.requires_grad_(True)
    for group, same in zip(optimizer.param_groups, parameter_groups(model, 1e-4), strict=True):
        assert list(map(id, group["params"])) == list(map(id, same["params"]))


def test_a_capture_needs_a_step_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net()
    optimizer = ours(model)
    backward(model, 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="take a step of ClippedSGD before"):
        optimizer.step()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("flat", [False, True])
def test_captured_in_a_cuda_graph(flat: bool) -> None:
    """A replay does what a step does, and what it returned while captured shows the replay."""
    one, two = Net().double().cuda(), Net().double().cuda()
    state = copy.deepcopy(one.state_dict())
    reference = Reference(one, momentum=0.9)
    rate = torch.tensor(0.1, device="cuda", dtype=torch.float64)
    stepper: Any = ours(two, rate, momentum=0.9) if flat else Reference(two, momentum=0.9)
    grads = [
        [torch.randn_like(p) * 10.0 ** (step % 3 - 3) for p in one.parameters()]
        for step in range(4)
    ]
    for parameter, gradient in zip(two.parameters(), grads[0], strict=True):
        parameter.grad = gradient.clone()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        stepper.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        stepper.step()
    two.load_state_dict(state)
    optimizer = stepper if flat else stepper.optimizer
    for values in optimizer.state.values():
        values["momentum_buffer"].zero_()
    for step in grads:
        for model in (one, two):
            for parameter, gradient in zip(model.parameters(), step, strict=True):
                if parameter.grad is None:
                    parameter.grad = gradient.clone()
                parameter.grad.copy_(gradient)
        reference.step()
        graph.replay()
        assert_same(one, two)
        assert dict(stepper.clipped.items()) == dict(reference.clipped.items())


def accelerated_loop(flat: bool, mixed: str, by_hand: bool) -> nn.Module:
    """Two micro-batches a step, clipped only where the optimizer steps; a cosine schedule."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, mixed_precision=mixed, gradient_accumulation_steps=2)
    model = plain = Net()
    named = list(plain.named_parameters())
    optimizer: Any = (
        ClippedSGD(named, 0.1, 0.9, nesterov=True, exclude=EXCLUDE)
        if flat
        else torch.optim.SGD(plain.parameters(), 0.1, 0.9, nesterov=True)
    )
    schedule: Any = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    if not by_hand:
        model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    for number in range(8):
        images, labels = batch(number)
        if by_hand:
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed == "bf16"):
                logits = model(images)
            (F.cross_entropy(logits.float(), labels) / 2).backward()
            if number % 2:
                agc.clip_grads_(named, exclude=EXCLUDE)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            continue
        with accelerator.accumulate(model):
            accelerator.backward(F.cross_entropy(model(images), labels))
            if accelerator.sync_gradients and not flat:
                agc.clip_grads_(named, exclude=EXCLUDE)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return plain


@pytest.mark.parametrize("mixed", ["no", "bf16"])
@pytest.mark.parametrize("flat", [False, True])
def test_accelerate_with_accumulated_gradients(flat: bool, mixed: str) -> None:
    wanted = accelerated_loop(False, mixed, by_hand=True)
    got = accelerated_loop(flat, mixed, by_hand=False)
    start = Net()
    for a, b, c in zip(wanted.parameters(), got.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        assert not torch.equal(b, c)


@pytest.mark.usefixtures("pieces")
def test_with_a_loss_scaler() -> None:
    """Gradients are clipped after unscaling; a step with an infinite one is left out."""
    one, reference, two, optimizer = twins(momentum=0.9)
    train(one, reference, [0, 1])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    for number in (0, 7, 1):
        two.zero_grad()
        images, labels = batch(number)
        loss = F.cross_entropy(two(images.double()), labels)
        scaler.scale(loss).backward()
        if number == 7:
            two.fc.weight.grad[0, 0] = math.inf
        scaler.step(optimizer)
        scaler.update()
    assert_same(one, two)


def test_with_adam() -> None:
    """Any optimizer: it sees gradients within the bound, and its update is Adam's of those."""
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    backward(model, 0)
    before = copy.deepcopy(model)
    agc.clip_grads_(model.named_parameters())
    optimizer.step()
    for old, new in zip(before.parameters(), model.parameters(), strict=True):
        step = 0.01 * new.grad / (new.grad.abs() + 1e-8)  # Adam's first
        torch.testing.assert_close(new, old - step, rtol=1e-5, atol=1e-7)


def test_compiled() -> None:
    named, other = parameters(), parameters()
    agc.clip_grads_(other.items())
    pairs = list(named.items())
    clip = torch.compile(lambda: agc.share(agc.clip_grads_(pairs)), backend="eager", fullgraph=True)
    assert 0 < clip() < 1
    assert all(torch.equal(named[name].grad, other[name].grad) for name in named)


WORKER = """
import os, sys

import torch
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, sys.argv[2])
from test_agc import EXCLUDE, ClippedSGD, Net, Reference, agc, backward, batch, ours
from torch.nn import functional as F

torch.set_num_threads(1)
init_process_group("gloo")
rank = int(os.environ["RANK"])
report = {}


def halves(model, number):
    images, labels = (items[4 * rank : 4 * rank + 4] for items in batch(number))
    F.cross_entropy(model(images.double()), labels).backward()


for name, build in (("function", Reference), ("optimizer", ours)):
    plain = Net().double()
    model, stepper = DistributedDataParallel(plain), build(plain, momentum=0.9)
    for number in range(3):
        model.zero_grad()
        halves(model, number)
        stepper.step()
    report[name] = plain.state_dict()

cpu = torch.device("cpu")
for shard in (
    lambda model: fully_shard(model, mesh=init_device_mesh("cpu", (2,))),
    lambda model: FullyShardedDataParallel(model, device_id=cpu),
    lambda model: FullyShardedDataParallel(model, device_id=cpu, use_orig_params=True),
):
    model = Net().double()
    del model.skip
    model.skip = 0.0  # they take no scalars
    model = shard(model)
    halves(model, 0)
    for take in (agc.clip_grads_, agc.ratios, lambda named: ClippedSGD(named).step()):
        try:
            take(model.named_parameters())
        except TypeError as error:
            report.setdefault("refused", []).append(str(error))
torch.save(report, f"{sys.argv[1]}/{rank}.pt")
destroy_process_group()
"""


def test_two_processes_end_as_one(tmp_path: Path) -> None:
    """DistributedDataParallel averages before we clip; what either FSDP shards is refused."""
    (tmp_path / "worker.py").write_text(WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = [str(tmp_path / "worker.py"), str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(
        [*launch, "--nproc_per_node", "2", *script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    alone = Net().double()
    train(alone, Reference(alone, momentum=0.9), range(3))
    for rank in range(2):
        report = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in alone.state_dict().items():
            for kind in ("function", "optimizer"):
                torch.testing.assert_close(report[kind][name], value, rtol=1e-9, atol=1e-12)
        assert len(report["refused"]) == 9
        assert all("are sharded" in message for message in report["refused"])
