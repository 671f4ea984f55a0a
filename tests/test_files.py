"""Files that are decoded when they are needed: the ImageNet recipe, on small trees."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF
from torchvision.transforms.functional import InterpolationMode

from nbrepro import data
from nbrepro.data import MEAN, STD, DataError, FileBatches, FileDataset
from nbrepro.data.batches import epoch_draws
from nbrepro.data.files import AREA, RATIO, Files, centre, random_box
from nbrepro.records.ledger import Ledger
from nbrepro.spec import Spec
from nbrepro.sweep import SweepOptions, run_one
from nbrepro.train import loop

SIDE = 64
SIZES = ((80, 100), (150, 70), (64, 64), (50, 61))
#: One class per colour; hue survives any box.
COLOURS = {"blue": (0, 0, 1), "green": (0, 1, 0), "red": (1, 0, 0)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree of noisy images of three colours, of four sizes: 8 for training, 4 for testing."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for name, colour in COLOURS.items():
            folder = tmp_path / "colours" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                width, height = SIZES[number % len(SIZES)]
                pixels = generator.integers(100, size=(height, width, 3)) + 120 * np.array(colour)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path


@pytest.fixture
def files(root: Path) -> FileDataset:
    return data.open_files(f"colours@{SIDE}", root)


def noise(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(width)
    return Image.fromarray(generator.integers(256, size=(height, width, 3), dtype=np.uint8))


# --- boxes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(45, 60), (61, 45), (32, 32), (20, 33), (300, 40)])
def test_testing_sees_torchvisions_resize_and_centre(size: tuple[int, int]) -> None:
    image = noise(*size)
    expected = TF.center_crop(TF.resize(image, 32, InterpolationMode.BILINEAR), 28)
    assert np.array_equal(np.asarray(centre(image, 28)), np.asarray(expected))


def test_training_sees_torchvisions_resized_crop(tmp_path: Path) -> None:
    image = noise(50, 40)
    image.save(tmp_path / "image.png")
    files = Files((tmp_path / "image.png",), 24)
    for seed in range(5):
        left, top, right, bottom = random_box(50, 40, random.Random(seed))
        expected = TF.resized_crop(
            image, top, left, bottom - top, right - left, [24, 24], InterpolationMode.BILINEAR
        )
        assert np.array_equal(files.square(0, seed), np.asarray(expected))
    assert np.array_equal(files.square(0), np.asarray(centre(image, 24)))


@pytest.mark.parametrize("size", [(500, 400), (64, 64), (40, 90)])
def test_boxes_have_the_recipes_areas_and_ratios(size: tuple[int, int]) -> None:
    width, height = size
    generator = random.Random(0)
    boxes = np.array([random_box(width, height, generator) for _ in range(4000)])
    left, top, right, bottom = boxes.T
    assert min(left.min(), top.min()) == 0  # every border is reached, none is crossed
    assert (right.max(), bottom.max()) == (width, height)
    w, h = right - left, bottom - top
    share, ratio = w * h / (width * height), w / h
    slack = 1 + 1 / np.sqrt(w * h)  # both sides are rounded
    assert (share > AREA[0] / slack**2).all()
    assert (share <= AREA[1]).all()
    assert (ratio > RATIO[0] / slack**2).all()
    assert (ratio < RATIO[1] * slack**2).all()
    if width == height:  # elsewhere more of the boxes do not fit
        assert 0.3 < share.mean() < 0.6
        assert abs(np.log(ratio).mean()) < 0.01  # as often wide as tall


def test_boxes_of_an_image_too_narrow_for_them() -> None:
    for width, height, expected in ((1000, 10, (494, 0, 506, 10)), (10, 1000, (0, 494, 10, 506))):
        found = {random_box(width, height, random.Random(seed)) for seed in range(20)}
        assert expected in found
        assert all(0 <= a < c <= width and 0 <= b < d <= height for a, b, c, d in found)


# --- the tree -------------------------------------------------------------------------------------


def test_labels_are_the_sorted_classes(files: FileDataset) -> None:
    assert files.name == f"colours@{SIDE}"
    assert files.classes == ("blue", "green", "red")
    assert files.chance == pytest.approx(1 / 3)
    assert files.train_labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert files.test_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for label, path in zip(files.train_labels, files.train_images.paths, strict=True):
        assert path.parent.name == files.classes[label]


def test_some_classes_of_a_tree(root: Path, files: FileDataset) -> None:
    part = data.open_files(f"colours@{SIDE}-classes1to2", root)
    assert part.classes == ("green", "red")
    assert part.train_labels.tolist() == [0] * 8 + [1] * 8
    assert part.train_images.paths == files.train_images.paths[8:]
    assert part.fingerprint != files.fingerprint
    with pytest.raises(DataError, match="colours has the classes 0 to 2"):
        data.open_files(f"colours@{SIDE}-classes1to3", root)


def test_the_fingerprint_is_of_the_contents_and_cached(
    root: Path, files: FileDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files.train_images.paths[0]
    other = files.train_images.paths[-1].read_bytes()
    with monkeypatch.context() as context:
        context.setattr(Path, "read_bytes", lambda _: pytest.fail("a file was read again"))
        assert data.open_files(files.name, root).fingerprint == files.fingerprint
    path.write_bytes(other)
    assert data.open_files(files.name, root).fingerprint != files.fingerprint


@pytest.mark.parametrize("name", ["colours", "colours@64-16px", "cifar10@224"])
def test_a_name_without_a_side_is_refused(root: Path, name: str) -> None:
    spec = Spec(model="resnet18", dataset=name, augmentation="resized-crop")
    with pytest.raises(DataError, match=r"needs a side: write imagenet@224"):
        data.load_for(spec, root)


def test_a_run_gets_what_its_augmentation_needs(root: Path) -> None:
    spec = Spec(model="resnet18", dataset="colours@64", augmentation="resized-crop")
    assert isinstance(data.load_for(spec, root), FileDataset)
    decoded = data.load_for(spec.replace(augmentation="none"), root)
    assert isinstance(decoded, data.Dataset)
    for dataset, augmentation in ((data.load_for(spec, root), "none"), (decoded, "resized-crop")):
        with pytest.raises(ValueError, match=r"nbrepro\.data\.load_for\(spec\) loads what fits"):
            loop.train(spec.replace(augmentation=augmentation), dataset, device="cpu")


# --- batches --------------------------------------------------------------------------------------


def normalized(pixels: np.ndarray) -> Tensor:
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).double() / 255
    return TF.normalize(image, list(MEAN), list(STD))


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_equal_one_file_at_a_time(files: FileDataset, ahead: bool) -> None:
    batches = FileBatches(files.train_images, files.train_labels)
    rows = {name: rows[:10] for name, rows in epoch_draws(3, 1, len(batches), boxes=True).items()}
    if ahead:
        batches.expect(rows)
    batch = batches.batch(rows)
    assert 0 < rows["flip"].sum() < 10
    for image, label, index, box, flip in zip(
        batch.images, batch.labels, rows["order"], rows["box"], rows["flip"], strict=True
    ):
        pixels = files.train_images.square(int(index), int(box))
        expected = normalized(pixels[:, ::-1] if flip else pixels)
        torch.testing.assert_close(image.double(), expected, rtol=0, atol=1e-6)
        assert label == files.train_labels[index]
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_in_testing_batches_are_the_centres(files: FileDataset) -> None:
    images, labels = FileBatches(files.test_images, files.test_labels)(torch.tensor([11, 0, 5]))
    expected = torch.stack([normalized(files.test_images.square(i)) for i in (11, 0, 5)])
    torch.testing.assert_close(images.double(), expected, rtol=0, atol=1e-6)
    assert labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize("strong", [{}, {"mixup": 0.2}, {"cutmix": 1.0, "randaugment": 5.0}])
def test_processes_share_a_batch(
    files: FileDataset, strong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And decode the files of the others only where images are mixed with theirs."""
    draws = epoch_draws(0, 0, len(files.train_labels), boxes=True, **strong)
    options: Any = {"classes": 3, "magnitude": strong.get("randaugment", 0.0)}
    decoded: list[int] = []
    square = Files.square

    def counted(self: Files, index: int, seed: int | None = None) -> np.ndarray:
        decoded.append(index)
        return square(self, index, seed)

    monkeypatch.setattr(Files, "square", counted)
    whole, *parts = (
        FileBatches(files.train_images, files.train_labels, part=part, **options).batch(draws)
        for part in ((0, 1), (0, 2), (1, 2))
    )
    for name in ("images", "labels", "targets"):
        together = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(together, getattr(whole, name))
    assert [part.size for part in parts] == [12, 12]
    mixed = {"mixup", "cutmix"} & strong.keys()
    assert len(decoded) == (3 if mixed else 2) * 24


