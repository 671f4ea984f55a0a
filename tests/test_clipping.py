"""What chapter 5 computes live: arms that are in the ledger's grid, and the bound on SkipInit."""

from itertools import islice, repeat

import pandas as pd
import pytest
import torch

from nbrepro import agc, experiments
from nbrepro.book import clipping
from nbrepro.claims.rules import matches
from nbrepro.experiments import batch_sizes
from nbrepro.experiments.adaptive_gradient_clipping import FREE
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec

GRID = experiments.get("adaptive_gradient_clipping").specs("quick", seeds=1)
ADAMW = experiments.get("adamw").specs("quick", seeds=1)


@pytest.mark.parametrize("arms", ["TWINS", "any_rate", "lambdas", "rivals", "parts"])
def test_every_arm_of_a_figure_is_one_of_the_experiment(arms: str) -> None:
    drawn = getattr(clipping, arms)
    for name, settings in (drawn() if callable(drawn) else drawn).items():
        assert any(matches(spec, settings) for spec in GRID), name


def test_arms_of_one_figure_share_no_run() -> None:
    for arms in (clipping.rivals(), clipping.parts(), clipping.at(clipping.TWINS, lr=1.6)):
        for spec in GRID:
            assert sum(matches(spec, settings) for settings in arms.values()) <= 1, spec


def test_the_recursion_is_what_clipping_and_torch_do() -> None:
    """A scalar whose gradient is large and never changes its sign is at the bound in each step."""
    scalar = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = torch.optim.SGD([scalar], 1.6, momentum=0.9, nesterov=True)
    for bound in islice(clipping.reach(repeat(1.6), 0.01), 100):
        scalar.grad = torch.tensor(-1e6, dtype=torch.float64)
        agc.clip_grads_([("scalar", scalar)], clipping=0.01)
        optimizer.step()
        assert scalar.item() == pytest.approx(bound, rel=1e-9)


def test_in_the_shortest_schedule_on_whole_images_the_best_lambda_lets_skipinit_open() -> None:
    """104 steps: with λ = 0.01 it cannot reach 0.1, with 0.04 it can; hence that λ was tried."""
    ends = {name: bound[-1] for name, bound in clipping.bounds().items()}
    assert ends["whole images: batch 4096, rate 1.6, λ = 0.01"] < 0.1
    assert ends["whole images: batch 4096, rate 1.6, λ = 0.04"] > 1


def test_steps_to_a_target() -> None:
    rate, clip = 1.6, 0.01
    steps = clipping.steps_to(0.1, rate, clip)
    path = list(islice(clipping.reach(repeat(rate), clip), steps))
    assert path[-2] < 0.1 <= path[-1]
    assert clipping.steps_to(0.1, rate, 2 * clip) < steps


def test_a_clipped_scalar_stays_below_the_bound_and_a_free_one_does_not() -> None:
    rates = [1.6] * 12
    bound = list(clipping.reach(rates, 0.01))
    free, clipped = (clipping.watch(rates, unclipped) for unclipped in (FREE, ["fc.weight"]))
    assert (clipped.scalars.abs().max(axis=1) <= [1.0001 * w for w in bound]).all()
    assert (free.scalars.abs().max(axis=1) > bound).any()
    assert not free.shares["name"].str.endswith("skip_gain").any()
    assert clipped.shares["name"].str.endswith("skip_gain").any()
    assert sorted(free.shares["step"].unique()) == list(range(1, 13))


def test_how_skipinit_ended() -> None:
    steady = pd.DataFrame([[0.1, -0.2], [0.25, -0.5]], index=[1, 2])
    assert clipping.ending(steady) == "ended at 0.250, 0.500"
    wild = pd.DataFrame([[0.1], [float("nan")]], index=[1, 2])
    assert clipping.ending(wild) == "blew up at step 2 of 2"


