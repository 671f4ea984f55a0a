"""What the register refuses: no rule can be misspelt, incomplete or impossible in silence."""

import copy
import dataclasses
import math
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nbrepro import claims
from nbrepro.claims.register import Claim, Paper, parse, read_claim, read_claims
from nbrepro.claims.rules import (
    KINDS,
    Arm,
    Bounds,
    Check,
    Failures,
    Gains,
    Level,
    Ordered,
    Pair,
    Value,
)

FOLDER = Path(claims.__file__).parent
FILES = [f"{file.parent.name}/{file.name}" for file in sorted(FOLDER.glob("*/claims.yaml"))]
PAPER = Paper("key2021", "Key 2021", "2100.00001")
CHAPTERS = ("04_nf_resnets", "08_training_only_batchnorm", "speed")


#: A claim of every kind, and of every key that a rule may have, whatever the papers need today.
SAMPLE = "sample/claims.yaml"
SAMPLE_TEXT = """
paper: {key: key2021, short: Key 2021, arxiv: "2100.00001"}
chapters: [05_adaptive_gradient_clipping]
shared:
  - &deep {model: cifar_nf_resnet20, lr: 1.6, batch_size: 256, clip: none, called: deep}
  - &twin {model: bn_cifar_nf_resnet20, lr: 1.6, batch_size: 256, called: twin}
  - &slow {model: cifar_nf_resnet20, lr: 0.4, clip: none, called: slow}
  - &slower {model: bn_cifar_nf_resnet20, lr: 0.4, clip: none, called: slower}
  - &claim
    chapter: 05_adaptive_gradient_clipping
    statement: One.
    place: here
    quoted: [{value: "1", seen: paper}]
  - &run {<<: *claim, experiment: adaptive_gradient_clipping}
claims:
  - <<: *run
    id: S-1
    rule:
      kind: ordered
      pairs: [{low: *deep, high: *twin, between: [-0.1, .inf]}]
      rising: [*slow, *twin]
      gains: [[[*deep, *twin], {low: *slow, high: *slower}]]
      survives: [*twin]
      between: [0.1, .inf]
      metric: test_accuracy
      profiles: [full, quick]
  - <<: *run
    id: S-2
    rule:
      kind: failures
      pairs: [[*deep, *twin]]
      survives: [*twin]
      share: 0.4
      profiles: [quick]
  - <<: *run
    id: S-3
    rule:
      kind: level
      arms: [{<<: *deep, value: {published: 0.5, tolerance: 0.02}}]
      metric: test_accuracy
      over: each network
      profiles: [full]
  - <<: *run
    id: S-4
    rule:
      kind: level
      arms: [*deep]
      metric: untrained_accuracy
      over: all runs
      times_chance: [3, .inf]
  - <<: *claim
    id: S-5
    rule:
      {kind: check, check: agc_formula, evidence: verified, trains: true, bounds: {wrong: [0, 0]}}
"""


def document(file: str) -> Any:
    text = SAMPLE_TEXT if file == SAMPLE else (FOLDER / file).read_text(encoding="utf-8")
    body = parse(text, file)
    body.pop("shared", None)
    return body


def refused(entry: dict[str, Any], chapters: tuple[str, ...] = CHAPTERS) -> str:
    """The message about a claim that must be refused."""
    with pytest.raises(ValueError, match=r"nfnets/claims\.yaml: X-1: ") as caught:
        read_claim(entry, PAPER, chapters, "nfnets/claims.yaml: X-1")
    return str(caught.value)


# --- nothing can be misspelt ---------------------------------------------------------------------