def test_a_batch_may_be_too_small_for_all_processes(files: FileDataset) -> None:
    batches = FileBatches(files.train_images, files.train_labels, part=(1, 2))
    batch = batches.batch({"order": torch.tensor([3])})
    assert (batch.images.shape, batch.size) == ((0, 3, SIDE, SIDE), 0.5)


def test_boxes_are_functions_of_seed_and_epoch() -> None:
    first, again, other = (epoch_draws(0, epoch, 50, boxes=True)["box"] for epoch in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    plain, crops = epoch_draws(0, 1, 50), epoch_draws(0, 1, 50, pad=4)
    assert torch.equal(plain["order"], crops["order"])
    assert not {"box", "flip"} & plain.keys()


# --- training -------------------------------------------------------------------------------------


@pytest.fixture
def recipe() -> Spec:
    """The recipe of the ImageNet networks at another size."""
    return Spec(
        model="resnet18",
        dataset=f"colours@{SIDE}",
        augmentation="resized-crop",
        epochs=5,
        batch_size=8,
        lr=0.05,
        warmup_epochs=1,
        warmup_from_zero=True,
        milestones=(1 / 3, 2 / 3, 8 / 9),
        precision="float32",
    )


def test_the_recipe_learns_and_its_record_has_both_accuracies(
    root: Path, recipe: Spec, ledger: Ledger
) -> None:
    options = SweepOptions(ledger=ledger, data_root=root, device="cpu", progress=False)
    record = run_one(recipe, options)
    assert record.status == "completed"
    assert record.metrics["test_accuracy"] > 0.9
    assert record.metrics["test_top5"] == 1  # of three classes
    assert record.metrics["train_loss"] < record.curve[1]["train_loss"]
    assert (
        record.provenance["data_fingerprint"] == data.open_files(recipe.dataset, root).fingerprint
    )
    assert record.provenance["step"] == "eager"
    assert ledger.find(recipe) is not None


def test_an_interrupted_run_ends_the_same(
    root: Path, recipe: Spec, files: FileDataset, checkpoints: Path
) -> None:
    spec = recipe.replace(epochs=2, train="batchnorm", milestones=(0.5,))
    options: Any = {"device": "cpu", "progress": False}
    whole = loop.train(spec, files, **options)
    checkpoint = checkpoints / "run.pt"
    with pytest.raises(loop.Interrupted):
        loop.train(spec, files, checkpoint=checkpoint, should_stop=lambda: True, **options)
    resumed = loop.train(spec, files, checkpoint=checkpoint, **options)
    assert resumed.curve == whole.curve
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


def test_a_damaged_file_is_named_and_no_fault_of_the_run(
    root: Path, recipe: Spec, ledger: Ledger
) -> None:
    bad = root / "colours" / "train" / "red" / "3.png"
    bad.write_bytes(bad.read_bytes()[:2000])
    options = SweepOptions(ledger=ledger, data_root=root, device="cpu", progress=False)
    with pytest.raises(DataError, match=r"red/3\.png cannot be decoded"):
        run_one(recipe.replace(epochs=1, milestones=(0.5,), warmup_epochs=0,
                               warmup_from_zero=False), options)  # fmt: skip
    assert not list(root.rglob("*.json"))
