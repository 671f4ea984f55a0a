"""What notebooks call: parameters are checked at once, pages say what the records say."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from html import unescape
from typing import Any

import pytest

from nbrepro import claims
from nbrepro.book import chapter, tables
from nbrepro.claims.verdicts import Finding, Verdict
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec

DEFAULTS: dict[str, Any] = {"profile": "smoke", "dataset": "cifar10", "seeds": 1}


def begin(**given: Any) -> chapter.Chapter:
    return chapter.begin("08_training_only_batchnorm", DEFAULTS | given)


def test_defaults_are_the_smoke_budget() -> None:
    begun = begin()
    assert (begun.profile, begun.seeds) == ("smoke", 1)


def test_names_of_the_kernel_and_private_names_are_no_parameters() -> None:
    begin(In=[], Out={}, get_ipython=None, exit=None, quit=None, _dh=[], __name__="__main__")


@pytest.mark.parametrize(
    ("given", "error", "hint"),
    [
        ({"profil": "full"}, ValueError, "did you mean 'profile'"),
        ({"seed": 3}, ValueError, "did you mean 'seeds'"),
        ({"profile": "ful"}, ValueError, "did you mean 'full'"),
        ({"seeds": "3"}, TypeError, "expected int"),
        ({"seeds": True}, TypeError, "expected int"),
        ({"seeds": 1.0}, TypeError, "expected int"),
        ({"seeds": 0}, ValueError, "at least 1"),
        ({"profile": 1}, TypeError, "expected str"),
    ],
)
def test_wrong_parameters(given: dict[str, Any], error: type[Exception], hint: str) -> None:
    with pytest.raises(error, match=hint):
        begin(**given)


def test_running_the_cell_again_by_hand_is_no_error() -> None:
    begun = begin()
    assert begin(chapter=begun, begin=chapter.begin, model=object()) == begun


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(ValueError, match="seeds is not set"):
        chapter.begin("08_training_only_batchnorm", {"profile": "smoke", "dataset": "cifar10"})


def test_a_misspelt_parameter_is_reported_before_torch_is_loaded() -> None:
    code = (
        "import sys\n"
        "from nbrepro.book.chapter import begin\n"
        "try:\n"
        "    begin('08', {'profil': 'full'})\n"
        "except ValueError:\n"
        "    print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_damaged_record_stops_the_page(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "00.json").write_text("{")
    monkeypatch.setenv("NBREPRO_RESULTS", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"00\.json"):
        chapter.recorded()


def test_without_records_a_page_says_so(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBREPRO_RESULTS", str(tmp_path))
    assert begin().evidence() == []
    assert "No records yet" in tables.accuracy_table([]).data
    judged = chapter.judged([claims.get("ACC-20")])
    assert tables.tally(judged) == "1 claims: 1 not run."
    assert "No records yet" in tables.arms_table([]).data
    twins = {"BatchNorm": {"model": "bn_cifar_nf_resnet20"}, "NF": {"model": "cifar_nf_resnet20"}}
    assert "No records yet" in tables.twins_table([], twins).data
    assert "No records yet" in tables.over_best([], "AGC", {"clip": "agc"}, {})


def test_a_missing_ledger_is_named_not_taken_for_an_empty_one(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBREPRO_RESULTS", str(tmp_path / "nowhere"))
    for ask in (chapter.recorded, chapter.measured, chapter.judged, begin().evidence):
        with pytest.raises(FileNotFoundError, match=r"nowhere.*clone of the book"):
            ask()


def test_importing_changes_neither_warnings_nor_threads() -> None:
    """Both are set by ``begin``, which owns the process of its notebook."""
    code = (
        "import os, warnings\n"
        "before = list(warnings.filters)\n"
        "from nbrepro.book import chapter\n"
        "assert warnings.filters == before\n"
        "assert 'OMP_NUM_THREADS' not in os.environ\n"
        "chapter.begin('08', {'profile': 'smoke', 'dataset': 'cifar10', 'seeds': 1})\n"
        "import torch\n"
        "assert torch.get_num_threads() == 1\n"
        "assert any(f[1] and f[1].match('IProgress not found') for f in warnings.filters)\n"
    )
    clean = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    subprocess.run([sys.executable, "-c", code], check=True, env=clean)


def ended(spec: Spec, accuracy: float) -> Record:
    status = "diverged" if accuracy < 0.3 else "completed"
    metrics = {"test_accuracy": accuracy, "test_top5": 0.5}
    curve = [{"test_accuracy": 0.1}, {"test_accuracy": accuracy}]
    return Record(spec, status, metrics, curve, {})


def test_pairs_differ_in_one_setting() -> None:
    """Seed 2 has no partner, the AGC run has one; means and interval are of whole pairs."""
    spec = Spec(model="cifar_resnet14", train="batchnorm", epochs=3)
    agc = spec.replace(train="all", clip="agc", clipping=0.01)
    accuracies = {
        "float32": [(spec, 0, 0.5), (spec, 1, 0.6), (agc, 0, 0.4)],
        "auto": [(spec, 0, 0.7)],
        "bfloat16": [(spec, 0, 0.51), (spec, 1, 0.63), (spec, 2, 0.9), (agc, 0, 0.2)],
    }
    records = [
        ended(base.replace(precision=precision, seed=seed), accuracy)
        for precision, runs in accuracies.items()
        for base, seed, accuracy in runs
    ]
    page = tables.paired_table(records, "precision", "float32", "bfloat16").data
    cells = [re.sub("<.*?>", "", cell) for cell in re.findall("<td.*?>(.*?)</td>", page)]
    assert cells[:5] == ["ResNet-14, BatchNorm only", "55.0", "57.0", "+2.0 [-10.7, 14.7]", "2"]
    assert cells[5].endswith("AGC 0.01, rate 0.1")
    assert cells[6:] == ["40.0", "20.0 (1 diverged)", "-20.0", "1"]
    assert "No records yet" in tables.paired_table([], "precision", "float32", "bfloat16").data


# --- tables ---


def text(html: str) -> str:
    """What a reader sees of a piece of HTML."""
    return unescape(re.sub("<.*?>", "", html)).replace("\xa0", " ")


@pytest.mark.parametrize(
    "finding",
    [
        Finding("A and B over C", (3, 3), 0.055, 0.03, 0.08, "yes", difference=True),
        Finding("A over C", (3, 2), -0.0004, -0.03, 0.08, "open", difference=True),
        Finding("A", (1,), 0.5, float("nan"), float("nan"), "open", difference=False),
        Finding("A over B", (7,), 1.504, 1.2, 1.8, "yes", difference=False, ratio=True),
    ],
)
def test_a_finding_on_a_page_reads_as_on_the_command_line(finding: Finding) -> None:
    verdict = Verdict(claims.get("ACC-20"), "inconclusive", (finding,))
    page = tables.verdict_table([verdict]).data
    (shown,) = re.findall('<div class="finding">(.*?)</div>', page)
    assert text(shown) == str(finding)
    kept = re.findall('<span class="number">(.*?)</span>', shown)
    assert [text(k) for k in kept] == [n for n in (finding.numbers, finding.seeds) if n]


def test_the_scorecard_shows_the_finding_nearest_to_failing() -> None:
    clear = Finding("clear", (3, 3), 0.5, 0.4, 0.6, "yes", difference=True)
    narrow = Finding("narrow", (3, 3), 0.2, 0.1, 0.3, "yes", difference=True)
    failed = Finding("failed", (3, 3), 0.0, 0.0, 0.0, "no", difference=True)
    for findings, first in (((clear, narrow), narrow), ((clear, failed, narrow), failed)):
        verdict = Verdict(claims.get("ACC-20"), "inconclusive", findings)
        assert verdict.ours in text(tables.scorecard([verdict]).data)
        assert verdict.ours.startswith(str(first))


@pytest.mark.parametrize(
    ("page", "link"), [("08_training_only_batchnorm", "chapter 8"), ("speed", "speed")]
)
def test_a_claim_may_live_on_any_page(page: str, link: str) -> None:
    claim = replace(claims.get("ACC-20"), chapter=page)
    card = tables.scorecard([Verdict(claim, "not run")]).data
    assert f'<a href="{page}.html">{link}</a>' in card


def test_text_of_the_register_is_escaped() -> None:
    claim = replace(claims.get("ACC-20"), statement="<b>a < b & c</b>")
    escaped = "&lt;b&gt;a &lt; b &amp; c&lt;/b&gt;"
    verdict = Verdict(claim, "not run", note="<i>")
    for page in (
        tables.claim_cards([claim]),
        tables.verdict_table([verdict]),
        tables.scorecard([verdict]),
    ):
        assert escaped in page.data
        assert "<i>" not in page.data


def test_rows_that_do_not_fit_the_head_are_an_error() -> None:
    page = tables.table(("a", "b"), [(1, tables.Cell("2", "±1"))], "<note>").data
    assert '<td data-label="a">1</td>' in page
    assert text(page).split() == ["a", "b", "1", "2", "±1", "<note>"] or "12 ±1" in text(page)
    with pytest.raises(ValueError, match="shorter"):
        tables.table(("a", "b"), [(1,)])


def test_twins_are_compared_at_each_schedule() -> None:
    base = Spec(model="cifar_nf_resnet20", epochs=6, lr=0.4, batch_size=256)
    twins = {"BatchNorm": {"model": "bn_cifar_nf_resnet20"}, "NF": {"model": "cifar_nf_resnet20"}}
    records = [
        ended(base.replace(model=arm["model"], epochs=epochs, seed=seed), accuracy + 0.01 * seed)
        for epochs, accuracies in ((6, (0.5, 0.4)), (30, (0.6, 0.58)))
        for arm, accuracy in zip(twins.values(), accuracies, strict=True)
        for seed in (0, 1)
    ]
    records.append(ended(base.replace(batch_size=4), 0.4))
    page = text(tables.twins_table(records, twins).data)
    assert "batch 256, 6 epochs, rate 0.4 4 times the published rule-10.0" in page
    assert "from 6 to 30 epochs the difference moves by +8.0 points" in page
    assert "batch 4, 6 epochs, rate 0.4one twin is missing" in page


def test_the_best_of_the_rivals_is_chosen_by_its_mean() -> None:
    base = Spec(model="cifar_nf_resnet20", clip="norm")
    records = [
        ended(base.replace(clipping=x, seed=seed), accuracy + 0.01 * seed)
        for x, accuracy in ((0.25, 0.4), (1.0, 0.5))
        for seed in (0, 1)
    ]
    agc = base.replace(clip="agc", clipping=0.01)
    records += [ended(agc.replace(seed=seed), 0.6 + 0.01 * seed) for seed in (0, 1)]
    rivals = {f"norm {x:g}": {"clip": "norm", "clipping": x} for x in (0.25, 1.0, 4.0)}
    said = tables.over_best(records, "AGC", {"clip": "agc"}, rivals)
    assert said.startswith("AGC over norm 1, the best of 2 rivals: +10.0 points [")
    assert said.endswith("n = 2 and 2")
