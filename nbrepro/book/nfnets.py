"""What the chapter on the NFNet family counts and quotes: networks as built, tables as printed.

No number of the paper is written here; they come from :func:`nbrepro.claims.tables.printed`.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from statistics import mean
from typing import TYPE_CHECKING, Any

from nbrepro.book import figures
from nbrepro.book.found import against
from nbrepro.book.interactive.stages import Member, Stage
from nbrepro.book.markup import table
from nbrepro.claims.nfnets.counts import blueprint, count_macs, size
from nbrepro.claims.statistics import digits, paired
from nbrepro.claims.tables import printed
from nbrepro.models.nfnet import VARIANTS

if TYPE_CHECKING:
    from IPython.display import HTML, Markdown

    from nbrepro.book.figures import Chart
    from nbrepro.records.ledger import Record
    from nbrepro.records.timings import Benchmark

ARXIV = "arXiv 2102.06171"
_FAMILY = [f"F{number}" for number in range(7)]
_IMAGENET = printed("nfnets")["imagenet"]


def _row(network: str) -> Mapping[str, Any]:
    """What Table 3 prints of a network; the paper has F6 only with SAM."""
    rows = _IMAGENET.rows
    return rows[network if network in rows else f"{network} + SAM"]


# --- the architecture ---


def members() -> list[Member]:
    """F0 to F6 as built, with what they cost and reach."""
    return [_member(name) for name in _FAMILY]


def _member(name: str) -> Member:
    variant, network = VARIANTS[name.lower()], _network(name)
    shapes, holds = [], []
    blocks = iter(network.blocks)
    side = variant.train_pixels // 4  # behind the stem
    for depth in variant.depths:
        stage = [next(blocks) for _ in range(depth)]
        side //= stage[0].stride
        channels = stage[0].branch.conv3.out_channels
        shapes.append(Stage(side, channels, [block.beta for block in stage]))
        holds.append(sum(map(size, stage)) / size(network))
    paper = _row(f"NFNet-{name}")
    said = (
        f"NFNet-{name}: {sum(variant.depths)} blocks, images of {variant.train_pixels} pixels in "
        f"training and {variant.test_pixels} in tests. {size(network) / 1e6:.1f} million "
        f"parameters, {100 * max(holds):.0f} % of them in stage {1 + holds.index(max(holds))}, and "
        f"{_macs(name, variant.test_pixels):.1f} billion multiply-adds, counted by us. The paper "
        f"prints {paper['top1']} % top-1{' with SAM' if name == 'F6' else ''}, and "
        f"{paper['tpu']:,.0f} ms for a training step on TPUv3."
    )
    return Member(f"NFNet-{name}", shapes, said)


@cache
def _network(name: str) -> Any:
    return blueprint(f"nfnet_{name.lower()}")


@cache
def _macs(name: str, pixels: int) -> float:
    """Billions of multiply-adds for an image."""
    return count_macs(_network(name), pixels) / 1e9


# --- counted ---


def family_table() -> "HTML":
    """Parameters and multiply-adds of F0 to F6, beside those of Tables 1 and 3."""
    rows = []
    for name in _FAMILY:
        variant, paper = VARIANTS[name.lower()], _row(f"NFNet-{name}")
        cells = (
            name,
            f"{_macs(name, variant.test_pixels):.2f} ({paper['flops']:.2f})",
            f"{_macs(name, variant.train_pixels):.2f}",
            f"{size(_network(name)) / 1e6:.1f} ({paper['params']})",
            f"{variant.train_pixels} / {variant.test_pixels}",
            " ".join(map(str, variant.depths)),
        )
        rows.append([cell.replace(" ", "\u00a0") for cell in cells])  # each stays on one line
    head = ("network", "multiply-adds", "in training", "parameters", "pixels", "blocks")
    note = (
        "Multiply-adds in billions, at test and at training resolution; parameters in millions; "
        "pixels in training / in tests. Counted from our networks; in brackets as printed "
        f"({ARXIV}, Tables 1 and 3)."
    )
    return table(head, rows, note)


def design_table() -> "HTML":
    """What the two changes of the architecture cost F0: counted, and the printed step times."""
    resnet = (256, 512, 1024, 2048)
    designs = {
        "baseline": blueprint("nfnet_f0", widths=resnet, second_conv=False),
        "modified width": blueprint("nfnet_f0", second_conv=False),
        "second conv": blueprint("nfnet_f0"),
    }
    steps = printed("nfnets")["step_times"].column("F0")
    costs = {
        name: (size(model) / 1e6, count_macs(model, VARIANTS["f0"].train_pixels) / 1e9, steps[name])
        for name, model in designs.items()
    }
    rows = []
    for name, cost in costs.items():
        more = [f"({_percent(a, b)})" for a, b in zip(cost, costs["baseline"], strict=True)]
        shown = (f"{cost[0]:.1f}", f"{cost[1]:.2f}", f"{cost[2]}")
        rows.append((name, *(f"{a} {b}" for a, b in zip(shown, more, strict=True))))
    head = ("NFNet-F0", "parameters, 10⁶", "multiply-adds, 10⁹", "step, ms, TPUv3")
    note = (
        f"Parameters and multiply-adds at {VARIANTS['f0'].train_pixels} pixels counted by us; step "
        "times as printed in Table 6."
    )
    return table(head, rows, note)


def _percent(after: float, before: float) -> str:
    return f"{100 * (after / before - 1):+.0f} %"


# --- quoted ---


def cost_figure() -> "Chart":
    """Printed accuracy against multiply-adds, parameters and step time (Table 3)."""

    def points(*networks: str) -> dict[str, list[float]]:
        columns = ("flops", "params", "tpu", "top1")
        return {n.split("-")[1]: [_IMAGENET.rows[n][c] for c in columns] for n in networks}

    with_sam = "NFNet-F5, F6 with SAM"
    families = {
        "NFNet": points(*(f"NFNet-{name}" for name in _FAMILY[:6])),
        "EfficientNet": points(*(f"EfficientNet-B{n}" for n in (0, 3, 4, 5, 6, 7))),
        with_sam: points("NFNet-F5 + SAM", "NFNet-F6 + SAM"),
    }
    costs = ("10⁹ multiply-adds", "10⁶ parameters", "ms per training step (TPUv3)")
    named = {
        "NFNet": {"F0": (5, -14), "F1": (5, -14)},
        "EfficientNet": {"B0": (8, -3), "B4": (6, -14), "B7": (-20, 6)},
    }
    note = f"all values as printed: {ARXIV}, {_IMAGENET.place}"
    return figures.trade_offs(families, costs, named, note)


def sentence_table() -> "HTML":
    """Sentences of the paper that are arithmetic on its tables, and what the tables say."""
    steps = printed("nfnets")["step_times"].rows
    f = [_row(f"NFNet-{name}") for name in _FAMILY[:6]]
    b0, b7, resnet = (_row(n) for n in ("EfficientNet-B0", "EfficientNet-B7", "ResNet-50"))

    def more(after: str, before: str) -> str:
        rows = zip(steps[after].values(), steps[before].values(), strict=True)
        return ", ".join(_percent(a, b) for a, b in rows)

    def growth(device: str) -> str:
        return ", ".join(f"{b[device] / a[device]:.2f}" for a, b in pairwise(f))

    return table(
        ("the paper says", "its tables say"),
        [
            (
                "F1's step is 8.7 times shorter than EfficientNet-B7's (abstract)",
                f"{b7['tpu'] / f[1]['tpu']:.2f} times on TPUv3, "
                f"{b7['v100'] / f[1]['v100']:.1f} on V100 (Table 3)",
            ),
            (
                "F5 has B7's training latency (Figure 1)",
                f"{f[5]['tpu'] / b7['tpu']:.3f} times B7's on TPUv3, "
                f"{f[5]['v100'] / b7['v100']:.2f} times on V100 (Table 3)",
            ),
            (
                "each variant trains about half as fast as the one before (section 5)",
                f"step times grow by {growth('tpu')} on TPUv3, by {growth('v100')} on V100 "
                "(F0 to F5, Table 3)",
            ),
            (
                "the width pattern roughly preserves training speed (section 5)",
                f"{more('modified width', 'baseline')} (F0 to F3, Table 6)",
            ),
            (
                "the second convolution has almost no impact on training time (section 5)",
                f"{more('second conv', 'modified width')} (Table 6)",
            ),
            (
                "with BatchNorm a step takes 20 to 40 % longer (section 6.1)",
                f"{more('BatchNorm', 'second conv')} (Table 6)",
            ),
            (
                "EfficientNet-B0 has about ten times fewer FLOPs than ResNet-50 at a similar "
                "latency (section 5)",
                f"{resnet['flops'] / b0['flops']:.1f} times fewer; "
                f"{b0['tpu'] / resnet['tpu']:.2f} times the latency on TPUv3, "
                f"{b0['v100'] / resnet['v100']:.2f} on V100 (Table 3)",
            ),
        ],
    )


#: Label on the axis → row of Table 2, in the order in which the recipe grows.
_LADDER = {
    "baseline": "baseline",
    "+ width": "modified width",
    "+ second conv": "second conv",
    "+ MixUp": "MixUp",
    "+ RandAugment": "RandAugment",
    "+ CutMix": "CutMix",
}


def _ablation(row: str) -> list[float]:
    """Top-1 of F0 to F3 in a row of Table 2."""
    return list(printed("nfnets")["ablation"].rows[row].values())


def ladder_figure() -> "Chart":
    """Printed accuracy of F0 to F3 as the recipe grows (Table 2)."""
    steps = {label: _ablation(row) for label, row in _LADDER.items()}
    note = f"all values as printed, n = 3 seeds: {ARXIV}, Table 2"
    return figures.ladder(steps, _ablation("BatchNorm"), _FAMILY[:4], note)


def ladder_takeaway() -> str:
    """How much of the recipe's gain is architecture, and how much augmentation, in points."""
    parts = {
        "The two changes of the architecture add": ("baseline", "second conv"),
        "MixUp, RandAugment and CutMix add": ("second conv", "CutMix"),
        "leaving BatchNorm out adds": ("BatchNorm", "CutMix"),
    }
    said = []
    for part, (before, after) in parts.items():
        gains = [a - b for a, b in zip(_ablation(after), _ablation(before), strict=True)]
        said.append(f"{part} {min(gains):.1f} to {max(gains):.1f} points")
    return ", ".join(said[:-1]) + f", and {said[-1]}."


