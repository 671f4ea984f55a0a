"""What notebooks call: parameters are checked at once, pages say what the records say."""

import subprocess
import sys
from typing import Any

import pytest

from nbrepro import chapter

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
        "from nbrepro.chapter import begin\n"
        "try:\n"
        "    begin('08', {'profil': 'full'})\n"
        "except ValueError:\n"
        "    print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_damaged_record_stops_the_page(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "training_only_batchnorm").mkdir()
    (tmp_path / "training_only_batchnorm" / "00.json").write_text("{")
    monkeypatch.setenv("NBREPRO_RESULTS", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"00\.json"):
        chapter.recorded()


def test_without_records_a_page_says_so(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBREPRO_RESULTS", str(tmp_path))
    assert begin().evidence() == []
    assert "No records yet" in chapter.accuracy_table([]).data
    assert "not run" in chapter.tally()
