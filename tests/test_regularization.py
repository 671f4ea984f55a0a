"""Chapter 3: rates, ghost batches and the loss along its gradient."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from nbrepro import experiments, models
from nbrepro.book import regularization
from nbrepro.claims.nfnets import smoothness
from nbrepro.claims.outcomes import at_equal_fit, has, value
from nbrepro.claims.rules import FITTED, matches
from nbrepro.experiments import largest_rates
from nbrepro.layers import GhostBatchNorm2d
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec


class Parabola(nn.Module):
    """A classifier of one image whose loss is nearly a parabola in its only weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5]))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of two classes."""
        return torch.cat([self.weight, -self.weight])[None]


def test_along_measures_where_each_step_leads_and_comes_back() -> None:
    model, label = Parabola(), torch.tensor([0])
    images = torch.zeros(1)

    def slope(weight: float) -> float:
        return float(-2 * torch.sigmoid(torch.tensor(-2 * weight)))

    found = smoothness.along(model, images, label, (0.5, 2.0))
    assert model.weight.item() == pytest.approx(0.5)
    for rate, loss, change in zip((0.5, 2.0), found.losses, found.changes, strict=True):
        there = 0.5 - rate * slope(0.5)
        assert loss == pytest.approx(float(torch.tensor(-2 * there).exp().log1p()), rel=1e-5)
        assert change == pytest.approx(abs(slope(there) / slope(0.5) - 1), rel=1e-5)


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    images, labels = smoothness.digits()
    assert images.mean().abs() < 1e-4
    for name in smoothness.TWINS.values():
        losses = []
        for steps in (0, 15):
            model = smoothness.trained(name, steps, images, labels)
            losses.append(smoothness.gradient(model, images, labels)[0])
        assert losses[1] < losses[0]


CURVE: list[dict[str, float]] = [
    {"epoch": 0, "test_accuracy": 0.1},
    {"epoch": 1, "train_accuracy": 0.3, "test_accuracy": 0.2},
    {"epoch": 2, "train_accuracy": 0.7, "test_accuracy": 0.6},
    {"epoch": 3, "train_accuracy": 0.9, "test_accuracy": 0.5},
]


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 0.4), (0.7, 0.6), (0.8, 0.55), (0.2, None), (0.95, None)]
)
def test_accuracy_at_equal_fit_is_interpolated(share: float, expected: float | None) -> None:
    found = at_equal_fit(CURVE, share)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_a_run_that_never_fits_has_no_such_accuracy() -> None:
    spec = Spec(model="cifar_nf_resnet8", epochs=3)
    whole, short = (Record(spec, "completed", CURVE[-1], CURVE[:n], {}) for n in (4, 2))
    assert has(whole, "fitted")
    assert value(whole, "fitted") == at_equal_fit(CURVE, FITTED)
    assert not has(short, "fitted")


def test_what_training_images_are_ahead_by() -> None:
    spec = Spec(model="cifar_nf_resnet8", epochs=3)
    trained, untrained = (
        Record(spec, "completed", row, CURVE, {}) for row in (CURVE[-1], CURVE[0])
    )
    assert value(trained, "train_lead") == pytest.approx(0.9 - 0.5)
    assert not has(untrained, "train_lead")


def test_rates_are_octaves_and_arms_are_twins() -> None:
    arms = experiments.get("largest_rates").specs("quick", seeds=1)
    for size, rates in largest_rates.RATES.items():
        ladder = sorted(rates)
        assert [b / a for a, b in pairwise(ladder)] == [2.0] * 4
        for rate in rates:
            alike = [arm for arm in arms if (arm.batch_size, arm.lr) == (size, rate)]
            assert [arm.clip for arm in alike] == ["none", "none", "agc"]
            plain = {a.replace(model=alike[1].model, clip="none", clipping=0.01,
                               unclipped=("fc.weight",)) for a in alike}  # fmt: skip
            assert len(plain) == 1


def test_ghost_arms_differ_in_nothing_else() -> None:
    arms = experiments.get("ghost_batches").specs("quick", seeds=1)
    assert {arm.ghost_batch for arm in arms} == {0, 16, 64}
    assert len({arm.replace(ghost_batch=0, model="cifar_nf_resnet8") for arm in arms}) == 1
    model = models.create(arms[1].model, **arms[1].model_options())
    sizes = {m.size for m in model.modules() if isinstance(m, GhostBatchNorm2d)}
    assert sizes == {16}
    assert not any(type(m) is nn.BatchNorm2d for m in model.modules())


def test_a_network_without_batchnorm_has_no_ghost_batches() -> None:
    with pytest.raises(ValueError, match="has no such option"):
        Spec(model="cifar_nf_resnet8", ghost_batch=16)
    with pytest.raises(ValueError, match="between 0 and"):
        Spec(model="bn_cifar_nf_resnet8", ghost_batch=-1)


def test_the_map_of_the_page_has_every_run_in_one_row() -> None:
    rows = regularization.every_rate()
    assert max(map(len, rows)) <= 22, "room for a row's name"
    for spec in experiments.get("largest_rates").specs("quick", seeds=1):
        assert sum(matches(spec, arm) for arm in rows.values()) == 1, spec


def test_the_largest_stable_rate_is_that_at_which_most_runs_train() -> None:
    base = Spec(model=regularization.BN, batch_size=64, dataset="cifar10", epochs=1)
    made = []
    for rate, accuracies in ((0.4, (0.5, 0.5, 0.1)), (0.8, (0.5, 0.1, 0.1)), (0.2, (0.5,))):
        for seed, accuracy in enumerate(accuracies):
            row = {"epoch": 1, "test_accuracy": accuracy}
            spec = base.replace(lr=rate, seed=seed)
            made.append(Record(spec, "completed", row, [row], {}))
    assert regularization.largest_stable(made, 64) == {"BatchNorm": 0.4}
    assert regularization.largest_stable(made, 1024) == {}