# --- what regularizes a small network ---

_PLAIN: dict[str, Any] = {"augmentation": "none", "dropout": 0.0, "sam": 0.0}
#: Reader's name → what was added to a small network that over-fits; the first is nothing.
ADDED: dict[str, dict[str, Any]] = {
    "nothing": _PLAIN,
    "dropout and stochastic depth": _PLAIN | {"dropout": 0.25},
    "crops and mirror images": {"augmentation": "crop-flip", "randaugment": 0.0},
    "the same, RandAugment, MixUp, CutMix": {"augmentation": "crop-flip", "randaugment": 5.0},
    "SAM": _PLAIN | {"sam": 0.05},
}


def over_fit(records: "Sequence[Record]") -> str:
    """How far training and test accuracy of the runs without any regularization end apart."""
    ends = [run.curve[-1] for run in figures.runs_of(records, _PLAIN)]
    if not ends:
        return ""
    train, test = (
        100 * mean(end[f"{part}_accuracy"] for end in ends) for part in ("train", "test")
    )
    return (
        f"With nothing added {train:.0f} % of the training images are right at the end, and "
        f"{test:.0f} % of the test images."
    )


def added_text(records: "Sequence[Record]") -> "Markdown":
    """What each addition is worth in points, against nothing."""
    from IPython.display import Markdown

    plain, *others = ADDED.items()
    lines = [
        f"- {name}: **{against(records, settings, plain[1])}**"
        for name, settings in others
        if figures.runs_of(records, settings)
    ]
    return Markdown("Against nothing, seed by seed:\n\n" + "\n".join(lines))


