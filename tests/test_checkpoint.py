"""A checkpoint is of these data, this code and this content, or it is not taken up."""

import io
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbrepro.data import Dataset
from nbrepro.spec import Spec
from nbrepro.train import checkpoint, device, loop
from nbrepro.train.loop import Interrupted, Result, train

CPU = torch.device("cpu")


@pytest.fixture
def short(spec: Spec) -> Spec:
    return spec.replace(train="batchnorm", epochs=3)


def begin(spec: Spec, dataset: Dataset, path: Path) -> None:
    """One epoch."""
    with pytest.raises(Interrupted):
        train(spec, dataset, device="cpu", checkpoint=path, should_stop=lambda: True)


def go_on(spec: Spec, dataset: Dataset, path: Path) -> Result:
    return train(spec, dataset, device="cpu", checkpoint=path)


@pytest.fixture(scope="module")
def stored(few_digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A checkpoint, and what it is of."""
    spec = Spec(model="cifar_resnet8", train="gamma", dataset="digits", epochs=2)
    path = tmp_path_factory.mktemp("checkpoint") / "run.pt"
    begin(spec, few_digits, path)
    return path, checkpoint.identity(spec, few_digits, 1)


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_is_believed(stored: tuple[Path, Any], where: float, bit: int) -> None:
    path, of = stored
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    flipped = path.with_name("flipped.pt")
    flipped.write_bytes(content)
    assert checkpoint.read(path, of, CPU) is not None
    assert checkpoint.read(flipped, of, CPU) is None


def test_no_flipped_bit_of_the_first_line_is_believed(stored: tuple[Path, Any]) -> None:
    path, of = stored
    content = path.read_bytes()
    flipped = path.with_name("flipped.pt")
    for place in range(content.index(b"\n") + 1):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            flipped.write_bytes(changed)
            assert checkpoint.read(flipped, of, CPU) is None, (place, bit)


def test_a_flipped_bit_costs_the_epochs_and_nothing_else(
    short: Spec, few_digits: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run.pt"
    begin(short, few_digits, path)
    content = bytearray(path.read_bytes())
    content[-5000] ^= 4
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, "nbrepro"):
        result = go_on(short, few_digits, path)
    assert f"{path} is damaged" in caplog.text
    assert result.how["resumed_at_epoch"] == 0
    assert result.curve == train(short, few_digits, device="cpu").curve


def other_pixels(dataset: Dataset) -> Dataset:
    return replace(dataset, train_images=255 - dataset.train_images, fingerprint="other")


def another_class(dataset: Dataset) -> Dataset:
    return replace(dataset, classes=(*dataset.classes, "ten"), fingerprint="more")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_pixels, "data: few, here other;"),
        (another_class, "data: few, here more; classes: 10, here 11;"),
    ],
)
def test_data_swapped_between_two_epochs(
    short: Spec,
    few_digits: Dataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    change: Any,
    said: str,
) -> None:
    """A run of the new data, from the beginning, with nothing to delete by hand."""
    path, other = tmp_path / "run.pt", change(few_digits)
    begin(short, few_digits, path)
    with caplog.at_level(logging.WARNING, "nbrepro"):
        result = go_on(short, other, path)
    assert f"{path} is of another run ({said} to go on from it, stop before" in caplog.text
    assert result.how["resumed_at_epoch"] == 0
    assert result.curve == train(short, other, device="cpu").curve
    assert go_on(short, other, path).how["resumed_at_epoch"] == 3  # the new one took its place


@pytest.mark.parametrize("what", ["processes", "torch", "code"])
def test_another_build_or_number_of_processes(
    short: Spec,
    few_digits: Dataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    path = tmp_path / "run.pt"
    identity = checkpoint.identity
    with monkeypatch.context() as context:
        context.setattr(checkpoint, "identity", lambda *run: identity(*run) | {what: "old"})
        begin(short, few_digits, path)
    with caplog.at_level(logging.WARNING, "nbrepro"):
        result = go_on(short, few_digits, path)
    assert f"{path} is of another run ({what}: old, here " in caplog.text
    assert result.how["resumed_at_epoch"] == 0


def test_the_digest_of_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It covers what a run computes with, by name and content, and no page or claim."""
    root = Path(checkpoint.__file__).parents[1]
    code = checkpoint._code.__wrapped__

    def digest() -> str:
        monkeypatch.setattr(checkpoint, "__file__", str(tmp_path / "train" / "checkpoint.py"))
        return code()

    for name in ("train/step.py", "models/nfnet.py", "agc.py", "book/tables.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((root / name).read_bytes())
    before = digest()
    (tmp_path / "book" / "tables.py").write_text("pass")
    assert digest() == before
    (tmp_path / "agc.py").write_text("pass")
    assert digest() != before
    assert len(checkpoint._code()) == 16


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("began", [True, False], ids=["bfloat16", "float32"])
def test_auto_stays_what_it_was_on_a_machine_of_the_other_kind(
    short: Spec, few_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, began: bool
) -> None:
    """The whole run is in one precision, and the record names it."""
    auto, path = short.replace(precision="auto"), tmp_path / "run.pt"
    with monkeypatch.context() as first:
        first.setattr(device, "has_bfloat16", lambda _: began)
        begin(auto, few_digits, path)
        whole = train(auto, few_digits, device="cpu")
    monkeypatch.setattr(device, "has_bfloat16", lambda _: not began)
    result = go_on(auto, few_digits, path)
    assert result.how["resumed_at_epoch"] == 1
    assert result.how["precision"] == ("bfloat16" if began else "float32")
    assert result.curve == whole.curve


def test_a_precision_that_this_machine_cannot_compute(
    short: Spec,
    few_digits: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    auto, path = short.replace(precision="auto"), tmp_path / "run.pt"
    with monkeypatch.context() as first:
        first.setattr(device, "has_bfloat16", lambda _: True)
        begin(auto, few_digits, path)
    monkeypatch.setattr(device, "has_bfloat16", lambda _: False)
    monkeypatch.setattr(checkpoint, "can_compute", lambda precision, _: precision == "float32")
    with caplog.at_level(logging.WARNING, "nbrepro"):
        result = go_on(auto, few_digits, path)
    assert "precision: bfloat16, which cannot be computed here" in caplog.text
    assert result.how["resumed_at_epoch"] == 0
    assert result.how["precision"] == "float32"
    assert result.curve == train(short, few_digits, device="cpu").curve


@pytest.mark.parametrize(
    ("kind", "emulated", "expected"),
    [("cpu", False, True), ("cuda", True, True), ("cuda", False, False), ("mps", True, False)],
)
def test_where_bfloat16_can_be_computed(
    monkeypatch: pytest.MonkeyPatch, kind: str, emulated: bool, expected: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: emulated)
    assert device.can_compute("bfloat16", torch.device(kind)) == expected
    assert device.can_compute("float32", torch.device(kind))


# --- what the record says -------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_was_used_is_read_from_the_tensors(
    short: Spec, few_digits: Dataset, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    result = train(short.replace(precision=precision), few_digits, device="cpu")
    assert result.how["precision"] == precision
    assert result.how["memory_format"] == "channels_last"
    assert result.how["accumulation"] == 1
    assert result.how["threads"] == torch.get_num_threads()
    assert "earlier" not in result.how
    # Whatever turns mixed precision off or on behind the spec's back, the record tells.
    monkeypatch.setattr(loop, "resolved", lambda *_: "bfloat16")
    assert train(short, few_digits, device="cpu").how["precision"] == "bfloat16"


def test_nothing_stays_in_the_network_that_was_watched(short: Spec, few_digits: Dataset) -> None:
    assert not train(short, few_digits, device="cpu").model._forward_hooks


def test_epochs_computed_elsewhere_are_in_the_record(
    short: Spec, few_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    with monkeypatch.context() as there:
        there.setattr(loop, "device_name", lambda _: "another CPU")
        begin(short, few_digits, path)
    result = go_on(short, few_digits, path)
    assert result.how["earlier"] == [
        {"device": "another CPU", "step": "eager", "threads": torch.get_num_threads()}
    ]
    assert result.how["device"] != "another CPU"
    again = go_on(short, few_digits, path)  # nothing left to compute: the record is the same
    for name in ("device", "earlier", "precision", "memory_format"):
        assert again.how[name] == result.how[name]


def test_a_run_resumed_where_it_began_has_no_earlier_place(
    short: Spec, few_digits: Dataset, tmp_path: Path
) -> None:
    begin(short, few_digits, tmp_path / "run.pt")
    result = go_on(short, few_digits, tmp_path / "run.pt")
    assert result.how["resumed_at_epoch"] == 1
    assert "earlier" not in result.how


def test_seconds_of_all_sessions_count(short: Spec, few_digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    begin(short, few_digits, path)
    saved = torch.load(io.BytesIO(path.read_bytes().split(b"\n", 1)[1]), weights_only=True)
    assert 0 < saved["seconds"] < 600
    saved["seconds"] += 1000
    content = io.BytesIO()
    torch.save(saved, content)
    path.write_bytes(checkpoint._header(content.getvalue()) + content.getvalue())
    assert go_on(short, few_digits, path).how["seconds"] > 1000


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([[2, 0], [0, 0]], r"different epochs, \[2, 0\]; they must see the same folder"),
        ([[2, 0], [2, 1]], "different precisions, because not all of their devices have bfloat16"),
    ],
)
def test_processes_that_do_not_agree(
    monkeypatch: pytest.MonkeyPatch, found: list[list[int]], message: str
) -> None:
    accelerator = device.accelerator_for("cpu")
    loop._agree(2, "float32", accelerator)
    monkeypatch.setattr(accelerator, "gather", lambda tensor: torch.tensor(found))
    with pytest.raises(RuntimeError, match=message):
        loop._agree(2, "float32", accelerator)
