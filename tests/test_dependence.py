"""What depends on the batch: layers of the checks, what they notice, and what the page draws."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from nbrepro import claims, experiments
from nbrepro.book import dependence as page
from nbrepro.claims.checks import Computed, Summary, answers, compute_one
from nbrepro.claims.nfnets import dependence, devices
from nbrepro.claims.rules import Check, matches
from nbrepro.records.ledger import Record

CHECKS = {
    "B-10": "cheating_pairs",
    "B-10-others": "cheating_others",
    "B-10-class": "cheating_class",
    "B-11": "sorted_batches",
    "B-11-noise": "statistics_noise",
    "B-13": "frozen_statistics",
    "B-13-devices": "synchronized_devices",
}


def outside(claim: str) -> set[str]:
    """The values of a claim's check that one seed finds outside their bounds."""
    rule = claims.get(claim).rule
    assert isinstance(rule, Check)
    assert rule.check == CHECKS[claim]
    found = compute_one(rule.check, 0).values
    return {
        name
        for name, bounds in rule.bounds.items()
        if answers(Summary({name: Computed.of([found[name]])}, ""), {name: bounds}) != "yes"
    }


SMALL = dependence.Small


@pytest.mark.parametrize(
    ("claim", "batchnorm", "wrong"),
    [
        ("B-10", False, {"batchnorm"}),
        ("B-10", True, {"normalizer_free"}),
        ("B-10-others", False, {"batchnorm"}),
        ("B-10-others", True, {"normalizer_free", "moved"}),
        ("B-10-class", False, {"over_twin", "lost_when_mixed"}),
        ("B-10-class", True, {"over_twin", "free_lost_when_mixed"}),
        ("B-11", False, {"batchnorm"}),
        ("B-11", True, {"normalizer_free"}),
        ("B-13", False, {"batchnorm"}),
        ("B-13", True, {"normalizer_free"}),
    ],
)
def test_twins_that_are_both_of_a_kind_are_noticed(
    monkeypatch: pytest.MonkeyPatch, claim: str, batchnorm: bool, wrong: set[str]
) -> None:
    def small(inputs: int, outputs: int, _: bool) -> nn.Module:
        return SMALL(inputs, outputs, batchnorm)

    monkeypatch.setattr(dependence, "Small", lambda i, o, batchnorm: small(i, o, batchnorm))
    assert outside(claim) == wrong


def test_partners_that_are_not_shuffled_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = dependence.matching_loss
    monkeypatch.setattr(dependence, "matching_loss", lambda model, shuffled: loss(model, False))
    assert outside("B-10") == {"shuffled"}


def test_a_cure_that_does_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    show = dependence.show_negatives
    monkeypatch.setattr(dependence, "show_negatives", lambda model, n: show(model.train(), n))
    assert outside("B-13") == {"cured"}


def test_a_changed_parameter_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nudge(model: nn.Module, passes: int) -> None:
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] += 1e-3

    monkeypatch.setattr(dependence, "show_negatives", nudge)
    assert {"batchnorm", "changed"} <= outside("B-13")


def test_means_that_scatter_otherwise_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = {4: (0.5, 0.4), 256: (0.125, 0.04)}
    monkeypatch.setattr(dependence, "statistics_noise_by_size", lambda: noise)
    assert outside("B-11-noise") == {"at_256", "ratio"}


@pytest.mark.parametrize(
    ("name", "differences"), [("own", [0.0]), ("shared", [1e-3]), ("normalizer_free", [1e-3])]
)
def test_processes_that_differ_otherwise_are_noticed(
    monkeypatch: pytest.MonkeyPatch, name: str, differences: list[float]
) -> None:
    sound = {"own": [0.1], "shared": [0.0], "normalizer_free": [0.0], "refusal": "no"}
    monkeypatch.setattr(devices, "run", lambda: sound | {name: differences})
    assert outside("B-13-devices") == {name}


def test_a_process_that_fails_is_an_error_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "__name__", "nbrepro.no_such_module")
    with pytest.raises(RuntimeError, match="no_such_module"):
        devices.run(1)


