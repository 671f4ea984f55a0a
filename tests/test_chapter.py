"""What notebooks call: parameters are checked at once, pages say what the records say."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from html import unescape
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from nbrepro import claims, experiments
from nbrepro.book import chapter, markup, tables
from nbrepro.claims.findings import Answer, Finding
from nbrepro.claims.verdicts import Verdict
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


def told(page: Any) -> list[str]:
    """The paragraphs of a page's HTML as text."""
    plain = re.sub(r"<(?!/?p>)[^>]*>", "", page.data).replace("&nbsp;", " ")
    return re.findall("<p>(.*?)</p>", plain, re.DOTALL)


def test_without_records_a_page_says_so(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.setenv("NBREPRO_RESULTS", str(tmp_path))
    assert begin().evidence() == []
    judged = chapter.judged([claims.get("ACC-20")])
    assert told(tables.tally(judged)) == [
        "Of 1 claim decided by training on real images: 1 not run."
    ]


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


def test_a_profile_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few runs of the whole recipe do not hide the others, and can be had; many do."""
    specs = {
        profile: experiments.get("training_only_batchnorm").specs(profile, "cifar10-jpeg", seeds=2)
        for profile in ("quick", "full")
    }
    quick = [ended(spec, 0.4) for spec in specs["quick"]]
    few = {spec.replace(seed=0) for spec in specs["full"][:3]}
    full = [ended(spec, 0.5) for spec in specs["full"] if spec.replace(seed=0) in few]
    monkeypatch.setattr(chapter, "recorded", lambda: [*full, *quick])
    page = chapter.Chapter("08_training_only_batchnorm", **DEFAULTS)
    assert page.evidence() == page.evidence(profile="quick") == quick
    assert page.evidence(profile="full") == full
    full = [ended(spec, 0.5) for spec in specs["full"]]
    assert page.evidence() == full


def test_runs_are_held_against_the_recipe_of_their_own_paper() -> None:
    """Those of chapter 3 once were held against the other paper's."""

    def shown(name: str, *experiments: str) -> str:
        return chapter.Chapter(name, **DEFAULTS).deviations(*experiments).data

    assert "ImageNet" in shown("03_regularization_and_large_batches", "largest_rates")
    assert "ImageNet" not in shown("09_why_affine_parameters")
    with pytest.raises(ValueError, match="adamw and adaptive_gradient_clipping have different"):
        shown("05_adaptive_gradient_clipping")


def rows(page: Any) -> dict[str, list[str]]:
    """First cell of each row → the others."""
    cells = (re.findall("<td.*?>(.*?)</td>", row) for row in re.findall("<tr>.*?</tr>", page, re.S))
    return {text(first): [text(each) for each in others] for first, *others in filter(None, cells)}


def test_what_differs_is_listed_in_order_and_each_run_counted_once() -> None:
    spec = Spec(model="cifar_resnet14")
    runs = [
        ended(spec.replace(epochs=epochs, weight_decay=decay, seed=seed), 0.5)
        for epochs, decay in ((200, 1e-4), (3, 1e-4), (15, 0.0))
        for seed in (0, 1)
    ]
    shown = rows(tables.deviations([*runs, *runs[:2]], None).data)
    assert shown["epochs"] == ["160", "3, 15, 200"]
    assert shown["weight decay"] == ["0.0001", "0, 0.0001"]
    assert shown["seeds"] == ["5", "2"]
    assert not any("crops" in name for name in shown)


def test_what_differs_is_said_in_words() -> None:
    started = Spec(model="cifar_resnet14", batchnorm_init="oneone")
    shown = rows(
        tables.deviations([ended(started, 0.5), ended(started.replace(lr=1), 0.5)], None).data
    )
    assert shown["start of γ and β"] == ["γ from [0, 1), β = 0", "γ = 1, β = 1"]
    assert shown["learning rate"] == ["0.1", "0.1, 1"]
    without = ended(Spec(model="cifar_nf_resnet20", skip_init=False), 0.5)
    assert "SkipInit" not in rows(tables.deviations([without], None).data), "that study has none"
    both = [ended(started.replace(batchnorm_init=start), 0.5) for start in ("fixed", "oneone")]
    assert (
        rows(tables.deviations(both, None).data)["start of γ and β"][1]
        == "γ = 1, β = 0; γ = 1, β = 1"
    )
    twins = {
        "clip": "agc or none",
        "optimizer": "nesterov",
        "warmup_from_zero": True,
        "unclipped": "",
    }
    agc = [ended(started.replace(clip="agc", unclipped=()), 0.5)]
    shown = rows(tables.deviations(agc, twins).data)
    assert shown == {
        "clipping of gradients": ["agc or none", "AGC"],
        "optimizer": ["Nesterov", "SGD"],
        "warm-up from zero": ["yes", "no"],
    }


def test_crops_of_small_images_move_them_further() -> None:
    """The border has four pixels, whatever the side; digits are not cropped."""
    spec = Spec(model="cifar_resnet14", dataset="cifar10-16px")
    digits = ended(spec.replace(dataset="digits", augmentation="none"), 0.5)
    name = "crops shift by at most, of the side"
    assert rows(tables.deviations([ended(spec, 0.5), digits], None).data)[name] == ["1/8", "1/4"]
    both = [ended(spec.replace(dataset=data), 0.5) for data in ("cifar10-16px", "cifar10")]
    assert rows(tables.deviations(both, None).data)[name] == ["1/8", "1/8, 1/4"]
    assert name not in rows(tables.deviations([digits], None).data)
    other = {"dataset": "ImageNet", "augmentation": "crop-flip"}
    assert name not in rows(tables.deviations(both, other).data)


def test_a_page_may_add_runs_to_what_differed() -> None:
    page = chapter.Chapter("08_training_only_batchnorm", **DEFAULTS)
    longer = ended(Spec(model="cifar_resnet14", train="batchnorm", epochs=777), 0.5)
    assert "777" not in page.deviations().data
    assert "777" in page.deviations(also=[longer]).data


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
    assert cells[6:] == ["40.0", "0 of 1 survive", "-", "1"]
    assert "No records yet" in tables.paired_table([], "precision", "float32", "bfloat16").data


# --- tables ---


def text(html: str) -> str:
    """What a reader sees of a piece of HTML."""
    return unescape(re.sub("<.*?>", "", html)).replace("\xa0", " ")


def found(
    label: str,
    n: tuple[int, ...],
    effect: float,
    low: float,
    high: float,
    answer: Answer,
    unit: Literal["points", "%", "×"],
) -> Finding:
    """A finding that was not corrected."""
    return Finding(label, n, effect, low, high, answer, unit)


@pytest.mark.parametrize(
    "finding",
    [
        found("A and B over C", (3, 3), 0.055, 0.03, 0.08, "yes", "points"),
        found("A over C", (3, 2), -0.0004, -0.03, 0.08, "open", "points"),
        found("A", (1,), 0.5, float("nan"), float("nan"), "open", "%"),
        found("A over B", (7,), 1.504, 1.2, 1.8, "yes", "×"),
    ],
)
def test_a_finding_on_a_page_reads_as_on_the_command_line(finding: Finding) -> None:
    verdict = Verdict(claims.get("ACC-20"), "inconclusive", (finding,))
    page = tables.scorecard([verdict]).data
    shown = re.findall('<td data-label="ours, the least clear">(.*?)</td>', page)[0]
    assert text(shown) == str(finding)
    kept = re.findall('<span class="number">(.*?)</span>', shown)
    assert [text(k) for k in kept] == [n for n in (finding.numbers, finding.seeds) if n]


def test_the_scorecard_shows_the_finding_nearest_to_failing() -> None:
    clear = found("clear", (3, 3), 0.5, 0.4, 0.6, "yes", "points")
    narrow = found("narrow", (3, 3), 0.2, 0.1, 0.3, "yes", "points")
    failed = found("failed", (3, 3), 0.0, 0.0, 0.0, "no", "points")
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
    assert f'<a href="{page}.html#ACC-20">{link}</a>' in card


def test_text_of_the_register_is_escaped() -> None:
    claim = replace(claims.get("ACC-20"), statement="<b>a < b & c</b>")
    escaped = "&lt;b&gt;a &lt; b &amp; c&lt;/b&gt;"
    verdict = Verdict(claim, "not run", note="<i>")
    for page in (
        tables.scorecard([verdict]),
        tables.cited([Verdict(replace(cited_only(claim), needs="<i>"), "cited only")]),
    ):
        assert escaped in page.data
        assert "<i>" not in page.data


def cited_only(claim: claims.Claim) -> claims.Claim:
    return replace(claim, rule=None, experiment=None, needs="a cluster")


# --- verdicts: what stands beside them ---


def ruled(**given: Any) -> Any:
    """A verdict as the tables read it, with one finding."""
    finding = SimpleNamespace(
        label="A over B",
        numbers="+3.0 points [+0.1, +5.9]",
        seeds="n = 5",
        significance="p = 0.04, corrected 0.2",
        single="yes",
        answer="open",
        failed=(),
        published="",
        value="",
    )
    finding.single = given.pop("answered", finding.single)
    for name in ("numbers", "failed", "published"):
        setattr(finding, name, given.pop(name, getattr(finding, name)))
    base = {
        "claim": claims.get("ACC-20"),
        "verdict": "inconclusive",
        "tone": "open",
        "single": "reproduced at reduced scale",
        "value": "",
        "seeds_needed": 12,
        "findings": (finding,),
        "weakest": finding,
        "scale": "quick: 8 epochs on cifar10",
        "note": "",
        "missing": (),
    }
    finding.value = given.get("value", "")
    return SimpleNamespace(**(base | given))


def test_single_and_corrected_answer_stand_side_by_side_where_they_differ() -> None:
    said = text(tables.scorecard([ruled()]).data)
    assert "yes by itself, open after the correction" in said
    assert "uncorrected: reproduced at reduced scale" in said
    assert "12 seeds per arm would settle it" in said
    same = text(
        tables.scorecard([ruled(answered="open", single="inconclusive", seeds_needed=None)]).data
    )
    assert "by itself" not in same
    assert "uncorrected" not in same
    assert "seeds per arm" not in same


def test_failures_and_values_are_told() -> None:
    survivors = "2 of 5 survive, at 58.7 %"
    html = tables.scorecard([ruled(failed=(3,), numbers=survivors)]).data
    assert survivors in html
    assert f'<span class="number">{survivors}' not in html, "long, so it must wrap"
    said = text(tables.scorecard([ruled(value="differs", published="+9.7 ± 0.8 points")]).data)
    assert "published +9.7 ± 0.8 points: differs" in said
    assert "published value: differs" in said


def test_the_tally_counts_training_apart_and_first() -> None:
    trained, counted = claims.get("ACC-20"), claims.get("PAR-1")
    verdicts = [
        Verdict(cited_only(trained), "cited only"),
        Verdict(counted, "counts agree"),
        Verdict(trained, "reproduced at reduced scale"),
        Verdict(claims.get("ACC-14"), "contradicted"),
    ]
    assert told(tables.tally(verdicts)) == [
        "Of 2 claims decided by training on real images: 1 contradicted, "
        "1 reproduced at reduced scale.",
        "Of 1 claim decided by counting parameters and operations: 1 counts agree.",
        "Nothing of ours bears on the others: 1 cited only.",
    ]
    groups = tables.by_evidence(verdicts)
    assert list(groups) == [*tables.EVIDENCE]
    assert [v.claim.id for v in groups["trained"]] == ["ACC-20", "ACC-14"]


def test_every_kind_of_evidence_of_the_register_has_a_group() -> None:
    assert {claim.evidence for claim in claims.register().values()} <= set(tables.EVIDENCE)


# --- reviews ---


def stated(n: int, *answers: str, paper: str = "agrees", **said: str) -> Any:
    given = {"why": None, "note": None} | said
    return SimpleNamespace(n=n, says=f"statement {n}", claims=answers, paper=paper, **given)


def test_a_review_is_answered_statement_by_statement() -> None:
    verdicts = [
        Verdict(claims.get("ACC-20"), "inconclusive"),
        Verdict(claims.get("ACC-14"), "not run"),
        Verdict(claims.get("PAR-1"), "counts agree"),
        Verdict(cited_only(claims.get("ACC-21")), "cited only"),
    ]
    statements = (
        stated(1, "PAR-1", "ACC-20"),
        stated(2, "PAR-1", "ACC-14", paper="differs", note="<the paper says less>"),
        stated(3, "ACC-21", "ACC-14"),
        stated(4, "ACC-21"),
        stated(5, paper="own", why="nobody can"),
    )
    review: Any = SimpleNamespace(key="mine", statements=statements)
    assert tables.review_tally(review, verdicts).data == (
        "5 statements: 1 put to training on real images (0 settled), 1 to measurement, "
        "counting, arithmetic or a check of code (1 settled), 1 not run yet, 1 cited only, "
        "1 without a claim."
    )
    half: Any = SimpleNamespace(key="mine", statements=(stated(1, "ACC-20", "ACC-22"),))
    verdicts.append(Verdict(claims.get("ACC-22"), "contradicted"))
    assert "(0 settled, 1 in part)" in tables.review_tally(half, verdicts).data
    page = tables.review(review, verdicts).data
    rows = re.findall("<tr id.*?</tr>", page, re.DOTALL)
    assert len(rows) == 5
    assert 'href="claims/PAR-1.html"' in rows[0]
    assert [text(badge) for badge in re.findall('<span class="verdict .*?</span>', rows[0])] == [
        "counts agree",
        "inconclusive",
    ]
    assert "differs from the paper" in rows[1]
    assert "&lt;the paper says less&gt;" in rows[1]
    assert "nobody can" in rows[4]


def test_rows_that_do_not_fit_the_head_are_an_error() -> None:
    page = markup.table(("a", "b"), [(1, markup.Cell("2", "±1"))], "<note>").data
    assert '<td data-label="a">1</td>' in page
    assert text(page).split() == ["a", "b", "1", "2", "±1", "<note>"] or "12 ±1" in text(page)
    with pytest.raises(ValueError, match="shorter"):
        markup.table(("a", "b"), [(1,)])


def test_the_source_on_a_page_has_the_summary_of_its_docstring_alone() -> None:
    from nbrepro.models import nfnet
    from nbrepro.train import step

    shown = chapter.source(step.train_step).data
    assert '"""Train on one batch: forward, loss, backward, clipping, update."""\n' in shown
    assert "Args:" not in shown
    assert shown.endswith(".double()\n")
    method = chapter.source(nfnet.Block.forward).data
    assert method.startswith("def forward(")
    _, *summary = method.splitlines()[:3]
    assert all(len(line) <= chapter.COLUMN for line in summary)
    assert " ".join(map(str.strip, summary)).endswith('ceil(W / stride)]``."""')