def averaged_text(records: "Sequence[Record]") -> "Markdown":
    """Averaged weights against the last ones, half-way and at the end of the same runs."""
    from IPython.display import Markdown

    runs = [run for run in figures.runs_of(records, _PLAIN) if "ema_test_accuracy" in run.metrics]
    if not runs:
        return Markdown("No records yet.")
    told = []
    for when, share in (("half-way", 0.5), ("at the end", 1.0)):
        rows = [run.curve[round(share * (len(run.curve) - 1))] for run in runs]
        gain = paired(
            *([row[name] for row in rows] for name in ("test_accuracy", "ema_test_accuracy"))
        )
        low, high = (digits(100 * end, "+.1f") for end in gain.interval)
        told.append(f"{when} **{digits(100 * gain.mean, '+.1f')}** points [{low}, {high}]")
    return Markdown(
        f"And ours? Runs with nothing added, decay at most {runs[0].spec.ema:g}; the averaged "
        f"weights against the last ones of the same run: {' and '.join(told)} of test accuracy "
        f"(n = {len(runs)})."
    )


def transfer_table() -> "HTML":
    """Fine-tuned after pre-training on 300 million images, with and without BatchNorm (Table 4)."""
    paper = printed("nfnets")["transfer"]
    gaps, rows = [], []
    for depth in (50, 101, 152, 200):
        cells = []
        for pixels in paper.columns:
            bn, nf = (paper.rows[f"{kind}-ResNet-{depth}"][pixels] for kind in ("BN", "NF"))
            gaps.append(nf - bn)
            cells.append(f"{bn} → {nf} ({nf - bn:+.1f})")
        rows.append((f"ResNet-{depth}", *cells))
    head = ("network", *(f"{pixels} pixels" for pixels in paper.columns))
    note = (
        f"BatchNorm → normalizer-free, as printed, one run each; gaps {min(gaps):+.1f} to "
        f"{max(gaps):+.1f}, mean {mean(gaps):+.2f} points."
    )
    return table(head, rows, note)