def test_every_arm_under_strong_augmentation_is_run() -> None:
    grid = experiments.get("strong_augmentation").specs("quick", seeds=1)
    arms = clipping.augmented()
    found = [[spec for spec in grid if matches(spec, arm)] for arm in arms.values()]
    assert len(arms) == 4
    assert [len(specs) for specs in found] == [1] * 4


def test_whole_images_are_trained_as_in_the_paper() -> None:
    """Figure 2a of 2102.06171: the rate, what is clipped, and branches that have time to open."""
    grid = experiments.get("batch_sizes").specs("quick", seeds=1)
    assert {spec.batch_size for spec in grid} == {256, 1024, 4096}
    for spec in grid:
        assert spec.lr == pytest.approx(0.1 * spec.batch_size / 256)
        arms = [arm for arm in clipping.whole().values() if matches(spec, arm)]
        others = [arm for arm in clipping.largest().values() if matches(spec, arm)]
        assert len(arms) <= 1
        assert len(others) <= 1
        assert arms + others
        papers = spec.clip == "agc" and spec.unclipped == ("fc.weight",)
        if papers and spec.clipping == batch_sizes.LAMBDAS[spec.batch_size]:
            rates = clipping.rates_of(spec, spec.lr, images=50_000)
            assert list(clipping.reach(rates, spec.clipping))[-1] > 1


def test_what_is_compared_at_the_largest_batch_is_run() -> None:
    grid = experiments.get("batch_sizes").specs("quick", seeds=1)
    for arm in clipping.largest().values():
        assert [spec.batch_size for spec in grid if matches(spec, arm)] == [4096]


def test_tables_of_whole_images_compare_seed_by_seed() -> None:
    def run(spec: Spec) -> Record:
        accuracy = 0.3 + 0.01 * spec.seed + 0.05 * (spec.clip == "agc")
        return Record(spec, "completed", {"test_accuracy": accuracy}, [], {})

    runs = [run(spec) for spec in experiments.get("batch_sizes").specs("quick", seeds=3)]
    by_batch = clipping.whole_table(runs).data
    assert by_batch.count("+5.0 points") == 6  # over nothing and over BatchNorm, at three sizes
    at_largest = clipping.largest_table(runs).data
    assert at_largest.count("+5.0 points") == 2  # both forms of AGC over BatchNorm
    assert "-5.0 points" in at_largest  # the norm of the whole gradient against AGC
    for table in (clipping.whole_table([]).data, clipping.largest_table([]).data):
        assert "no records yet" in table


def test_every_run_with_adamw_is_of_one_arm() -> None:
    for spec in ADAMW:
        assert sum(matches(spec, settings) for settings in clipping.adamw().values()) == 1, spec


def test_what_agc_does_to_adamw_is_counted_and_averaged() -> None:
    def run(spec: Spec, accuracy: float, status: str = "completed", seed: int = 0) -> Record:
        row = {"epoch": 6, "test_accuracy": accuracy}
        return Record(spec.replace(seed=seed), status, row, [row], {})

    bare, held = ADAMW[:2]
    assert clipping.adamw_takeaway([]) == ""
    assert clipping.adamw_takeaway([run(bare, 0.4), run(held, 0.425)]) == (
        "With AdamW no run fails, clipped or not; AGC changes the accuracy by +2.5 points on "
        "average over the rates and λ, n = 1."
    )
    twice = [run(bare, 0.4, seed=1), run(held, 0.435, seed=1)]
    told = clipping.adamw_takeaway([run(bare, 0.4), run(held, 0.425), *twice])
    # Student, one degree of freedom: 3.0 ± 12.706 · 0.5
    assert "+3.0 points [-3.4, +9.4] on average over the rates and λ, n = 2." in told
    diverged = [run(bare, 0.1, "diverged"), run(held, 0.4)]
    assert "1 of 1 runs fail without clipping and 0 of 1 with AGC" in clipping.adamw_takeaway(
        diverged
    )
