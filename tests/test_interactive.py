"""Guesses, answers and figures with sliders: what Python writes, which works without the script."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from nbrepro import experiments, layers
from nbrepro.book import captions, interactive
from nbrepro.book.interactive import GammaCurve, Member, Rectified, Stage
from nbrepro.claims import get
from nbrepro.claims.verdicts import Verdict
from nbrepro.records.features import Clamp, Features, Layer
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "book" / "_static" / "interactive.js"
NF = {"model": "cifar_nf_resnet20", "batch_size": 256, "optimizer": "nesterov"}
ARMS = {
    "BatchNorm": {"model": "bn_cifar_nf_resnet20", "batch_size": 256},
    "no clipping": NF | {"clip": "none"},
    "AGC, λ = 0.01": NF | {"clip": "agc", "clipping": 0.01},
    "never run": {"model": "cifar_nf_resnet20", "lr": 100.0},
}
CURVES = {
    "affine": GammaCurve((0.0005, -0.02, 0.2, 2.0), (0.0, 0.01, 0.1), (0.6, 0.55, 0.3)),
    "everything": GammaCurve((0.5, 0.6, 0.7, -0.8), (0.0, 0.03, 0.1), (0.8, 0.8, 0.79)),
}
MEMBERS = [
    Member("Net-0", [Stage(8, 16, [1.0]), Stage(4, 32, [1.1, 1.2])], "Small."),
    Member("Net-1", [Stage(16, 16, [1.0, 1.4]), Stage(8, 32, [1.1, 1.2, 1.6, 2.0])], "Large."),
]
#: Images in a batch → places of three batches, the last beyond zero at first.
PLACES = {2: [1.0, 1.0, -1.0], 4: [0.25, 1.75, -0.5], 64: [0.4, 0.6, 0.5]}


def records() -> list[Record]:
    """Three seeds of each arm of chapter 5; large rates diverge without clipping."""
    made = []
    for spec in experiments.get("adaptive_gradient_clipping").specs("quick", seeds=3):
        diverged = spec.lr > 6 and spec.clip == "none" and not spec.model.startswith("bn_")
        accuracy = 0.1 if diverged else 0.4 + 0.01 * spec.seed
        row = {"test_accuracy": accuracy, "test_top5": 0.9, "epoch": 1}
        made.append(Record(spec, "diverged" if diverged else "completed", row, [row], {}))
    return made


def trainings() -> list[Record]:
    """Three seeds of three arms over four epochs, and a short arm; one run diverges."""

    def run(train: str, seed: int, *accuracies: float, epochs: int = 4) -> Record:
        curve = [
            {"epoch": e, "test_accuracy": y, "test_top5": 0.9} for e, y in enumerate(accuracies)
        ]
        status = "completed" if len(curve) > epochs else "diverged"
        spec = Spec(model="cifar_resnet14", train=train, epochs=epochs, seed=seed)
        return Record(spec, status, curve[-1], curve, {})

    found = [run("output", 0, 0.1, 0.15, 0.2, epochs=2), run("all", 2, 0.1, 0.3, 0.05)]
    found += [run("all", seed, 0.1, 0.3, 0.52 + seed / 100, 0.55, 0.6) for seed in (0, 1)]
    return found + [
        run("batchnorm", seed, 0.09, 0.2, 0.31, 0.3512, 0.4 + seed / 50) for seed in (2, 0, 1)
    ]


TRAINED = {
    "everything": {"model": "cifar_resnet14", "train": "all"},
    "γ and β": {"model": "cifar_resnet14", "train": "batchnorm"},
    "output layer": {"train": "output"},
    "never run": {"train": "gamma"},
}


def paper(accuracy: float) -> dict[str, dict[str, float]]:
    """As the paper's figure: a value of γ and β, none of everything."""
    return {"all": {"cifar_resnet14": math.nan}, "batchnorm": {"cifar_resnet14": accuracy}}


