"""A run that starts from the weights of another one: its parent."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nbrepro import data, models
from nbrepro.data import Dataset
from nbrepro.records.ledger import Ledger
from nbrepro.spec import PRETRAINING, Spec
from nbrepro.sweep import Left, SweepOptions, run_one
from nbrepro.train import assembly, loop
from nbrepro.train.checkpoint import digest

FIRST, SECOND = "digits-classes0to4", "digits-classes5to9"
SPEC = Spec(
    model="cifar_nf_resnet8",
    dataset=SECOND,
    pretrained=f"{FIRST}:1",
    augmentation="none",
    epochs=2,
    batch_size=128,
    skip_init=False,
    precision="float32",
    seed=3,
)
PARENT = SPEC.parent
assert PARENT is not None


@pytest.fixture(scope="module")
def second() -> Dataset:
    return data.load(SECOND)


@pytest.fixture(scope="module")
def start() -> dict[str, Tensor]:
    """What a pre-training of one epoch left."""
    assert PARENT is not None
    return loop.train(PARENT, data.load(FIRST), device="cpu").model.state_dict()


@pytest.fixture
def options(tmp_path: Path) -> SweepOptions:
    return SweepOptions(ledger=Ledger(tmp_path / "results"), device="cpu", progress=False)


def trained(options: SweepOptions, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hashes of the runs that take an epoch of training, as they come."""
    seen: list[str] = []
    real = loop.train_epoch

    def noted(driver: loop.Eager, *args: object) -> dict[str, float]:
        seen.append(driver.run.spec.hash)
        return real(driver, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "train_epoch", noted)
    return seen


def test_the_parent_is_one_run_whatever_its_children_do() -> None:
    children = [
        SPEC,
        SPEC.replace(train="output", lr=0.4, epochs=7),
        SPEC.replace(clip="agc", weight_decay=0, ema=0.9, statistics=False, dataset="cifar10"),
    ]
    assert {child.parent for child in children} == {PARENT}
    assert (PARENT.dataset, PARENT.epochs, PARENT.train, PARENT.seed) == (FIRST, 1, "all", 3)
    assert {name: getattr(PARENT, name) for name in PRETRAINING} == PRETRAINING
    assert PARENT.parent is None


@pytest.mark.parametrize(
    ("model", "clip"),
    [("cifar_nf_resnet8", "agc"), ("bn_cifar_nf_resnet8", "none"), ("cifar_resnet8", "none")],
)
def test_only_normalizer_free_parents_are_clipped(model: str, clip: str) -> None:
    parent = SPEC.replace(model=model, skip_init=True).parent
    assert parent is not None
    assert parent.clip == clip


