"""Which data the records under one name are of."""

from nbrepro.data import card
from nbrepro.records.fingerprints import meant, remarks
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec


def run(seed: int, data: str | None, dataset: str = "mine", status: str = "completed") -> Record:
    spec = Spec(model="cifar_resnet14", dataset=dataset, seed=seed)
    return Record(spec, status, {"test_accuracy": 0.5}, [], {"data_fingerprint": data})


def test_most_records_or_the_known_data_are_meant() -> None:
    known = card("digits").fingerprint
    records = [
        *(run(seed, data) for seed, data in enumerate("abb")),
        *(run(seed, "a", status="failed") for seed in (3, 4)),
        *(run(seed, data, "digits") for seed, data in enumerate(("x", "x", known))),
        run(0, None, "silent"),
    ]
    assert meant(records) == {"mine": "b", "digits": known, "silent": ""}
    assert meant(reversed(records)) == meant(records)
    assert meant([run(0, "b"), run(1, "a")]) == {"mine": "a"}, "of equally many"


def test_what_is_mixed_is_said() -> None:
    records = [run(seed, data) for seed, data in enumerate(("a", "b", "b", None))]
    assert remarks(records) == [
        "records of different data are called mine: 2 of fingerprint b count as mine; 1 of no "
        "fingerprint and 1 of fingerprint a are other data, and never pooled with them"
    ]
    assert remarks(records[1:3]) == []


def test_other_data_under_a_known_name_are_said() -> None:
    known = card("digits").fingerprint
    assert remarks([run(0, known, "digits")]) == []
    (remark,) = remarks([run(0, "x", "digits")])
    assert remark == (
        f"no record called digits is of fingerprint {known}, which is known as digits"
    )