def misspelt(word: str) -> list[str]:
    """``word`` with each letter left out, and with each two neighbours swapped."""
    dropped = {word[:i] + word[i + 1 :] for i in range(len(word))}
    swapped = {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
    return sorted(dropped | swapped - {word})


def mappings(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a rule whose keys are ours, not names of networks or of values."""
    if isinstance(node, dict):
        yield node
        for key, value in node.items():
            if key != "bounds":
                yield from mappings(value)
    elif isinstance(node, list):
        for value in node:
            yield from mappings(value)


def test_the_registers_can_be_read() -> None:
    assert [claim.id for file in FILES for claim in read_claims(document(file), file)] == list(
        claims.register()
    )


@pytest.mark.parametrize("file", [*FILES, SAMPLE])
def test_every_misspelt_key_is_an_error_that_names_the_right_one(file: str) -> None:
    body = document(file)
    tried = 0
    for entry in copy.deepcopy(body["claims"]):
        for mapping in (entry, *entry["quoted"], *mappings(entry.get("rule"))):
            for key in list(mapping):
                value = mapping.pop(key)
                for wrong in misspelt(key):
                    mapping[wrong] = value
                    message = refused_at(entry, body, entry.get("id", "X-1"), file)
                    del mapping[wrong]
                    suggested = "kind is missing" if key == "kind" else f"did you mean {key!r}"
                    assert suggested in message, (wrong, message)
                    tried += 1
                mapping[key] = value
    assert tried > 500


@pytest.mark.parametrize("file", [*FILES, SAMPLE])
def test_every_misspelt_word_of_ours_is_an_error_that_names_the_right_one(file: str) -> None:
    """Kinds, networks, experiments, chapters, and what else is one of a few words."""
    ours = {"kind", "model", "experiment", "chapter", "metric", "over", "device", "by", "seen"}
    ours |= {"train", "optimizer", "clip", "evidence"}
    body = document(file)
    tried = set()
    for entry in copy.deepcopy(body["claims"]):
        for mapping in (entry, *entry["quoted"], *mappings(entry.get("rule"))):
            for key in ours & mapping.keys():
                right = mapping[key]
                for wrong in misspelt(right):
                    mapping[key] = wrong
                    message = refused_at(entry, body, entry["id"], file)
                    assert right in message.partition(repr(wrong))[2], (wrong, message)
                    tried.add(key)
                mapping[key] = right
    assert tried >= {"kind", "model", "experiment", "chapter"}


def test_the_sample_has_every_key_of_every_rule_that_may_be_left_out() -> None:
    """So that the two tests above try them all."""
    rules = [entry["rule"] for entry in document(SAMPLE)["claims"]]
    for kind in ("ordered", "failures", "level", "check"):
        keys = {key for rule in rules if rule["kind"] == kind for key in rule} - {"kind"}
        missing = {field.name for field in dataclasses.fields(KINDS[kind])} - keys
        assert missing <= {"between"} - keys, (kind, missing)


def refused_at(entry: dict[str, Any], body: Any, claim: str, file: str) -> str:
    with pytest.raises(ValueError, match=re.escape(f"{file}: {claim}: ")) as caught:
        read_claim(entry, PAPER, tuple(body["chapters"]), f"{file}: {claim}")
    return str(caught.value)


# --- each kind of mistake ------------------------------------------------------------------------

DEEP = {"model": "cifar_resnet32", "train": "batchnorm"}
SHALLOW = {"model": "cifar_resnet14", "train": "batchnorm"}
NAMED = {"model": "cifar_nf_resnet20", "batch_size": 4, "called": "batch 4"}


def entry(**changes: Any) -> dict[str, Any]:
    """A sound claim, but for the changes; ``None`` leaves an entry out."""
    sound = {
        "id": "X-1",
        "statement": "Deeper is better.",
        "place": "section 1",
        "chapter": "08_training_only_batchnorm",
        "quoted": [{"value": "48 %", "seen": "paper"}],
        "experiment": "training_only_batchnorm",
        "rule": ordered(),
    }
    return {key: value for key, value in (sound | changes).items() if value is not None}


def ordered(*pair: Any, **changes: Any) -> dict[str, Any]:
    return {"kind": "ordered", "pairs": [list(pair or (SHALLOW, DEEP))]} | changes


def level(**changes: Any) -> dict[str, Any]:
    rule = {
        "kind": "level",
        "metric": "test_accuracy",
        "arms": [{"train": "batchnorm"}],
        "between": [0.3, 1.0],
        "over": "each network",
    }
    return {key: value for key, value in (rule | changes).items() if value is not None}


def failures(*pair: Any, **changes: Any) -> dict[str, Any]:
    return {"kind": "failures", "pairs": [list(pair or (SHALLOW, DEEP))]} | changes


def without_runs(**rule: Any) -> dict[str, Any]:
    return entry(experiment=None, rule=rule)


def measured(**changes: Any) -> dict[str, Any]:
    sound = {"benchmark": "nfnet_steps", "cases": ["a over b"], "between": [1.1, math.inf]}
    return without_runs(kind="measured", **(sound | changes))


def read(changed: dict[str, Any], chapters: tuple[str, ...] = CHAPTERS) -> Claim:
    return read_claim(changed, PAPER, chapters, "nfnets/claims.yaml: X-1")


def test_a_sound_claim_is_read_into_typed_rules() -> None:
    low, high = Arm(SHALLOW), Arm(DEEP)
    assert read(entry()).rule == Ordered(pairs=(Pair(low, high),))
    long_form = {"low": SHALLOW, "high": DEEP, "between": [0, 0.1]}
    assert read(entry(rule=ordered() | {"pairs": [long_form]})).rule == Ordered(
        pairs=(Pair(low, high, Bounds(0.0, 0.1)),)
    )
    rising = {"kind": "ordered", "rising": [SHALLOW, DEEP], "profiles": ["full"]}
    assert read(entry(rule=rising)).rule == Ordered(rising=(low, high), profiles=("full",))
    assert read(entry(rule=level())).rule == Level(
        (Arm({"train": "batchnorm"}),), "test_accuracy", "each network", Bounds(0.3, 1.0)
    )
    times = level(between=None, times_chance=[3, math.inf])
    assert read(entry(rule=times)).rule == Level(
        (Arm({"train": "batchnorm"}),),
        "test_accuracy",
        "each network",
        times_chance=Bounds(3.0, math.inf),
    )
    valued = DEEP | {"value": {"published": 0.576, "tolerance": 0.02}}
    rule = level(arms=[valued], between=None, profiles=["full"])
    expected = Level(
        (Arm(DEEP, value=Value(0.576, 0.02)),),
        "test_accuracy",
        "each network",
        profiles=("full",),
    )
    assert read(entry(rule=rule)).rule == expected
    fails = failures(survives=[DEEP], share=0.8)
    assert read(entry(rule=fails)).rule == Failures((Pair(low, high),), (high,), 0.8)
    wide = {"model": "cifar_resnet14x2", "train": "batchnorm"}
    gains = {"kind": "ordered", "gains": [[[SHALLOW, DEEP], [SHALLOW, wide]]], "survives": [DEEP]}
    expected_gains = Gains(Pair(low, high), Pair(low, Arm(wide)))
    assert read(entry(rule=gains)).rule == Ordered(gains=(expected_gains,), survives=(high,))
    check = without_runs(
        kind="check", check="agc_formula", evidence="verified", bounds={"wrong": [0, 0]}
    )
    assert read(check).rule == Check("agc_formula", {"wrong": Bounds(0.0, 0.0)}, "verified")


def test_kinds_of_evidence() -> None:
    assert read(entry()).evidence == read(entry(rule=level())).evidence == "trained"
    assert read(entry(rule=failures())).evidence == "trained"
    assert read(without_runs(kind="counts", table="counts")).evidence == "counted"
    assert read(measured()).evidence == "measured"
    check = {"kind": "check", "check": "x", "bounds": {"wrong": [0, 0]}, "evidence": "arithmetic"}
    assert read(without_runs(**check)).evidence == "arithmetic"
    cited = entry(experiment=None, rule=None, needs="ImageNet")
    assert read(cited).evidence == "cited"


def test_values_and_their_bounds() -> None:
    assert Value(0.5, 0.25).bounds == Bounds(0.25, 0.75)
    for wrong in ((1.5, 0.1), (0.5, 0), (math.nan, 0.1), (0.5, math.nan), (48, 2)):
        with pytest.raises(ValueError, match="no accuracy"):
            Value(*wrong)


def test_settings_of_an_arm_get_the_types_of_a_spec() -> None:
    arm = NAMED | {"lr": 0.025, "weight_decay": 0.0005, "mixup": 0, "unclipped": ["fc.weight"]}
    twin = NAMED | {"model": "bn_cifar_nf_resnet20"}
    changed = entry(experiment="nf_resnets", chapter="04_nf_resnets", rule=ordered(twin, arm))
    rule = read(changed).rule
    assert isinstance(rule, Ordered)
    settings = rule.pairs[0].high.settings
    assert settings["unclipped"] == ("fc.weight",)
    assert isinstance(settings["mixup"], float)
    assert rule.pairs[0].high.called == "batch 4"


def test_a_claim_may_live_on_any_page() -> None:
    assert read(entry(chapter="speed")).chapter == "speed"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        # keys
        (entry(statment="x"), "unknown key 'statment'; did you mean 'statement'?"),
        (entry(paper="x"), "unknown key 'paper'"),
        (entry(statement=None), "statement is missing"),
        (entry(statement=""), "statement is empty"),
        (entry(rule={}), "rule is empty; leave it out or fill it in"),
        (entry(rule="ordered"), "rule is 'ordered' (text); expected a mapping"),
        (entry(rule={"kind": "check", False: 1}), "the key False is no text; put it in quotes"),
        (entry(statement=3), "statement is 3 (a whole number); expected text"),
        # quoted values
        (entry(quoted=None), "quoted is missing"),
        (entry(quoted=[]), "quoted is empty"),
        (entry(quoted={"value": "1", "seen": "paper"}), "expected a list"),
        (entry(quoted=[{"value": 48, "seen": "paper"}]), "quoted 1: value is 48"),
        (entry(quoted=[{"value": "48 %"}]), "quoted 1: seen is missing"),
        (entry(quoted=[{"value": "48 %", "seen": "papr"}]), "did you mean 'paper'?"),
        (entry(quoted=[{"value": "48 %", "seen": "recalled"}]), "quoted 1: value is '48 %', "),
        (entry(by="reviw"), "did you mean 'review'?"),
        # what a test would take
        (entry(rule=None, experiment=None), "needs is missing: without a rule"),
        (entry(needs="Data."), "needs is set, but the claim has a rule"),
        (entry(rule=None, experiment=None, needs=""), "needs is empty"),
        (entry(also="B-14"), "also is 'B-14' (text); expected a list"),
        # kinds
        (entry(rule=ordered(kind="orderd")), "unknown kind 'orderd'; did you mean 'ordered'?"),
        (entry(rule=ordered(kind={})), "unknown kind {}"),
        (entry(rule=ordered(kind=["ordered"])), "did you mean 'ordered'?"),
        (entry(rule={"pairs": [[SHALLOW, DEEP]]}), "kind is missing"),
        (entry(rule=ordered(betwen=[0, 1])), "unknown key 'betwen'; did you mean 'between'?"),
        (entry(rule={"kind": "ordered"}), "needs pairs, gains, or two arms or more in rising"),
        (entry(rule={"kind": "ordered", "rising": [DEEP]}), "two arms or more in rising"),
        (entry(rule=ordered(rising=[DEEP, SHALLOW, DEEP])), "two arms in rising have the same"),
        (entry(rule=level(metric="test_acuracy")), "did you mean 'test_accuracy'?"),
        (entry(rule=level(over="all run")), "did you mean 'all runs'?"),
        (entry(rule=level(between=None)), "between is missing; or set times_chance, or a value"),
        (entry(rule=level(profiles=["smoke"])), "unknown value 'smoke'"),
        (entry(rule=ordered(profiles="full")), "profiles is 'full' (text); expected a list"),
        (measured(device="coda"), "did you mean 'cuda'?"),
        (measured(cases=[]), "cases is empty"),
        (without_runs(kind="counts", table=650), "table is 650"),
        # pairs
        (entry(rule=ordered(SHALLOW, DEEP, DEEP)), "; expected two entries, [low, high]"),
        (entry(rule=ordered(SHALLOW)), "pairs 1 is [{"),
        (entry(rule=ordered() | {"pairs": [{"low": SHALLOW}]}), "pairs 1: high is missing"),
        (entry(rule=ordered(DEEP, DEEP)), "the two arms have the same settings"),
        # arms
        (
            entry(rule=ordered(SHALLOW, DEEP | {"modle": "x"})),
            "pairs 1: high: unknown setting 'modle'; did you mean 'model'?",
        ),
        (entry(rule=ordered(SHALLOW, DEEP | {"seed": 0})), "unknown setting 'seed'"),
        (entry(rule=ordered(SHALLOW, {"called": "deep"})), "an arm needs a setting"),
        (
            entry(rule=ordered(SHALLOW, DEEP | {"lr": "1e-3"})),
            "high: lr is '1e-3' (text); expected a number",
        ),
        (entry(rule=ordered(SHALLOW, DEEP | {"epochs": 8.0})), "expected a whole number"),
        (entry(rule=ordered(SHALLOW, DEEP | {"statistics": 1})), "expected true or false"),
        (entry(rule=ordered(SHALLOW, DEEP | {"unclipped": "fc.weight"})), "expected a list"),
        (entry(rule=ordered(SHALLOW, DEEP | {"epochs": 8})), "the arm with epochs needs called"),
        (entry(rule=ordered(SHALLOW, {"train": "all"})), "needs called, or a model"),
        (
            entry(rule=ordered(SHALLOW, DEEP | {"model": "cifar_resnet23"})),
            "unknown model in the full and quick runs of training_only_batchnorm 'cifar_resnet23'; "
            "did you mean 'cifar_resnet32'?",
        ),
        (
            entry(rule=ordered(SHALLOW, DEEP | {"epochs": -1, "called": "none"})),
            "unknown epochs in the full and quick runs",
        ),
        (
            entry(rule=ordered(SHALLOW, DEEP | {"train": "batchnrm"})),
            "did you mean 'batchnorm'?",
        ),
        (
            entry(rule=level(arms=[{"model": "cifar_resnet218"}], profiles=["quick"])),
            "unknown model in the quick runs of training_only_batchnorm 'cifar_resnet218'",
        ),
        (
            entry(
                experiment="nf_resnets",
                rule=ordered(NAMED, NAMED | {"batch_size": 256, "lr": 0.025}),
            ),
            "none of the full and quick runs of nf_resnets has all settings of the arm batch 4; "
            "the nearest has ",
        ),
        # published values
        (entry(rule=ordered(SHALLOW, DEEP | {"value": 0.5})), "expected a mapping"),
        (
            entry(rule=ordered(SHALLOW, DEEP | {"value": {"published": 57.6, "tolerance": 2}})),
            "high: value: 57.6 ± 2.0 is no accuracy",
        ),
        (
            entry(rule=ordered(SHALLOW, DEEP | {"value": {"published": 0.5}})),
            "value: tolerance is missing",
        ),
        (
            entry(
                rule=level(
                    arms=[DEEP | {"value": {"published": 0.5, "tolerance": 0.1}}], between=None
                )
            ),
            "profiles must be [full]",
        ),
        # failures
        (entry(rule={"kind": "failures"}), "needs pairs, or arms in survives"),
        (entry(rule=failures(share=1.0)), "share is 1.0; it must lie between 0 and 1"),
        (entry(rule=failures(between=[0, 1])), "unknown key 'between'"),
        (
            entry(rule=failures(pairs=[{"low": SHALLOW, "high": DEEP, "between": [0, 1]}])),
            "a pair has between; failures are counted",
        ),
        (
            entry(rule=failures(SHALLOW, DEEP | {"value": {"published": 0.5, "tolerance": 0.1}})),
            "an arm has a value; failures are counted",
        ),
        (entry(rule=failures(SHALLOW, {"train": "all"})), "needs called, or a model"),
        (
            entry(rule=failures(survives=[DEEP | {"model": "cifar_resnet23"}])),
            "did you mean 'cifar_resnet32'?",
        ),
        # gains
        (
            entry(rule={"kind": "ordered", "gains": [[SHALLOW, DEEP]]}),
            "gains 1: low: unknown key 'model'",
        ),
        (
            entry(
                rule={
                    "kind": "ordered",
                    "gains": [
                        [
                            {"low": SHALLOW, "high": DEEP, "between": [0, 1]},
                            [SHALLOW, DEEP],
                        ]
                    ],
                }
            ),
            "gains 1: between belongs to the rule here",
        ),
        # experiments and chapters
        (entry(experiment="training_only_batchnom"), "did you mean 'training_only_batchnorm'?"),
        (entry(experiment=None), "experiment is missing; the rule looks at its runs"),
        (entry(rule=None), "and no rule says how its runs decide"),
        (entry(chapter="sped"), "unknown chapter 'sped'; did you mean 'speed'?"),
        # bounds
        (entry(rule=ordered(between=[0.2, 0.1])), "low comes first"),
        (entry(rule=ordered(between=[math.nan, 0.1])), "no number lies in [nan, 0.1]"),
        (entry(rule=ordered(between=[0.1])), "between is [0.1]; expected two entries, [low, high]"),
        (entry(rule=ordered(between=0.1)), "between is 0.1; expected two entries"),
        (entry(rule=ordered(between=["a", 1])), "low is 'a' (text); expected a number"),
        (entry(rule=ordered(between=[True, 1])), "low is True (true or false)"),
        (entry(rule=ordered(between=[5, math.inf])), "5.0 is out of range"),
        (entry(rule=ordered(between=[1.0, math.inf])), "cannot be met"),
        (entry(rule=ordered(between=[0.1, 0.1])), "cannot be met"),
        (entry(rule=ordered(between=[-math.inf, math.inf])), "decides nothing"),
        (
            entry(rule=ordered() | {"pairs": [{"low": SHALLOW, "high": DEEP, "between": [2, 3]}]}),
            "pairs 1: 2.0 is out of range",
        ),
        (entry(rule=level(between=[0.3, 30])), "30.0 is out of range; an accuracy or a share lies"),
        (entry(rule=level(between=[-0.1, 0.5])), "-0.1 is out of range"),
        (entry(rule=level(between=[0.5, 0.5])), "cannot be met"),
        (entry(rule=level(times_chance=[3, 5])), "between and times_chance are set"),
        (entry(rule=level(between=None, times_chance=[-1, 5])), "-1.0 is out of range"),
        (entry(rule=level(between=None, times_chance=[-math.inf, math.inf])), "decides nothing"),
        (without_runs(kind="check", check="x", bounds={"a": [0, 1]}, evidence="guess"), "guess"),
        (measured(between=[-1, 2]), "-1.0 is out of range; a ratio"),
        (measured(between=[-math.inf, 0]), "cannot be met"),
        (
            without_runs(kind="check", check="x", evidence="counted", bounds={"wrong": [1, 0]}),
            "bounds: wrong: no",
        ),
        (without_runs(kind="check", check="x", bounds={}), "bounds is empty"),
        (without_runs(kind="check", check="x", bounds={"a": [0, 1]}), "evidence is missing"),
    ],
)  # fmt: skip
def test_refused(changed: dict[str, Any], words: str) -> None:
    assert words in refused(changed)


# --- the file ------------------------------------------------------------------------------------

TEXT = """
paper: {key: key2021, short: Key 2021, arxiv: "2100.00001"}
chapters: [speed]
claims:
  - id: A-1
    chapter: speed
    statement: One.
    place: here
    quoted: [{value: "1", seen: paper}]
    needs: Data.
  - id: A-2
    chapter: speed
    statement: Two.
    place: here
    quoted: [{value: "2", seen: paper}]
    needs: Data.
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("chapters:", "chapter:", "f.yaml: unknown key 'chapter'; did you mean 'chapters'?"),
        ("chapters: [speed]", "", "f.yaml: chapters is missing"),
        ("arxiv:", "arxive:", "f.yaml: paper: unknown key 'arxive'; did you mean 'arxiv'?"),
        ('"2100.00001"', "2100.1", "f.yaml: paper: arxiv is 2100.1 (a number); expected text"),
        ("- id: A-2", "- di: A-2", "f.yaml: claim 2: unknown key 'di'; did you mean 'id'?"),
        (
            "statement: Two.",
            "statement: Two.\n    place: there",
            "A-2: line 14: the key 'place' stands twice",
        ),
        ('{value: "2",', '{value: "2", value: "3",', "f.yaml: A-2: line 15: the key 'value'"),
        ('quoted: [{value: "2", seen: paper}]', "quoted: [{", "f.yaml: A-2: line 17: "),
        ("Two.", "Two: three.", "f.yaml: A-2: line 13: mapping values are not allowed here"),
        ("A-2", "A-1", "f.yaml: A-1: the id is used twice"),
    ],
)
def test_a_file_that_is_refused(old: str, new: str, words: str) -> None:
    assert old in TEXT
    with pytest.raises(ValueError, match=re.escape(words)):
        read_claims(parse(TEXT.replace(old, new), "f.yaml"), "f.yaml")