@pytest.mark.parametrize(
    ("pretrained", "said"),
    [
        ("digits", "expected a data set and one epoch or more"),
        ("digits:", "expected a data set and one epoch or more"),
        (":3", "expected a data set and one epoch or more"),
        ("digits:0", "expected a data set and one epoch or more"),
        ("digits:-1", "expected a data set and one epoch or more"),
        ("digits:1.5", "expected a data set and one epoch or more"),
        ("digits:²", "expected a data set and one epoch or more"),
        ("digits:99999999999", "expected a data set and one epoch or more"),
        ("digits:03", "write digits:3"),
        ("../digits:3", "pretrained is '../digits'; expected the name of a folder"),
        (f"{SECOND}:3", "pre-train on other data"),
    ],
)
def test_bad_values_say_what_is_wrong(pretrained: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SPEC.replace(pretrained=pretrained)


def test_image_files_cannot_be_pretrained_on_yet() -> None:
    with pytest.raises(ValueError, match="needs decoded images"):
        SPEC.replace(augmentation="resized-crop")


def test_an_unknown_data_set_is_named(options: SweepOptions) -> None:
    with pytest.raises(data.DataError, match="no-such-folder"):
        run_one(SPEC.replace(pretrained="no-such-folder:1"), options)
    assert not list(options.ledger.root.glob("runs/*"))


def test_all_but_the_output_layer_comes_from_the_parent(
    second: Dataset, start: dict[str, Tensor]
) -> None:
    begun = loop.train(SPEC.replace(epochs=0), second, start=start, device="cpu").model.state_dict()
    drawn = assembly.initial_model(SPEC, 5).state_dict()
    new = {name for name, tensor in begun.items() if not tensor.equal(start[name])}
    assert new == {"fc.weight", "fc.bias"}
    assert all(begun[name].equal(drawn[name]) for name in new)


@pytest.mark.parametrize("train", ["output", "affine+output"])
def test_what_is_frozen_stays_as_pretrained(
    second: Dataset, start: dict[str, Tensor], train: str
) -> None:
    spec = SPEC.replace(train=train)
    ended = loop.train(spec, second, start=start, device="cpu").model
    groups = {"weight", "stem"} if train == "output" else {"weight"}
    kept = [n for n in start if n.rpartition(".")[2] in groups and not n.startswith("fc.")]
    assert kept
    assert all(ended.state_dict()[name].equal(start[name]) for name in kept)
    assert not ended.state_dict()["fc.weight"].equal(start["fc.weight"])


def test_the_number_of_classes_may_differ(start: dict[str, Tensor]) -> None:
    ten = data.load("digits")
    model = loop.train(
        SPEC.replace(dataset="digits", epochs=0), ten, start=start, device="cpu"
    ).model
    assert model.state_dict()["fc.weight"].shape[0] == 10


def test_weights_are_given_to_those_that_ask_and_to_no_other(
    second: Dataset, start: dict[str, Tensor]
) -> None:
    with pytest.raises(ValueError, match="start is missing"):
        loop.train(SPEC, second, device="cpu")
    with pytest.raises(ValueError, match="start is given"):
        loop.train(SPEC.replace(pretrained=""), second, start=start, device="cpu")


def test_children_share_one_pretraining(
    options: SweepOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = trained(options, monkeypatch)
    children = [SPEC.replace(train=train) for train in ("all", "output")]
    records = [run_one(child, options) for child in children]
    assert PARENT is not None
    assert seen == [PARENT.hash, *(c.hash for c in children for _ in range(2))]
    assert [r.provenance["pretrained"] for r in records] == [PARENT.hash] * 2
    parent = options.ledger.find(PARENT)
    assert parent is not None
    assert parent.status == "completed"
    assert "pretrained" not in parent.provenance


def test_a_record_of_the_parent_is_kept_when_its_weights_are_gone(
    options: SweepOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PARENT is not None
    alone = run_one(PARENT, options)  # leaves a record, and no weights
    seen = trained(options, monkeypatch)
    record = run_one(SPEC, options)
    assert seen.count(PARENT.hash) == 1
    assert options.ledger.find(PARENT) == alone
    again = replace(options, ledger=Ledger(options.ledger.root.parent / "other" / "results"))
    assert run_one(SPEC, again).curve == record.curve


@pytest.mark.parametrize("stops", [(PARENT,), (SPEC,), (PARENT, SPEC)])
def test_an_interrupted_run_ends_the_same(
    options: SweepOptions, stops: tuple[Spec, ...], caplog: pytest.LogCaptureFixture
) -> None:
    two = SPEC.replace(pretrained=f"{FIRST}:2", train="affine+output")
    whole = run_one(two, options)
    cut = replace(options, ledger=Ledger(options.ledger.root.parent / "cut" / "results"))
    halts: list[Callable[[], bool]] = []
    if PARENT in stops:
        halts.append(lambda: True)  # after the parent's first epoch
    if SPEC in stops:
        # The parent's first epoch, unless it has ended already, then the child's.
        answers = iter([True] if PARENT in stops else [False, True])
        halts.append(lambda: next(answers))
    for halt in halts:
        with pytest.raises(Left, match="stopped after epoch 1 of 2"):
            run_one(two, cut, halt)
    assert run_one(two, cut).curve == whole.curve


def test_other_weights_to_start_from_are_another_run(
    second: Dataset, start: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run.pt"
    with pytest.raises(loop.Interrupted):
        loop.train(
            SPEC, second, start=start, checkpoint=path, device="cpu", should_stop=lambda: True
        )
    other = {name: tensor + 1 for name, tensor in start.items()}
    with caplog.at_level(logging.WARNING, "nbrepro"):
        result = loop.train(SPEC, second, start=other, checkpoint=path, device="cpu")
    assert f"start: {digest(start)}, here {digest(other)}" in caplog.text
    assert result.how["resumed_at_epoch"] == 0


def test_a_failed_parent_leaves_its_children_undone(
    options: SweepOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PARENT is not None

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", broken)
        with pytest.raises(Left, match=f"its pre-training {PARENT.hash} failed"):
            run_one(SPEC, options)
    parent = options.ledger.find(PARENT)
    assert parent is not None
    assert parent.status == "failed"
    assert options.ledger.find(SPEC) is None
    with pytest.raises(Left, match="failed"):
        run_one(SPEC, options)
    assert run_one(SPEC, replace(options, retry_failed=True)).status == "completed"
    parent = options.ledger.find(PARENT)
    assert parent is not None
    assert parent.status == "completed"


def test_a_digest_tells_single_bits() -> None:
    one = models.create("cifar_resnet8").state_dict()
    same = {name: tensor.clone() for name, tensor in one.items()}
    assert digest(one) == digest(same)
    same["fc.bias"].view(torch.int32)[0] ^= 1
    assert digest(one) != digest(same)