def epochs(**changes: Any) -> str:
    given: dict[str, Any] = {"caption": "Accuracy.", "published": paper(48)}
    html: str = interactive.epochs(trainings(), TRAINED, **(given | changes)).data
    return html


def judged(runs: list[Record]) -> list[Verdict]:
    return [
        Verdict(get(claim), "inconclusive", records=tuple(r.spec.hash for r in runs))
        for claim in ("F2-a", "F2-b")
    ]


def question(**changes: Any) -> str:
    given: dict[str, Any] = {
        "answer": 7.85,
        "unit": "points",
        "low": -10,
        "high": 30,
        "explain": "So *few*.",
    }
    html: str = interactive.guess("Is $x < 2$, or `y`?", **(given | changes)).data
    return html


PARTS = {
    "guess": question,
    "answers": lambda: interactive.answers("Take $\\gamma$.\n\n- one", "<b>no</b>").data,
    "lambda_ball": lambda: interactive.lambda_ball().data,
    "betas": lambda: interactive.betas().data,
    "rate_map": lambda: interactive.rate_map(records(), ARMS, judged(records()[:5])).data,
    "gamma_threshold": lambda: interactive.gamma_threshold(CURVES).data,
    "stages": lambda: interactive.stages("Net-", MEMBERS).data,
    "epochs": epochs,
    "gain_and_bias": lambda: interactive.gain_and_bias().data,
    "companions": lambda: interactive.companions(PLACES, 0.5, 4).data,
}


