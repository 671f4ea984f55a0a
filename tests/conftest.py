import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


def loaded(path: Path) -> Any:
    """A script as a module, though it lies in no package."""
    description = importlib.util.spec_from_file_location(path.stem, path)
    assert description is not None
    assert description.loader is not None
    module = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    return module


#: What starts processes, a cluster or a browser, builds pages or takes seconds: files, and tests.
SLOW = (
    "test_address.py::test_with_an_address_every_page_links_to_its_source_and_previews_are_absolute",
    "test_address.py::test_without_an_address_there_is_no_dead_button_and_no_half_address",
    "test_agc.py::test_two_processes_end_as_one",
    "test_augment.py::test_stronger_magnitudes_blank_more_images_and_small_images_first",
    "test_benchmarks.py",
    "test_book.py",
    "test_browser.py",
    "test_captured_step.py",
    "test_checks.py",
    "test_claims.py::test_every_claim_gets_a_verdict_without_records",
    "test_cli.py",
    "test_sweep.py",
    "test_data.py::test_tiny_imagenet_50_at_another_side",
    "test_evidence.py",
    "test_faults.py",
    "test_fuzz.py",
    "test_interactive_in_browser.py",
    "test_files.py::test_an_interrupted_run_ends_the_same",
    "test_files.py::test_the_recipe_learns_and_its_record_has_both_accuracies",
    "test_ledger.py::test_no_flipped_bit_is_believed",
    "test_ledger.py::test_no_shortened_record_is_believed",
    "test_ledger.py::test_two_writers_at_once",
    "test_logs.py",
    "test_malloc.py",
    "test_new_chapter.py::test_a_new_chapter_runs_from_its_parameters_to_its_verdicts",
    "test_nfnet.py::test_both_readings_of_f4_plus",
    "test_nfnet.py::test_the_family_is_the_papers",
    "test_pretrained.py",
    "test_readme.py",
    "test_runner.py",
    "test_slurm.py",
    "test_standalone.py::test_the_one_file_works_alone_and_gives_equal_results",
    "test_training.py::test_two_processes_equal_one",
    "test_two_processes.py",
)
#: Files that test the cache, so that every test needs one of its own.
CACHE = ("test_data.py",)


def pytest_configure(config: pytest.Config) -> None:
    """One new cache for the session, its workers and its kernels.

    A check of a claim takes seconds; so it is computed once, not once per test that shows it.
    """
    if not hasattr(config, "workerinput"):  # workers inherit it
        os.environ["NBREPRO_CACHE"] = folder = tempfile.mkdtemp(prefix="nbrepro-cache-")
        config.add_cleanup(lambda: shutil.rmtree(folder))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        test = f"{item.path.name}::{getattr(item, 'originalname', '')}"
        if item.path.name in SLOW or test in SLOW or item.path.suffix == ".ipynb":
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def private_folders(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test reads or writes anything of the user's."""
    if request.path.name in CACHE:
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


@pytest.fixture(scope="session")
def chromium() -> dict[str, Any]:
    """How Playwright launches the machine's Chromium."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("NO PAGE WAS LOOKED AT, for want of Chromium; on Debian: apt install chromium")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    return {"executable_path": program, "args": ["--no-sandbox", "--disable-gpu", *quiet]}


@pytest.fixture(scope="session")
def browser(chromium: dict[str, Any]) -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(**chromium)
        yield running
        running.close()
