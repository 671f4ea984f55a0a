import math
import subprocess
import sys
from itertools import pairwise

import pytest

from nbrepro import claims
from nbrepro.claims.tables import printed, read_tables
from nbrepro.models.nfnet import VARIANTS

PAPERS = ["bn_only", "nfnets"]


@pytest.mark.parametrize("paper", PAPERS)
def test_every_table_says_where_it_stands(paper: str) -> None:
    for name, table in printed(paper).items():
        assert table.place.startswith(("Table ", "Figure ", "Released code", "timm ")), name
        assert table.seen in claims.SEEN
        assert table.unit
        for cells in table.rows.values():
            assert tuple(cells) == table.columns
            assert all(isinstance(cell, int | float | str) for cell in cells.values())
    assert printed(paper) is printed(paper)


def test_values_by_row_and_by_column() -> None:
    table = printed("nfnets")["imagenet"]
    assert table.rows["NFNet-F1"]["top1"] == table.column("top1")["NFNet-F1"] == 84.7
    assert math.isnan(table.rows["BoTNet-110"]["v100"])


def test_unknown_names_are_refused_with_the_nearest() -> None:
    table = printed("nfnets")["imagenet"]
    with pytest.raises(ValueError, match="unknown paper 'nfnet'; did you mean 'nfnets'"):
        printed("nfnet")
    with pytest.raises(ValueError, match=r"unknown table of nfnets 'family1'.* 'family'"):
        printed("nfnets")["family1"]
    with pytest.raises(ValueError, match=r"unknown row .*did you mean 'EfficientNet-B7'"):
        table.rows["EffNet-B7"]
    with pytest.raises(ValueError, match=r"unknown column .*did you mean 'top1'"):
        table.column("top-1")


def test_a_row_that_lacks_a_number_is_refused() -> None:
    entry = {"place": "1", "seen": "paper", "unit": "%", "columns": ["a", "b"], "rows": {"F0": [1]}}
    with pytest.raises(ValueError, match=r"x\.yaml: family, row 'F0': 1 cells for 2 columns"):
        read_tables({"family": entry}, "x.yaml")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "x.yaml is no mapping of tables by name"),
        ({"family": 3}, "x.yaml: family is 3"),
        ({"family": {"place": "1", "colums": ["a"]}}, "x.yaml: family: unknown key 'colums'; did"),
    ],
)
def test_a_broken_file_is_named(document: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_tables(document, "x.yaml")


def test_torch_is_not_needed() -> None:
    code = "import sys; from nbrepro.claims import checks, tables; tables.printed('nfnets')"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True)


def test_the_networks_are_those_of_the_family_table() -> None:
    for name, printed_row in printed("nfnets")["family"].rows.items():
        variant = VARIANTS[name.removeprefix("NFNet-").lower()]
        assert dict(printed_row) == {
            "blocks": ", ".join(map(str, variant.depths)),
            "dropout": variant.dropout,
            "train_pixels": variant.train_pixels,
            "test_pixels": variant.test_pixels,
        }


def quoted(claim: str) -> str:
    """All published values of a claim, as one text."""
    return " | ".join(quoted.value for quoted in claims.get(claim).quoted)


def test_values_that_claims_quote_are_the_printed_ones() -> None:
    tables = printed("nfnets")
    rows = tables["imagenet"].rows
    family = [rows[f"NFNet-F{n}"] for n in range(6)] + [rows["NFNet-F6 + SAM"]]
    f1, f5, f5_sam = rows["NFNet-F1"], rows["NFNet-F5"], rows["NFNet-F5 + SAM"]
    b0, b7, r50 = rows["EfficientNet-B0"], rows["EfficientNet-B7"], rows["ResNet-50"]
    large = tables["extra_data"].rows["NFNet-F4+"]
    times = tables["step_times"].rows
    ratio = [times["BatchNorm"][f"F{n}"] / times["second conv"][f"F{n}"] for n in range(4)]
    expected = {
        "F1-a": f"TPUv3: {b7['tpu']} against {f1['tpu']} ms; "
        f"V100: {b7['v100']} against {f1['v100']} ms",
        "F1-a-print": f"{b7['tpu']} / {f1['tpu']} ms",
        "F1-b": f"{f5['tpu']} against {b7['tpu']} ms on TPUv3; "
        f"on V100 {f5['v100']} against {b7['v100']}",
        "F1-c": f"F5 {f5['top1']} %, F5 with SAM {f5_sam['top1']} %, "
        f"F6 with SAM {family[6]['top1']} %; "
        f"before, {rows['EfficientNet-B8 + MaxUp']['top1']} %",
        "T3-params": ", ".join(str(row["params"]) for row in family) + " M",
        "T3-flops": ", ".join(f"{row['flops']:.2f}" for row in family) + " B",
        "T5-plus": f"{large['params']} M and {large['flops']} B",
        "T5": f"{large['top1']} %",
        "F4": f"F1: {f1['flops']} B, {f1['params']} M; B7: {b7['flops']} B, {b7['params']} M; "
        f"both {b7['top1']} %",
        "T2-b": ", ".join(
            str(times[row]["F0"]) for row in ("baseline", "modified width", "second conv")
        ),
        "T6-a": ", ".join(f"{r:.2f}" for r in ratio) + " times",
        "T6-a-print": ", ".join(f"{100 * (r - 1):.0f}" for r in ratio) + " % longer",
        "S5-a": f"{b0['flops']} against {r50['flops']:.2f} B; {b0['tpu']} against {r50['tpu']} ms "
        f"(TPUv3), {b0['v100']} against {r50['v100']} (V100)",
        "S5-a-print": f"{b0['flops']} against {r50['flops']:.2f} B; {b0['tpu']} against "
        f"{r50['tpu']} ms (TPUv3); {b0['top1']} against {r50['top1']} %",
        "S5-c": ", ".join(f"{b['tpu'] / a['tpu']:.2f}" for a, b in pairwise(family[:6])),
        "S5-d": "{train_pixels}/{test_pixels} to ".format(**tables["family"].rows["NFNet-F0"])
        + "{train_pixels}/{test_pixels} pixels".format(**tables["family"].rows["NFNet-F6"]),
        "S5-e": ", ".join(str(rate) for rate in tables["family"].column("dropout").values()),
        "A-SAM": f"{f5_sam['tpu']} against {f5['tpu']} ms",
    }
    for claim, text in expected.items():
        assert text in quoted(claim), claim


def test_gains_that_claims_quote_are_differences_of_printed_ones() -> None:
    rows = printed("nfnets")["ablation"].rows

    def gain(after: str, before: str) -> list[float]:
        pairs = zip(rows[after].values(), rows[before].values(), strict=True)
        return [a - b for a, b in pairs]

    width = gain("modified width", "baseline")
    assert quoted("T2-a").startswith(", ".join(f"{g:+.1f}" if g else "0" for g in width))
    assert {f"{g:.1f}" for g in gain("second conv", "modified width")} == {"0.4"}
    added = [("RandAugment", "MixUp"), ("MixUp", "second conv"), ("CutMix", "RandAugment")]
    spans = [f"+{min(gain(*rows)):.1f} to {max(gain(*rows)):.1f}" for rows in added]
    assert ", ".join(spans) in quoted("T2-c")