@pytest.mark.parametrize("end", [math.inf, -math.inf, math.nan])
def test_bounds_that_no_number_meets(end: float) -> None:
    with pytest.raises(ValueError, match="no number lies in"):
        Bounds(end, end)
    assert 0.5 in Bounds(0.5, 0.5)


def test_merged_settings_may_be_overridden() -> None:
    """``<<`` and a key of one's own are no duplicates."""
    text = "a: &a {lr: 1, epochs: 2}\nb: &b {<<: *a, lr: 3}\nc: {<<: *b, lr: 4}"
    assert parse(text, "f.yaml")["c"] == {"lr": 4, "epochs": 2}


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("f.yaml is None (nothing); expected a mapping")):
        read_claims(parse("", "f.yaml"), "f.yaml")


def test_the_chapters_of_the_registers_are_pages_of_the_book() -> None:
    toc = yaml.safe_load((Path(__file__).parents[1] / "_toc.yml").read_text(encoding="utf-8"))
    pages = {page["file"] for part in toc["parts"] for page in part["chapters"]}
    for file in FILES:
        assert set(document(file)["chapters"]) <= pages


def test_every_check_has_bounds() -> None:
    for claim in claims.register().values():
        assert not isinstance(claim.rule, Check) or claim.rule.bounds, claim.id


def test_kinds_are_named_like_their_classes() -> None:
    assert all(kind == cls.__name__.lower() for kind, cls in KINDS.items())


def test_verdicts_on_runs_need_no_torch() -> None:
    code = """
        import sys
        from nbrepro import claims
        from nbrepro.claims import verdicts
        for claim in ("ACC-20", "ACC-19", "T6-a"):
            print(verdicts.judge(claims.get(claim), []).verdict)
        print("torch" in sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:4] == ["not run"] * 3 + ["False"]