# --- the layers are PyTorch's ---


def test_several_batches_at_once_are_pytorchs_one_by_one() -> None:
    torch.manual_seed(0)
    ours, theirs = dependence.BatchNorm(5), nn.BatchNorm1d(5)
    batches = torch.randn(3, 8, 5) * 2 + 1
    torch.testing.assert_close(ours(batches), torch.stack([theirs(batch) for batch in batches]))
    one, alone = dependence.BatchNorm(5), nn.BatchNorm1d(5)
    torch.testing.assert_close(one(batches[0]), alone(batches[0]))
    torch.testing.assert_close(one.running_mean, alone.running_mean)
    torch.testing.assert_close(one.running_var, alone.running_var)
    torch.testing.assert_close(one.eval()(batches[1]), alone.eval()(batches[1]))


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_shared_statistics_of_one_process_are_pytorchs(alone: None) -> None:
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.BatchNorm2d(4)).double()
    ours = nn.Sequential(nn.BatchNorm2d(4)).double()
    devices.share_statistics(ours)
    x = torch.randn(6, 4, 3, 3).double() * 3 + 1
    results: list[Any] = []
    for model in (theirs, ours):
        given = x.clone().requires_grad_()
        out = model(given)
        (gradient,) = torch.autograd.grad(out.pow(3).sum(), given)
        results.append((out, gradient, model.state_dict(), model.eval()(x)))
    torch.testing.assert_close(*results)


# --- the page ---


def test_only_batchnorm_lets_one_image_move_the_output_for_another() -> None:
    found = page.influences()
    off = ~torch.eye(8, dtype=torch.bool)
    assert (found["BatchNorm"][off] > 0).all()
    assert (found["normalizer-free"][off] == 0).all()
    for share in found.values():
        torch.testing.assert_close(share.diagonal(), torch.ones(8))


def test_more_devices_differ_more_and_the_twin_by_rounding() -> None:
    found = page.divided()
    differences = [*found["BatchNorm"].values()]
    assert differences == sorted(differences)
    assert max(found["normalizer-free"].values()) < 1e-5 < differences[0]


def test_the_gap_shrinks_as_the_running_statistics_follow() -> None:
    gap = page.gaps(20)["BatchNorm"]
    assert gap[20] < 0.5 * gap[1]


def test_what_looking_costs_is_what_the_check_finds() -> None:
    """Seed by seed, so that the figure's mean is the number beside it."""
    found = compute_one("frozen_statistics", 1).values
    lost = {name: rows[0][0] - rows[0][100] for name, rows in page.looking([1]).items()}
    assert lost["BatchNorm"] == pytest.approx(100 * found["batchnorm"], abs=1e-4)
    assert lost["BatchNorm: evaluation mode"] == 0
    assert lost["normalizer-free"] == pytest.approx(100 * found["normalizer_free"], abs=1e-4)


def test_an_image_is_put_anywhere_in_small_company_and_in_its_place_in_large() -> None:
    places, alone = page.in_company()
    assert page.in_company() == (places, alone), "the same batches every time"
    assert {len(row) for row in places.values()} == {40}
    assert all(abs(place) == pytest.approx(1, abs=0.02) for place in places[2])
    assert len({place > 0 for place in places[2]}) == 2
    scatter = {size: torch.tensor(row).std().item() for size, row in places.items()}
    assert [*scatter.values()] == sorted(scatter.values(), reverse=True)
    for size, std in scatter.items():
        assert 0.6 < std * size**0.5 < 1.5, "about one over the root"
    assert sum(places[256]) / 40 == pytest.approx(alone, abs=0.05)


def test_every_run_of_the_experiment_is_in_one_arm() -> None:
    for spec in experiments.get("small_batches").specs("quick", seeds=1):
        record = Record(spec, "completed", {"test_accuracy": 0.5}, [], {})
        assert sum(matches(record.spec, settings) for settings in page.ARMS.values()) == 1, spec
