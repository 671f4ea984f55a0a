"""The page of a claim: all that its verdict rests on, in links that lead to the files."""

import csv
import io
import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from nbrepro import claims, cli
from nbrepro.book import evidence, found
from nbrepro.book.evidence import Evidence
from nbrepro.claims.rules import Check, Measured, Trained

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def ours() -> Evidence:
    return evidence.gather(ROOT / "results")


@pytest.fixture(scope="module")
def bodies(ours: Evidence) -> dict[str, str]:
    return {name: evidence.body(claim, ours) for name, claim in claims.register().items()}


@pytest.fixture(scope="module")
def static(ours: Evidence, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "_static"
    evidence.ship(ours, folder)
    return folder


def words(html: str) -> str:
    return " ".join(unescape(re.sub("<[^>]+>", " ", html)).split())


def test_every_page_has_sentence_verdict_place_and_rule(
    ours: Evidence, bodies: dict[str, str]
) -> None:
    for name, claim in claims.register().items():
        said, verdict = words(bodies[name]), ours.verdicts[name][0]
        assert " ".join(found.bare(claim).split()) in said, name
        assert f">{verdict.verdict}</span>" in bodies[name], name
        assert " ".join(claim.place.split()) in said, name
        assert ("How it is decided" in said) == (claim.rule is not None), name
        if claim.rule is None:
            assert " ".join(claim.needs.split()) in said, name


def test_every_run_of_a_verdict_is_linked_and_ships_as_it_is(
    ours: Evidence, bodies: dict[str, str], static: Path
) -> None:
    linked = 0
    for name, rows in ours.verdicts.items():
        if not isinstance(rows[0].claim.rule, Trained):
            continue
        links = set(re.findall(r'href="\.\./(_static/records/[0-9a-f]{16}\.json)"', bodies[name]))
        assert links == {f"_static/records/{run}.json" for row in rows for run in row.records}, name
        for link in links:
            shipped = static.parent / link
            assert shipped.read_bytes() == (ROOT / "results/runs" / shipped.name).read_bytes()
        linked += len(links)
    assert linked > 300


def test_accuracies_of_a_page_are_those_of_the_records(
    ours: Evidence, bodies: dict[str, str]
) -> None:
    by_hash = {record.spec.hash: record for record in ours.records}
    for run in ours.verdicts["ACC-10"][0].records:
        row = re.search(rf"<tr>(?:(?!</tr>).)*{run}\.json.*?</tr>", bodies["ACC-10"], re.DOTALL)
        record = by_hash[run]
        assert row, run
        said = words(row[0])
        assert said.startswith(f"{record.spec.seed} "), said
        assert f"{100 * record.metrics['test_accuracy']:.2f} %" in said
        assert record.provenance["commit"][:8] in said


def test_every_link_of_a_page_leads_somewhere(bodies: dict[str, str], static: Path) -> None:
    pages = {f"{name}.html" for name in bodies}
    book = {path.stem for path in (ROOT / "book").iterdir()}
    for name, html in bodies.items():
        for link in re.findall(r'href="([^"]+)"', html):
            target = link.partition("#")[0]
            if target.startswith("../_static/"):
                assert (static / target.removeprefix("../_static/")).is_file(), (name, link)
            elif target.startswith("../"):
                assert target.removeprefix("../").removesuffix(".html") in book, (name, link)
            else:
                assert target in pages or target.startswith("https://arxiv.org/"), (name, link)


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        (Trained, "nbrepro run {id} --profile"),
        (Check, "nbrepro verify {id}"),
        (Measured, "python benchmarks/{rule.benchmark}.py"),
    ],
)
def test_what_makes_a_verdict_again(kind: type, command: str, bodies: dict[str, str]) -> None:
    asked = [claim for claim in claims.register().values() if isinstance(claim.rule, kind)]
    assert asked
    for claim in asked:
        assert command.format(id=claim.id, rule=claim.rule) in words(bodies[claim.id])


def test_what_makes_a_verdict_again_trains_the_runs_that_it_rests_on(
    ours: Evidence, bodies: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    again = 0
    for name, (verdict, *_) in ours.verdicts.items():
        if isinstance(verdict.claim.rule, Trained) and verdict.records:
            command = re.search(rf"nbrepro (run {name} [^\n<]+)", bodies[name])
            assert command
            planned = cli._planned(cli.parser().parse_args(command[1].split()))[1]
            missing = {*verdict.records} - {p.spec.hash for p in planned}
            rest = [r for r in ours.records if r.spec.hash in missing]
            assert not any(verdict.claim.feeds_on(r.spec) for r in rest), name
            again += 1
    assert again > 50


def test_text_of_the_register_is_escaped(ours: Evidence) -> None:
    claim = replace(claims.get("ACC-20"), statement="<b>a & b</b>", place="<i>")
    rows = [replace(row, claim=claim) for row in ours.verdicts["ACC-20"]]
    html = evidence.body(claim, replace(ours, verdicts={**ours.verdicts, "ACC-20": rows}))
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in html
    assert "<b>a" not in html
    assert "<i>" not in html


def test_tables_for_machines_have_every_verdict(ours: Evidence, static: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((static / "verdicts.csv").read_text("utf-8"))))
    assert [(row["id"], row["verdict"]) for row in rows] == [
        (v.claim.id, v.verdict) for v in ours.deciding
    ]
    reports = json.loads((static / "verdicts.json").read_text("utf-8"))
    assert [(entry["id"], entry["verdict"]) for entry in reports] == [
        (row["id"], row["verdict"]) for row in rows
    ]


def test_no_page_is_made_from_half_the_evidence(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "0123456789abcdef.json").write_text("{}")
    with pytest.raises(RuntimeError, match=r"0123456789abcdef\.json"):
        evidence.gather(tmp_path)


def test_links_to_a_page(tmp_path: Path) -> None:
    assert evidence.link("ACC-20") == "claims/ACC-20.html"
    assert evidence.link("ACC-20", "api/agc") == "../claims/ACC-20.html"
    with pytest.raises(ValueError, match="'ACC-20'"):
        evidence.link("ACC20")
