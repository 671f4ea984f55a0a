"""How often the rules of the verdicts answer where there is nothing to find.

Experiments are simulated in which a claim is neither true nor false: the difference that it asks
about lies exactly on its bound, or both arms fail equally often. Every answer is then wrong. Of a
single question no more than 5 % may come out as yes, and no more than 5 % as no; of a whole paper's
questions, corrected together, no more than 5 % of the papers may hold any wrong yes, or any no.

    python benchmarks/null_experiments.py
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbrepro.claims import findings
from nbrepro.claims.findings import Answer, Finding, Run
from nbrepro.claims.rules import Bounds
from nbrepro.records.ledger import default_root, write_signed
from nbrepro.records.provenance import provenance

SEED = 0
SIMULATIONS = 2000
#: About as many as the trained comparisons of the paper that has more of them.
FAMILY = 72
#: Seeds per arm: of the first runs, of most, and of those that were to settle a claim.
SEEDS = (3, 5, 8, 16)
ABOVE = Bounds(0.0, math.inf)
#: At most two points worse.
MARGIN = Bounds(-0.02, math.inf)

Shape = Callable[[np.random.Generator], Sequence[Answer]]


def arms(
    rng: np.random.Generator, counts: Sequence[int], fails: float = 0.0, shared: bool = True
) -> list[list[Run]]:
    """Arms of equal mean accuracy, two points of spread and as much again by seed.

    Args:
        rng: draws everything.
        counts: seeds of each arm.
        fails: share of the runs that end at chance.
        shared: whether the arms share their seeds.
    """
    by_seed = rng.normal(0.42, 0.02, sum(counts))
    drawn = []
    first = 0
    for count in counts:
        seeds = range(first, first + count)
        accuracies = by_seed[first : first + count] + rng.normal(0, 0.02, count)
        failed = rng.random(count) < fails
        drawn.append(
            [
                Run(seed, 0.1 if bad else float(a), bool(bad))
                for seed, a, bad in zip(seeds, accuracies, failed, strict=True)
            ]
        )
        first += 0 if shared else count
    return drawn


def moved(runs: Sequence[Run], by: float) -> list[Run]:
    """The same runs, so much more accurate."""
    return [run._replace(accuracy=run.accuracy + by) for run in runs]


def compared(*counts: int, fails: float = 0.0, shared: bool = True) -> Shape:
    """One arm over another, between which there is no difference."""

    def shape(rng: np.random.Generator) -> list[Answer]:
        low, high = arms(rng, counts, fails, shared)
        return [findings.compare("", low, high, ABOVE).single]

    return shape


def at_the_margin(n: int) -> Shape:
    """An arm that is exactly as much worse as "not worse" allows."""

    def shape(rng: np.random.Generator) -> list[Answer]:
        low, high = arms(rng, (n, n))
        return [findings.compare("", low, moved(high, MARGIN.low), MARGIN).single]

    return shape


def gained(n: int) -> Shape:
    """Two pairs with the same gain."""

    def shape(rng: np.random.Generator) -> list[Answer]:
        a, b, c, d = arms(rng, (n,) * 4)
        return [findings.gain("", (a, moved(b, 0.05)), (c, moved(d, 0.05)), ABOVE).single]

    return shape


def failing(n: int, fails: float) -> Shape:
    """Two arms that fail equally often."""

    def shape(rng: np.random.Generator) -> list[Answer]:
        one, other = arms(rng, (n, n), fails)
        return [findings.fails_more("", one, other).single]

    return shape


def surviving(n: int) -> Shape:
    """An arm of which exactly half survive."""

    def shape(rng: np.random.Generator) -> list[Answer]:
        (runs,) = arms(rng, (n,), 0.5)
        return [findings.survives("", runs, 0.5).single]

    return shape


def leveled(n: int) -> Shape:
    """An arm whose mean is exactly the bound."""

    def shape(rng: np.random.Generator) -> list[Answer]:
        (runs,) = arms(rng, (n,))
        return [findings.level("", runs, Bounds(0.42, 1.0)).single]

    return shape


def paper(n: int, fails: float, correct: bool) -> Shape:
    """All comparisons of a paper: a reference over eleven arms each, as over AGC's variants."""

    def shape(rng: np.random.Generator) -> list[Answer]:
        found: list[Finding] = []
        while len(found) < FAMILY:
            reference, *others = arms(rng, (n,) * 12, fails)
            found += [findings.compare("", other, reference, ABOVE) for other in others]
        found = findings.corrected(found[:FAMILY])
        return [finding.answer if correct else finding.single for finding in found]

    return shape


#: In the order of the table.
SHAPES: dict[str, Shape] = {
    **{f"one arm over another, n = {n}, paired": compared(n, n) for n in SEEDS},
    "one arm over another, n = 3 and 3, Welch": compared(3, 3, shared=False),
    "one arm over another, n = 3 and 5, Welch": compared(3, 5, shared=False),
    **{
        f"one arm over another, n = {n}, {100 * fails:g} % of the runs fail": compared(
            n, n, fails=fails
        )
        for n in SEEDS
        for fails in (0.1, 0.5)
    },
    **{f"one arm over another, at a margin, n = {n}": at_the_margin(n) for n in SEEDS},
    **{f"one gain over another, n = {n}": gained(n) for n in SEEDS},
    **{f"failures of one arm over another's, n = {n}": failing(n, 0.5) for n in SEEDS[1:]},
    **{f"half survive, n = {n}": surviving(n) for n in SEEDS[1:]},
    **{f"mean at its bound, n = {n}": leveled(n) for n in SEEDS},
    **{
        f"any of {FAMILY}, n = {n}, {100 * fails:g} % fail, {words}": paper(n, fails, correct)
        for n, fails in ((3, 0.0), (5, 0.0), (8, 0.0), (8, 0.2), (16, 0.2))
        for correct, words in ((False, "single"), (True, "corrected"))
    },
}


def shares(name: str, simulations: int, seed: int = SEED) -> dict[str, float]:
    """Of the simulated experiments of a shape, how many hold a wrong yes, and a wrong no."""
    rng = np.random.default_rng([seed, *name.encode()])
    answers = [set(SHAPES[name](rng)) for _ in range(simulations)]
    return {
        "reproduced": sum("yes" in found for found in answers) / simulations,
        "contradicted": sum("no" in found for found in answers) / simulations,
    }


def write(rows: dict[str, dict[str, float]], simulations: int) -> Path:
    """Store the table in the ledger, in place of the one before."""
    body: dict[str, Any] = {
        "benchmark": "null_experiments",
        "seed": SEED,
        "simulations": simulations,
        "rows": rows,
        "provenance": provenance(),
    }
    path = default_root() / "null_experiments.json"
    write_signed(path, body)
    return path


def main() -> None:
    """Simulate, print and record."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument(
        "--smoke", action="store_true", help="five experiments of each shape; writes nothing"
    )
    smoke = arguments.parse_args().smoke
    simulations = 5 if smoke else SIMULATIONS
    rows = {}
    for name in SHAPES:
        rows[name] = row = shares(name, simulations)
        print(
            f"{name:<56} reproduced {row['reproduced']:6.1%}   "
            f"contradicted {row['contradicted']:6.1%}",
            flush=True,
        )
    if not smoke:
        print(write(rows, simulations))


if __name__ == "__main__":
    main()
