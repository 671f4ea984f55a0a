"""What notebooks call: parameters are checked at once, pages say what the records say."""

import re
import subprocess
import sys
from typing import Any

import pytest

from nbrepro.book import chapter
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
    assert "No records yet" in chapter.accuracy_table([]).data
    assert "not run" in chapter.tally()


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
    page = chapter.paired_table(records, "precision", "float32", "bfloat16").data
    cells = [re.sub("<.*?>", "", cell) for cell in re.findall("<td.*?>(.*?)</td>", page)]
    assert cells[:5] == ["ResNet-14, BatchNorm only", "55.0", "57.0", "+2.0 [-10.7, 14.7]", "2"]
    assert cells[5].endswith("AGC 0.01, rate 0.1")
    assert cells[6:] == ["40.0", "20.0 (1 diverged)", "-20.0", "1"]
    assert "No records yet" in chapter.paired_table([], "precision", "float32", "bfloat16").data