def released_table() -> "HTML":
    """The accuracies that published weights are compared with, see :mod:`nbrepro.imagenet`."""
    from nbrepro import imagenet

    rows = [
        (
            f"F{name[-1]}",
            VARIANTS[name.removeprefix("nfnet_")].test_pixels,
            paper.top1,
            paper.top5,
            paper.how,
        )
        for name, paper in imagenet.PRINTED.items()
    ]
    head = ("network", "test pixels", "top-1, %", "top-5, %", "what it is")
    return table(head, rows, f"As printed: {imagenet.SOURCE}.")


# --- measured ---

_PAIR = "NFNet-F0 over BN-NFNet-F0,"


def timing_text(timings: Sequence["Benchmark"]) -> "Markdown":
    """What the step times say: the twins at two sizes on a CPU, and what no GPU has measured."""
    from IPython.display import Markdown

    text = []
    if not any(timing.on_gpu for timing in timings):
        text.append(
            "No GPU has run this benchmark for the page you read. The claims about accelerators "
            "wait for one, and no CPU timing stands in for them."
        )
    for timing in timings:
        few, many = (timing.rows.get(f"{_PAIR} {side} px, batch 4") for side in (64, 192))
        if few and many and not timing.on_gpu:
            text += [_twins(few, many), _parts(few, many)]
    return Markdown("\n\n".join(text))


def timing_takeaway(timings: Sequence["Benchmark"]) -> str:
    """Which of the twins is the slower one, where all machines agree."""
    ratios = [
        row["ratio"] for t in timings for case, row in t.rows.items() if case.startswith(_PAIR)
    ]
    machine = "machine" if any(t.on_gpu for t in timings) else "CPU"
    where = (
        f"On the one {machine} measured" if len(timings) == 1 else f"On every {machine} measured"
    )
    if ratios and max(ratios) < 1:
        return f"{where}, the network without BatchNorm takes longer."
    if ratios and min(ratios) > 1:
        return f"{where}, the network with BatchNorm takes longer."
    return ""


def _twins(few: Mapping[str, Any], many: Mapping[str, Any]) -> str:
    closer = few["ratio"] < many["ratio"] < 1
    return (
        f"On the CPU a step of F0 takes {1 / few['ratio']:.1f} times as long as its BatchNorm "
        f"twin's at 64 pixels and {1 / many['ratio']:.1f} times at 192"
        + (
            ": the fewer pixels, the more F0 loses."
            if closer
            else ": the difference does not shrink with the pixels as a fixed cost would."
        )
    )


def _parts(few: Mapping[str, Any], many: Mapping[str, Any]) -> str:
    per_pixel, fixed = {}, {}
    for kind, key in (("nf", "milliseconds"), ("bn", "peer_milliseconds")):
        squares = many["pixels"] ** 2 - few["pixels"] ** 2
        per_pixel[kind] = (many[key] - few[key]) / squares
        fixed[kind] = few[key] - few["pixels"] ** 2 * per_pixel[kind]
    return (
        "A line through the two sizes divides a step into a part that grows with the pixels and a "
        "part that does not. In the first, BatchNorm takes "
        f"{per_pixel['bn'] / per_pixel['nf']:.2f} times as long as F0; in the second, F0 takes "
        f"{fixed['nf'] / fixed['bn']:.1f} times as long as BatchNorm."
    )


def memory_table(timings: Sequence["Benchmark"]) -> "HTML | None":
    """Peak memory of each pair of networks; None where none was measured, as on a CPU."""
    rows = [
        (
            case,
            f"{row['pixels']} and {row['peer_pixels']}",
            f"{row['pieces']} and {row['peer_pieces']}",
            f"{row['peak_bytes'] / 2**30:.1f} and {row['peer_peak_bytes'] / 2**30:.1f}",
        )
        for timing in timings
        for case, row in timing.rows.items()
        if "peak_bytes" in row
    ]
    if not rows:
        return None
    head = ("case", "pixels", "pieces of a batch", "peak memory, GiB")
    return table(head, rows, "Of the first and of the second network, each measured on its own.")
