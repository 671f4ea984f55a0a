from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image

from nbrepro import data
from nbrepro.data import Dataset
from nbrepro.records.ledger import Ledger
from nbrepro.spec import Spec

torch.set_num_threads(1)
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("repeatable")

MakeTree = Callable[..., Path]


@pytest.fixture(autouse=True)
def private_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes anything of the user's."""
    monkeypatch.setenv("NBREPRO_CACHE", str(tmp_path / "cache"))
    for name in ("NBREPRO_DATA", "NBREPRO_RESULTS", "RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def make_tree(tmp_path: Path) -> MakeTree:
    """Makes ``<tmp_path>/<name>/{train,<test>}/<class>/NN<suffix>`` of random images."""

    def make(
        name: str = "tiny",
        classes: tuple[str, ...] = ("cat", "dog", "emu"),
        suffix: str = ".png",
        side: int = 8,
        test: str = "test",
    ) -> Path:
        generator = np.random.default_rng(0)
        for part, count in (("train", 4), (test, 2)):
            for class_name in classes:
                folder = tmp_path / name / part / class_name
                folder.mkdir(parents=True)
                for number in range(count):
                    pixels = generator.integers(256, size=(side, side, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{number:02}{suffix}")
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return data.load("digits")


@pytest.fixture(scope="session")
def few_digits(digits: Dataset) -> Dataset:
    """90 training and 45 test images: three batches of 32, the last one short."""
    return Dataset(
        "digits",
        digits.classes,
        digits.train_images[:90],
        digits.train_labels[:90],
        digits.test_images[:45],
        digits.test_labels[:45],
        "few",
    )


@pytest.fixture
def spec() -> Spec:
    """A run of a second or less."""
    return Spec(
        model="cifar_resnet8",
        dataset="digits",
        augmentation="none",
        epochs=2,
        batch_size=32,
        precision="float32",
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "results")


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    return tmp_path / "runs"