class Nesting(HTMLParser):
    """Fails on a tag that is closed in the wrong place; keeps ids and visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.shown = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in ("input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.shown += text


def parsed(html: str) -> Nesting:
    page = Nesting()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def data(html: str) -> Any:
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', html, re.S)
    return json.loads(text)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_sound_and_the_same_each_time(name: str) -> None:
    captions.start("05_x")
    first = PARTS[name]()
    captions.start("05_x")
    assert PARTS[name]() == first
    ids = parsed(first).ids
    assert len(ids) == len(set(ids))
    assert "nan" not in first.lower()
    assert not re.search(r'(src|href)="(?!#|_static/records/|claims/)', first)


@pytest.mark.parametrize("name", sorted(PARTS.keys() - {"answers", "guess"}))
def test_without_the_script_a_figure_shows_its_first_state_and_no_slider(name: str) -> None:
    html = PARTS[name]()
    assert "<svg" in html
    for controls in re.findall(r'<div class="controls"[^>]*>', html):
        assert " hidden" in controls
    assert 'role="group"' in html or "<input" not in html


def test_the_script_is_small_knows_every_part_and_fetches_and_stores_nothing() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.encode()) < 30_000
    for word in ("fetch(", "XMLHttpRequest", "import ", "localStorage", "cookie", "http:", "eval"):
        assert word not in text
    (kinds,) = re.findall(r"const kinds = \{([^}]*)\}", text)
    assert set(re.findall(r"\w+", kinds)) == {n for n in PARTS if "data-nbrepro" in PARTS[n]()}


# --- questions ---


def test_a_guess_has_markdown_mathematics_and_a_folded_answer() -> None:
    html = question()
    assert r'<span class="math notranslate nohighlight">\(x &lt; 2\)</span>' in html
    assert "<code>y</code>" in html
    (fold,) = re.findall(r"<details>(.*?)</details>", html, re.S)
    assert "7.85 points" in fold
    assert "So <em>few</em>." in fold
    assert "7.85" not in parsed(html.replace(fold, "")).shown
    assert data(html) == {
        "answer": 7.85, "shown": "7.85", "low": -10, "high": 30, "unit": "points"
    }  # fmt: skip


def test_no_text_ends_the_numbers_of_a_guess() -> None:
    assert data(question(unit="</script><b>"))["unit"] == "</script><b>"


@pytest.mark.parametrize(("low", "high"), [(0, 5), (10, 20), (7.85, 7.85), (30, -10)])
def test_a_scale_must_hold_the_answer(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=r"the answer 7\.85 must lie between"):
        question(low=low, high=high)


@pytest.mark.parametrize(
    ("low", "high", "step"), [(0, 100, "1"), (0, 1, "0.01"), (-10, 30, "0.1"), (0, 200, "1")]
)
def test_a_slider_has_round_steps(low: float, high: float, step: str) -> None:
    html = question(answer=low, low=low, high=high)
    assert f'step="{step}"' in html
    (middle,) = set(re.findall(r'value="([^"]*)"', html))
    assert float(middle) == pytest.approx((low + high) / 2)


def test_answers_are_folded_numbered_and_escaped() -> None:
    html = PARTS["answers"]()
    assert re.findall(r"<summary>(.*?)</summary>", html) == [
        "Answer to exercise 1",
        "Answer to exercise 2",
    ]
    assert "<li>one</li>" in html
    assert "&lt;b&gt;no&lt;/b&gt;" in html
    assert " open" not in html


# --- figures with sliders ---


@pytest.mark.parametrize(
    "build",
    [
        lambda: interactive.lambda_ball(clipping=0.7),
        lambda: interactive.lambda_ball(ratio=3.0),
        lambda: interactive.betas(alpha=0.33),
        lambda: interactive.betas(blocks=30),
        lambda: interactive.gain_and_bias(gamma=3.0),
        lambda: interactive.gain_and_bias(beta=0.1),
        lambda: interactive.companions(PLACES, 0.5, start=3),
    ],
)
def test_a_slider_starts_where_it_can_go(build: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot start at .*; choose one of [−\d]"):
        build()


def test_betas_draws_what_the_library_expects() -> None:
    html = interactive.betas(alpha=0.5, blocks=3).data
    largest = max(beta for stage in layers.expected_stds([3] * 4, 0.5) for beta in stage)
    assert f">{largest:.3f}</b>" in html
    heights = re.findall(r"M[\d.]+ ([\d.]+)h0", html)
    assert len(heights) == 12
    # The axis ends at 1.5: from 182 (β = 1) to 22.
    assert min(map(float, heights)) == pytest.approx(182 - (largest - 1) / 0.5 * 160, abs=0.01)


@pytest.mark.parametrize(
    ("gamma", "beta"), [(1, 0), (-0.5, -0.5), (1.5, 2.5), (0.05, -0.1), (0, 2), (0, -2), (0, 0)]
)
def test_a_channel_behind_the_relu_is_as_its_values_say(gamma: float, beta: float) -> None:
    """Against the values of a normal channel themselves: a quantile for each of many shares."""
    shares = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    values = (gamma * torch.special.ndtri(shares) + beta).relu()
    channel = Rectified(gamma, beta)
    assert channel.off == pytest.approx(float((values == 0).double().mean()), abs=1e-5)
    assert channel.mean == pytest.approx(float(values.mean()), abs=1e-4)
    assert channel.std == pytest.approx(float(values.std(correction=0)), abs=1e-4)


@pytest.mark.parametrize(
    ("gamma", "beta", "said"),
    [(0, 1, "constant, whatever"), (0, 0, "off, whatever"), (0.01, -1, "off, whatever"),
     (1, -2.5, "off, whatever"), (1, 2.5, "Always on: next"), (-1, 0, "left depends")],
)  # fmt: skip
def test_what_a_channel_is_to_the_next_layer(gamma: float, beta: float, said: str) -> None:
    assert said in Rectified(gamma, beta).said


def test_both_shares_of_a_channel_are_drawn_to_where_the_relu_cuts() -> None:
    html = interactive.gain_and_bias(1, -1).data
    (off, on) = re.findall(r'data-part="o(?:ff|n)" d="M([^"]*)"', html)
    xs = [[float(x) for x in re.findall(r"([\d.]+) [\d.]+", path)] for path in (off, on)]
    zero = data(html)["zero"]
    assert max(xs[0]) == zero == min(xs[1])
    assert '<b data-say="off">84.1 %</b>' in html


def test_companions_are_dots_that_only_their_batch_moves() -> None:
    html = PARTS["companions"]()
    found = data(html)
    assert found["said"] == [["0.94", "1 of 3"], ["0.94", "1 of 3"], ["0.08", "0 of 3"]]
    assert found["bands"][0] / found["bands"][2] == pytest.approx(32**0.5, rel=0.01)
    unit = found["x"][0][0] - 200
    for row, places in zip(found["x"], PLACES.values(), strict=True):
        assert row == pytest.approx([200 + unit * place for place in places], abs=0.1)
    assert found["alone"] == pytest.approx(200 + unit / 2, abs=0.1)
    assert "4: 0.94, 64: 0.08" in html


@pytest.mark.parametrize(("places", "alone"), [(PLACES | {8: [0.1]}, 0.5), (PLACES, 0.0)])
def test_companions_need_like_batches_and_a_side_of_zero(places: Any, alone: float) -> None:
    with pytest.raises(ValueError, match="equally many of each size, and a value that is not zero"):
        interactive.companions(places, alone, 4)


# --- the map of runs ---


def test_the_map_has_a_dot_per_run_that_leads_to_its_record() -> None:
    runs = records()
    html = PARTS["rate_map"]()
    shown = [run for run in runs if run.spec.batch_size == 256 and run.spec.clip in ("none", "agc")
             and run.spec.clipping == 0.01 and run.spec.optimizer == "nesterov"]  # fmt: skip
    linked = re.findall(r'href="_static/records/(\w+)\.json" data-run="(\w+)"', html)
    assert sorted(a for a, _ in linked) == sorted(run.spec.hash for run in shown)
    assert all(a == b for a, b in linked)
    diverged = [run for run in shown if run.status == "diverged"]
    assert diverged
    crosses = re.findall(r'r="[\d.]+"/><path class="line vermilion"', html)
    assert len(crosses) == len(diverged)
    assert "never run" not in html
    for run in diverged:
        assert f"no clipping, rate 6.4, seed {run.spec.seed}: diverged" in html


def test_a_dot_is_the_fuller_the_better_between_chance_and_the_best() -> None:
    html = PARTS["rate_map"]()
    fills = dict(re.findall(r"seed \d: ([\d.]+ %)</title>.*?fill-opacity=\"([\d.]+)\"", html))
    assert float(fills["42.0 %"]) == 1.0
    assert float(fills["40.0 %"]) == pytest.approx(0.3 / 0.32, abs=0.005)
    assert "10.0 %</text>" in html


def test_the_map_knows_which_claims_rest_on_a_run() -> None:
    runs = [run for run in records() if run.spec.model.startswith("bn_")][:2]
    found = data(interactive.rate_map(runs, ARMS, judged(runs[:1])).data)["claims"]
    assert {run: [claim for claim, _ in links] for run, links in found.items()} == {
        runs[0].spec.hash: ["F2-a", "F2-b"]
    }
    assert found[runs[0].spec.hash][0][1] == "claims/F2-a.html"


@pytest.mark.parametrize("seeds", [3, 32])
def test_cells_of_neighbouring_columns_stay_apart(seeds: int) -> None:
    """Columns are further apart than dots, however many there are; a page has 400 units."""
    made = [
        replace(run, spec=run.spec.replace(seed=seed, lr=lr))
        for run in records()[:1]
        for lr in (0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
        for seed in range(seeds)
    ]
    html = interactive.rate_map(made, {"all": {}}).data
    places = sorted({float(x) for x in re.findall(r'class="hit" cx="([\d.]+)"', html)})
    gaps = sorted(b - a for a, b in pairwise(places))
    assert gaps[-5] > 1.5 * gaps[0], "five gaps are those between columns"
    assert html.count('class="hit"') == 6 * seeds
    assert max(places) <= 400 - gaps[0] / 2


def test_a_page_can_say_what_tells_the_rows_apart() -> None:
    assert "and by what holds their gradients (rows)" in PARTS["rate_map"]()
    html = interactive.rate_map(records(), ARMS, by="batch size", takeaway="So it is.").data
    assert "and by batch size (rows)" in html
    assert "<strong>So it is.</strong>" in html


def test_a_name_that_has_no_room_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no room for every .*: shorten to 22 characters"):
        interactive.rate_map(records(), {"every run without any clipping": NF | {"clip": "none"}})


def test_a_map_without_runs_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"none of the 0 records fits .*'never run'"):
        interactive.rate_map([], ARMS)


# --- through training ---


def test_every_seed_of_an_arm_leads_to_its_record_in_order() -> None:
    linked = re.findall(r'href="_static/records/(\w+)\.json" data-name="([^"]*)"', epochs())
    expected = {run.spec.hash: run.spec for run in trainings()}
    assert [name for _, name in linked] == [
        *(f"everything, seed {seed}" for seed in range(3)),
        *(f"γ and β, seed {seed}" for seed in range(3)),
        "output layer, seed 0",
    ]
    for hash_, name in linked:
        assert TRAINED[name.partition(",")[0]]["train"] == expected[hash_].train


def test_a_run_that_diverged_ends_as_a_cross_and_is_in_no_mean() -> None:
    html = epochs()
    everything, affine, _ = data(html)["rows"]
    assert everything["paths"] == [
        [10.0, 30.0, 52.0, 55.0, 60.0],
        [10.0, 30.0, 53.0, 55.0, 60.0],
        [10.0, 30.0, 5.0],
    ]
    assert everything["means"] == [[10.0], [30.0], [52.5], [55.0], [60.0]]
    (cross,) = re.findall(r'data-failed="(\w+)"[^>]*><title>([^<]*)<.*?class="line"', html)
    assert cross == ("diverged", "everything, seed 2: 5.0\u00a0%, diverged")
    assert ">2 of 3 survive: 60.0\u00a0%</text>" in html
    mean, low, high = affine["means"][-1]
    assert mean == 42.0
    # Student's 97.5 % quantile with two degrees of freedom, times 2 / √3.
    assert (low, high) == (round(42 - 4.303 * 2 / 3**0.5, 1), round(42 + 4.303 * 2 / 3**0.5, 1))
    assert affine["who"] == ""
    assert "everything: 10.0\u00a0%, then 2 of 3 survive: 60.0\u00a0%." in html


def test_an_arm_without_survivors_has_no_mean() -> None:
    runs = [run for run in trainings() if run.status == "diverged"]
    html = interactive.epochs(runs, TRAINED, caption="Accuracy.").data
    assert data(html)["rows"][0]["means"] == []
    assert ">0 of 1 survive</text>" in html


def test_runs_of_different_length_stand_by_their_share_of_training() -> None:
    html = epochs()
    assert data(html)["rows"][2]["paths"] == [[10.0, 10.0, 15.0, 15.0, 20.0]]
    assert 'data-values="[0.0, 25.0, 50.0, 75.0, 100.0]"' in html
    assert "same share of their training" in html
    alike = [run for run in trainings() if run.spec.epochs == 4]
    html = interactive.epochs(alike, TRAINED, caption="Accuracy.").data
    assert 'data-values="[0, 1, 2, 3, 4]"' in html
    assert "same share" not in html


def test_a_value_of_the_paper_is_hollow_and_widens_the_axis() -> None:
    assert epochs().count('data-part="paper"') == 1
    assert "hollow, at the end: the paper&#39;s value" in epochs()
    assert data(epochs(published=paper(91)))["end"] == 100
    without = epochs(published={"gamma": {"cifar_resnet14": 91}})
    assert "paper" not in without
    assert data(without)["end"] == 60


def test_names_and_runs_of_a_figure_through_training_are_checked() -> None:
    with pytest.raises(ValueError, match=r"none of the 0 records fits .*'never run'"):
        interactive.epochs([], TRAINED, caption="Accuracy.")
    with pytest.raises(ValueError, match=r"no room for x+: shorten to 44 characters"):
        interactive.epochs(trainings(), {"x" * 45: {"train": "all"}}, caption="Accuracy.")


# --- without small γ ---


def test_a_curve_counts_channels_and_takes_the_last_measured_accuracy() -> None:
    curve = CURVES["affine"]
    assert [curve.off(t) for t in (0.0, 0.001, 0.1, 3.0)] == [0.0, 0.25, 0.5, 1.0]
    assert [curve.accuracy(t) for t in (0.0, 0.009, 0.01, 5.0)] == [0.6, 0.6, 0.55, 0.3]


def test_a_curve_comes_from_the_features_of_a_run() -> None:
    clamped = (Clamp(0.0, 0.0, 0.9), Clamp(0.03, 0.25, 0.8))
    features = Features("0" * 16, (Layer("bn", (0.005, -0.5), (0.0, 1.0)),), (), clamped)
    assert GammaCurve.of(features) == GammaCurve((0.005, -0.5), [0.0, 0.03], [0.9, 0.8])


@pytest.mark.parametrize(
    ("thresholds", "accuracies"),
    [((0.01, 0.1), (1, 1)), ((0, 0.1, 0.01), (1, 1, 1)), ((0, 0.1), (1,)), ((), ())],
)
def test_a_curve_must_rise_from_zero(thresholds: Any, accuracies: Any) -> None:
    with pytest.raises(ValueError, match=r"thresholds that rise from 0"):
        GammaCurve((0.1,), thresholds, accuracies)


def test_the_threshold_moves_over_all_that_was_measured() -> None:
    html = interactive.gamma_threshold(CURVES, start=0.05).data
    assert "[0.0, 0.01, 0.03, 0.1]" in html
    found = data(html)
    assert [said.replace("\u00a0", " ") for said in found["said"][0]] == [
        "0 % zeroed, 60.0 %",
        "25 % zeroed, 55.0 %",
        "50 % zeroed, 55.0 %",
        "50 % zeroed, 30.0 %",
    ]
    assert found["x"] == sorted(found["x"])
    assert "<output>0.03</output>" in html
    assert "affine: at a threshold of 0.01, 25\u00a0% zeroed, 55.0\u00a0%" in html


@pytest.mark.parametrize("count", [0, 5])
def test_as_many_curves_as_there_are_colours(count: int) -> None:
    curves = {str(n): CURVES["affine"] for n in range(count)}
    with pytest.raises(ValueError, match=f"{count} curves; expected 1 to 4"):
        interactive.gamma_threshold(curves)


# --- stages of a family ---


def test_a_box_per_block_as_dark_as_its_beta() -> None:
    html = interactive.stages("Net-", MEMBERS, start=1).data
    stages = re.findall(r'<g data-part="stage">(.*?)</g>', html, re.S)
    dark = [re.findall(r'fill-opacity="(.*?)"', stage) for stage in stages]
    assert dark == [["0.25", "0.55", "0.00", "0.00"], ["0.33", "0.40", "0.70", "1.00"]]
    assert [re.findall(r'height="(.*?)"', stage)[0] for stage in stages] == ["30.0", "15.0"]
    assert "Large." in html
    assert data(html)["said"] == ["Small.", "Large."]


def test_members_of_different_families_are_refused() -> None:
    other = Member("Wide", [Stage(8, 64, [1.0]), Stage(4, 32, [1.1])], "")
    with pytest.raises(ValueError, match="expected a family"):
        interactive.stages("Net-", [*MEMBERS, other])
    with pytest.raises(ValueError, match="cannot start at 2"):
        interactive.stages("Net-", MEMBERS, start=2)
