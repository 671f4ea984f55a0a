import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeTree
from PIL import Image, ImageFile
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.transforms import functional as TF

from nbrepro import data
from nbrepro.data import MEAN, STD, Batches, DataError, Dataset, cards, folder
from nbrepro.data.decode import decode
from nbrepro.experiments import Experiment
from nbrepro.spec import Spec

CIFARS = {"cifar10": CIFAR10, "cifar100": CIFAR100}
ARCHIVE = Path(__file__).parents[2] / "shared" / "data" / "cifar10-jpeg.tar.xz"
TINY = ARCHIVE.with_name("tiny-imagenet-50.tar.xz")
CIFAR_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def test_digits(digits: Dataset) -> None:
    assert digits.train_images.shape == (1437, 8, 8, 3)
    assert digits.test_images.shape == (360, 8, 8, 3)
    assert digits.train_images.dtype == torch.uint8
    assert digits.train_labels.dtype == torch.int64
    assert digits.classes == tuple("0123456789")
    for images, labels in (
        (digits.train_images, digits.train_labels),
        (digits.test_images, digits.test_labels),
    ):
        assert (int(images.min()), int(images.max())) == (0, 255)
        assert torch.equal(images[..., :1].expand_as(images), images)  # grey
        counts = labels.bincount(minlength=10)
        assert counts.min() > 0.07 * len(labels)


def test_digits_test_images_are_not_among_the_training_images(digits: Dataset) -> None:
    train = {image.numpy().tobytes() for image in digits.train_images}
    assert not any(image.numpy().tobytes() in train for image in digits.test_images)


def test_digits_are_the_same_every_time(digits: Dataset) -> None:
    again = data.load("digits")
    assert again.fingerprint == digits.fingerprint == "5ba4c266def42ea5"
    assert torch.equal(again.train_images, digits.train_images)
    assert torch.equal(again.test_labels, digits.test_labels)
    assert "1,437 training and 360 test images, 8×8, 10 classes" in repr(again)


# --- batches ---------------------------------------------------------------------------------


def one_by_one(image: Tensor, pad: int, row: int, column: int, flip: bool) -> Tensor:
    """The study's pipeline for a single image, through PIL and torchvision."""
    side = image.shape[0]
    picture = Image.fromarray(image.numpy())
    picture = TF.pad(picture, [pad] * 4, fill=0)
    picture = TF.crop(picture, row, column, side, side)
    picture = TF.hflip(picture) if flip else picture
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).double() / 255
    return TF.normalize(pixels, list(MEAN), list(STD))


@pytest.fixture
def pictures() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (12, 8, 8, 3), generator=generator, dtype=torch.uint8)
    return images, torch.arange(12)


@pytest.mark.parametrize("pad", [2, 4])
def test_batches_equal_one_image_at_a_time(pictures: tuple[Tensor, Tensor], pad: int) -> None:
    images, labels = pictures
    generator = torch.Generator().manual_seed(pad)
    index = torch.randint(12, (40,), generator=generator)
    offset = torch.randint(2 * pad + 1, (40, 2), generator=generator)
    flip = torch.rand(40, generator=generator) < 0.5
    offset[:3] = torch.tensor([[0, 0], [2 * pad, 2 * pad], [0, 2 * pad]])  # the corners
    batch, targets = Batches(images, labels, pad)(index, offset, flip)
    expected = torch.stack(
        [
            one_by_one(images[i], pad, int(row), int(column), bool(mirror))
            for i, (row, column), mirror in zip(index, offset, flip, strict=True)
        ]
    )
    torch.testing.assert_close(batch.double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(targets, index)


@pytest.mark.parametrize("pad", [0, 4])
def test_without_augmentation_images_are_only_normalised(
    pictures: tuple[Tensor, Tensor], pad: int
) -> None:
    images, labels = pictures
    batch, targets = Batches(images, labels + 3, pad)(torch.tensor([7, 2]))
    expected = torch.stack([one_by_one(images[i], 0, 0, 0, False) for i in (7, 2)])
    torch.testing.assert_close(batch.double(), expected, rtol=0, atol=1e-6)
    assert targets.tolist() == [10, 5]


def test_batches_have_the_form_that_networks_want(pictures: tuple[Tensor, Tensor]) -> None:
    batches = Batches(*pictures, pad=4)
    images, _ = batches(torch.arange(5), torch.zeros(5, 2, dtype=torch.int64))
    assert len(batches) == 12
    assert images.shape == (5, 3, 8, 8)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_batches_leave_the_stored_images_alone(pictures: tuple[Tensor, Tensor]) -> None:
    batches = Batches(*pictures)
    first, _ = batches(torch.arange(12))
    second, _ = batches(torch.arange(12))
    assert torch.equal(first, second)


# --- folder trees ----------------------------------------------------------------------------


@pytest.mark.parametrize("test", ["test", "val"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG"])
def test_tree_is_loaded(make_tree: MakeTree, suffix: str, test: str) -> None:
    base = make_tree(suffix=suffix, test=test)
    dataset = data.load("tiny", base.parent)
    assert dataset.name == "tiny"
    assert dataset.classes == ("cat", "dog", "emu")
    assert dataset.train_images.shape == (12, 8, 8, 3)
    assert dataset.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    with Image.open(base / "train" / "dog" / f"02{suffix}") as image:
        assert np.array_equal(dataset.train_images[6], np.asarray(image))
    with Image.open(base / test / "emu" / f"00{suffix}") as image:
        assert np.array_equal(dataset.test_images[4], np.asarray(image))


def test_images_may_have_any_one_size(make_tree: MakeTree) -> None:
    base = make_tree()
    for path in base.rglob("*.png"):
        Image.new("RGB", (50, 70), (1, 2, 3)).save(path)
    dataset = data.load("tiny", base.parent)
    assert dataset.train_images.shape == (12, 70, 50, 3)
    assert dataset.card.side is None
    images, _ = Batches(dataset.train_images, dataset.train_labels, 4)(torch.arange(2))
    assert images.shape == (2, 3, 70, 50)


def test_data_folder_comes_from_the_environment(
    make_tree: MakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBREPRO_DATA", str(make_tree().parent))
    assert len(data.load("tiny").train_labels) == 12


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(Image, "open", refuse)


def test_second_time_the_cache_is_used(
    make_tree: MakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_tree()
    first = data.load("tiny", base.parent)
    forbid_decoding(monkeypatch)
    second = data.load("tiny", base.parent)
    assert second.fingerprint == first.fingerprint
    assert torch.equal(second.train_images, first.train_images)
    assert torch.equal(second.test_labels, first.test_labels)


def the_cache(tmp_path: Path) -> Path:
    (cached,) = (tmp_path / "cache").iterdir()
    return cached


@pytest.mark.parametrize("damage", ["empty", "cut", "bit", "text", "header"])
def test_damaged_cache_is_made_again(
    make_tree: MakeTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    base = make_tree()
    first = data.load("tiny", base.parent)
    cached = the_cache(tmp_path)
    content = bytearray(cached.read_bytes())
    if damage == "bit":
        content[len(content) // 4] ^= 1
    elif damage == "header":
        content[:4] = b"\0\0\0\0"
    damaged: dict[str, bytes | bytearray] = {
        "empty": b"",
        "cut": content[: len(content) // 2],
        "text": b"hello\n",
    }
    cached.write_bytes(damaged.get(damage, content))
    assert data.load("tiny", base.parent).fingerprint == first.fingerprint
    forbid_decoding(monkeypatch)  # and the repaired cache serves from now on
    assert data.load("tiny", base.parent).fingerprint == first.fingerprint


def test_cache_that_cannot_be_written_is_done_without(
    make_tree: MakeTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_tree()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NBREPRO_CACHE", str(tmp_path / "file" / "cache"))
    assert len(data.load("tiny", base.parent).train_labels) == 12


def test_cache_leaves_no_temporary_file(
    make_tree: MakeTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_tree()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, "replace", full)
        assert len(data.load("tiny", base.parent).train_labels) == 12
    assert list((tmp_path / "cache").iterdir()) == []


def test_changed_file_is_noticed(make_tree: MakeTree) -> None:
    base = make_tree()
    first = data.load("tiny", base.parent)
    Image.new("RGB", (8, 8), (9, 9, 9)).save(base / "train" / "cat" / "00.png")
    second = data.load("tiny", base.parent)
    assert second.train_images[0].unique().tolist() == [9]
    assert second.fingerprint != first.fingerprint


def test_new_and_removed_files_are_noticed(make_tree: MakeTree) -> None:
    base = make_tree()
    data.load("tiny", base.parent)
    shutil.copy2(base / "train" / "cat" / "00.png", base / "train" / "cat" / "99.png")
    assert len(data.load("tiny", base.parent).train_labels) == 13
    (base / "test" / "cat" / "01.png").unlink()
    assert len(data.load("tiny", base.parent).test_labels) == 5


def test_files_swapped_between_classes_are_noticed(make_tree: MakeTree) -> None:
    """Even of one size and one time, as files from an archive often are."""
    base = make_tree()
    a, b, spare = (base / "train" / name for name in ("cat/00.png", "dog/00.png", "spare"))
    for path, colour in ((a, (1, 1, 1)), (b, (2, 2, 2))):
        Image.new("RGB", (8, 8), colour).save(path, compress_level=0)
        os.utime(path, (1e9, 1e9))
    assert a.stat().st_size == b.stat().st_size
    assert data.load("tiny", base.parent).train_images[0].unique().tolist() == [1]
    a.rename(spare)
    b.rename(a)
    spare.rename(b)
    assert data.load("tiny", base.parent).train_images[0].unique().tolist() == [2]


def test_trees_of_one_name_in_two_places(make_tree: MakeTree, tmp_path: Path) -> None:
    base = make_tree()
    other = tmp_path / "elsewhere" / "tiny"
    shutil.copytree(base, other)
    Image.new("RGB", (8, 8)).save(other / "train" / "cat" / "00.png")
    first = data.load("tiny", base.parent)
    second = data.load("tiny", other.parent)
    assert first.fingerprint != second.fingerprint


def test_files_that_are_left_out_are_named(
    make_tree: MakeTree, caplog: pytest.LogCaptureFixture
) -> None:
    base = make_tree()
    for name in ("notes.txt", "cat/boxes.txt", "dog/00.tif", "cat/.hidden"):
        (base / "train" / name).write_text("no image")
    assert len(data.load("tiny", base.parent).train_labels) == 12
    (message,) = caplog.messages
    assert message.startswith(f"{base / 'train'}: 3 files are left out, the first is cat/boxes.txt")


# --- how a file becomes pixels ------------------------------------------------------------------


#: Type of colour in a PNG → channels.
COLOURS = {0: 1, 4: 2, 2: 3, 6: 4}


def png(path: Path, pixels: np.ndarray, colour: int, bits: int) -> None:
    """Write rows of pixels as a PNG: Pillow reads more of its forms than it writes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + check

    height, width = len(pixels), 8 * pixels[0].nbytes // (bits * COLOURS[colour])
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, colour, 0, 0, 0])
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def pixels_of(path: Path) -> np.ndarray:
    image = decode(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.fixture
def noise() -> np.ndarray:
    """``[16, 16, 4]``, with every value from 0 to 255 at some place of every channel."""
    generator = np.random.default_rng(0)
    values = np.stack([generator.permutation(256) for _ in range(4)], axis=1)
    return values.reshape(16, 16, 4).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 4], ids=["grey", "grey, alpha", "RGB", "RGBA"])
def test_16_bits_keep_their_upper_byte(tmp_path: Path, noise: np.ndarray, channels: int) -> None:
    lower = np.roll(noise, 7, axis=0)
    values = noise.astype(int) * 256 + lower
    big_endian = values[..., :channels].astype(">u2")
    png(tmp_path / "deep.png", big_endian, [0, 4, 2, 6][channels - 1], 16)
    colours = noise[..., :3] if channels > 2 else np.repeat(noise[..., :1], 3, axis=2)
    assert np.array_equal(pixels_of(tmp_path / "deep.png"), colours)


def test_16_bits_in_a_tree(make_tree: MakeTree) -> None:
    """The whole way: it used to be white."""
    base = make_tree()
    ramp = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    Image.fromarray(ramp).save(base / "train" / "cat" / "00.png")
    image = data.load("tiny", base.parent).train_images[0].numpy()
    assert np.array_equal(image, np.repeat((ramp >> 8)[..., None], 3, axis=2))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_of_grey_span_the_whole_range(tmp_path: Path, bits: int) -> None:
    values = np.arange(64).reshape(8, 8) % 2**bits
    planes = [values >> bit & 1 for bit in reversed(range(bits))]
    rows = np.packbits(np.stack(planes, axis=2).reshape(8, -1), axis=1)
    png(tmp_path / "few.png", rows, 0, bits)
    expected = values * 255 // (2**bits - 1)
    assert np.array_equal(pixels_of(tmp_path / "few.png"), np.repeat(expected[..., None], 3, 2))


def palette(noise: np.ndarray, *, transparent: bytes | int | None = None) -> Image.Image:
    """An image with a palette; Pillow's own conversion looks its colours up."""
    image = Image.fromarray(noise[..., 0])
    image.putpalette(np.roll(noise, 3, axis=1)[..., :3].tobytes())
    if transparent is not None:
        image.info["transparency"] = transparent
    return image


MODES = {
    "grey": (".png", lambda x: Image.fromarray(x[..., 0])),
    "grey, alpha": (".png", lambda x: Image.fromarray(np.ascontiguousarray(x[..., :2]))),
    "grey, a colour is transparent": (".png", lambda x: Image.fromarray(x[..., 0])),
    "1 bit": (".png", lambda x: Image.fromarray(x[..., 0]).convert("1")),
    "palette": (".png", palette),
    "palette of a GIF": (".gif", palette),
    "palette, an entry is transparent": (".png", lambda x: palette(x, transparent=9)),
    "palette, entries in part": (".png", lambda x: palette(x, transparent=bytes(range(256)))),
    "palette of a GIF, transparent": (".gif", lambda x: palette(x, transparent=9)),
    "RGB": (".bmp", lambda x: Image.fromarray(np.ascontiguousarray(x[..., :3]))),
    "RGBA": (".png", Image.fromarray),
    "RGBA of a WebP": (".webp", Image.fromarray),
    "CMYK": (".jpg", lambda x: Image.fromarray(x, "CMYK")),
    "YCbCr": (".jpg", lambda x: Image.fromarray(np.ascontiguousarray(x[..., :3]), "YCbCr")),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("mode", MODES)
def test_pixels_are_those_of_pillows_own_conversion(
    tmp_path: Path, noise: np.ndarray, mode: str
) -> None:
    suffix, make = MODES[mode]
    options: dict[str, Any] = {"transparency": 9} if mode == "grey, a colour is transparent" else {}
    if suffix == ".webp":
        options |= {"lossless": True, "exact": True}
    make(noise).save(tmp_path / f"image{suffix}", **options)
    with warnings.catch_warnings(), Image.open(tmp_path / f"image{suffix}") as image:
        warnings.simplefilter("ignore")  # of palettes with transparent entries
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(pixels_of(tmp_path / f"image{suffix}"), expected)
    assert len(np.unique(expected)) > 1


def test_transparent_pixels_show_their_colour(tmp_path: Path, noise: np.ndarray) -> None:
    Image.fromarray(noise).save(tmp_path / "image.png")
    assert np.array_equal(pixels_of(tmp_path / "image.png"), noise[..., :3])
    image = palette(noise, transparent=bytes(256))
    colours = np.frombuffer(bytes(image.getpalette()), np.uint8).reshape(-1, 3)
    image.save(tmp_path / "image.png")
    assert np.array_equal(pixels_of(tmp_path / "image.png"), colours[noise[..., 0]])


def test_cmyk_becomes_light_not_ink(tmp_path: Path) -> None:
    for name, ink, light in (("white", 0, 255), ("black", 255, 0)):
        Image.new("CMYK", (8, 8), (ink, ink, ink, 0)).save(tmp_path / f"{name}.jpg")
        assert abs(pixels_of(tmp_path / f"{name}.jpg").astype(int) - light).max() < 8


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_orientation_in_exif_is_not_applied(
    tmp_path: Path, noise: np.ndarray, orientation: int
) -> None:
    """As torchvision and TensorFlow read ImageNet."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise[:8, :, :3].copy()).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(pixels_of(tmp_path / "turned.png"), noise[:8, :, :3])


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        decode(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    return message


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_an_animation_is_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (0, 100, 200)]
    path = tmp_path / f"moving{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert "is an animation of 3 frames; expected a single image" in refused(path)
    frames[1].save(path, save_all=True)  # a single frame is an image
    assert abs(pixels_of(path).astype(int) - [100, 0, 0]).max() < 8


def test_a_photograph_with_previews_is_the_photograph(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (8, 8), (level, level, level)) for level in (50, 200)]
    pictures[0].save(tmp_path / "a.mpo", save_all=True, append_images=pictures[1:])
    path = (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 2
    assert abs(pixels_of(path).astype(int) - 50).max() < 3


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("times", [0.9, 1.5, 3.0])
def test_an_image_beyond_pillows_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: float
) -> None:
    """From the limit on, not only from twice the limit, where Pillow itself refuses."""
    Image.new("L", (10, 9)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(90 / times))
    if times < 1:
        assert pixels_of(tmp_path / "huge.png").shape == (9, 10, 3)
    else:
        message = refused(tmp_path / "huge.png")
        assert "is too large" in message
        assert f"Expected at most {int(90 / times)} pixels" in message


@pytest.mark.parametrize("suffix", [".bmp", ".gif", ".jpg", ".png", ".webp"])
def test_a_truncated_file_is_refused(tmp_path: Path, noise: np.ndarray, suffix: str) -> None:
    """Wherever it ends; the last few bytes hold no pixels."""
    path = tmp_path / f"image{suffix}"
    Image.fromarray(noise[..., :3].copy()).save(path)
    content = path.read_bytes()
    for length in range(0, int(0.9 * len(content)), 7):
        path.write_bytes(content[:length])
        assert "cannot be decoded" in refused(path), length


def test_other_formats_are_not_even_tried(tmp_path: Path) -> None:
    """An ending does not make an image; some of Pillow's formats start programs."""
    path = tmp_path / "figure.png"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    assert "expected a whole image in one of the formats BMP, GIF, JPEG, PNG" in refused(path)
    assert "cannot be decoded" in refused(tmp_path / "absent.png")


# --- what is wrong with a tree is said, with the file and the remedy ----------------------------


def error(name: str, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        data.load(name, root)
    return str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    message = error("imagenet", tmp_path)
    assert str(tmp_path / "imagenet" / "train") in message
    assert "NBREPRO_DATA" in message
    assert "train/<class>/*.jpg" in message


def test_missing_test_folder(make_tree: MakeTree) -> None:
    base = make_tree()
    shutil.rmtree(base / "test")
    message = error("tiny", base.parent)
    assert str(base / "test") in message
    assert "val" in message


def test_no_class_folders(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / "tiny" / part).mkdir(parents=True)
    assert str(tmp_path / "tiny" / "train") in error("tiny", tmp_path)


@pytest.mark.parametrize("part", ["train", "test"])
def test_empty_class(make_tree: MakeTree, part: str) -> None:
    base = make_tree()
    for file in (base / part / "dog").iterdir():
        file.unlink()
    message = error("tiny", base.parent)
    assert str(base / part / "dog") in message
    assert ".bmp, .gif, .jpeg, .jpg, .png or .webp" in message


@pytest.mark.parametrize("part", ["train", "test"])
def test_class_on_one_side_only(make_tree: MakeTree, part: str) -> None:
    base = make_tree()
    shutil.rmtree(base / part / "dog")
    message = error("tiny", base.parent)
    assert "'dog' is not in both" in message
    assert str(base / "train") in message
    assert str(base / "test") in message


@pytest.mark.parametrize("part", ["train", "test"])
def test_wrong_size(make_tree: MakeTree, part: str) -> None:
    base = make_tree()
    Image.new("RGB", (5, 7)).save(base / part / "dog" / "01.png")
    message = error("tiny", base.parent)
    assert str(base / part / "dog" / "01.png") in message
    assert "is 5×7, those before it are 8×8" in message
    assert "must have the same size: resize or remove" in message


@pytest.mark.parametrize("content", ["truncated", "text", "empty"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_undecodable_file(make_tree: MakeTree, content: str, part: str) -> None:
    base = make_tree(suffix=".jpg", side=32)
    path = base / part / "emu" / "01.jpg"
    whole = path.read_bytes()
    path.write_bytes(
        {"truncated": whole[: len(whole) // 2], "text": b"no image\n"}.get(content, b"")
    )
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    message = error("tiny", base.parent)
    assert str(path) in message
    assert "cannot be decoded" in message
    assert "restore or delete this file" in message


def test_a_failed_load_leaves_no_cache(make_tree: MakeTree, tmp_path: Path) -> None:
    base = make_tree()
    (base / "test" / "emu" / "01.png").write_bytes(b"")
    error("tiny", base.parent)
    assert not (tmp_path / "cache").exists()


# --- CIFAR-10 --------------------------------------------------------------------------------


def test_cifar10_missing(tmp_path: Path) -> None:
    message = error("cifar10", tmp_path)
    assert str(tmp_path / "cifar-10-batches-py" / "data_batch_1") in message
    assert "download=True" in message
    assert "NBREPRO_DATA" in message


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, name: str = "cifar10") -> Path:
    """Files of CIFAR's form, with few images per file and pixels that tell where they are from."""
    source = CIFARS[name]
    folder: Path = root / source.base_folder
    folder.mkdir()
    classes = CIFAR_CLASSES if name == "cifar10" else [f"class {i}" for i in range(100)]
    size = 2 * len(classes)

    def save(file: str, content: object) -> tuple[str, str]:
        raw = pickle.dumps(content, protocol=2)
        (folder / file).write_bytes(raw)
        return file, hashlib.md5(raw).hexdigest()

    def batch(number: int) -> dict[str, object]:
        pixels = np.full((size, 3072), number, dtype=np.uint8)
        pixels[:, :1024] += 100  # red plane comes first
        labels = [i % len(classes) for i in range(size)]
        if name == "cifar10":
            return {"data": pixels, "labels": labels}
        return {"data": pixels, "fine_labels": labels, "coarse_labels": [0] * size}

    names = [file for file, _ in source.train_list + source.test_list]
    *train, test = [save(file, batch(i)) for i, file in enumerate(names)]
    key = source.meta["key"]
    meta, meta_md5 = save(source.meta["filename"], {key: list(classes)})
    monkeypatch.setattr(source, "train_list", [list(t) for t in train])
    monkeypatch.setattr(source, "test_list", [list(test)])
    monkeypatch.setattr(source, "meta", {"filename": meta, "key": key, "md5": meta_md5})
    return folder


def test_cifar10_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, monkeypatch)
    dataset = data.load("cifar10", tmp_path)
    assert dataset.train_images.shape == (100, 32, 32, 3)
    assert dataset.test_images.shape == (20, 32, 32, 3)
    assert dataset.train_images[45, 3, 4].tolist() == [102, 2, 2]
    assert dataset.test_images[0, 0, 0].tolist() == [105, 5, 5]
    assert dataset.test_labels.tolist() == list(range(10)) * 2
    assert dataset.classes[-1] == "truck"


def test_cifar100_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, monkeypatch, "cifar100")
    dataset = data.load("cifar100", tmp_path)
    assert dataset.train_images.shape == dataset.test_images.shape == (200, 32, 32, 3)
    assert dataset.train_images[45, 3, 4].tolist() == [100, 0, 0]
    assert dataset.test_images[0, 0, 0].tolist() == [101, 1, 1]
    assert dataset.test_labels.tolist() == list(range(100)) * 2
    assert dataset.classes[99] == "class 99"
    assert dataset.chance == 0.01


CIFAR_FILES = [
    *(("cifar10", file) for file in ("data_batch_3", "test_batch", "batches.meta")),
    *(("cifar100", file) for file in ("train", "test", "meta")),
]


@pytest.mark.parametrize(("name", "file"), CIFAR_FILES)
def test_cifar_truncated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    path = write_cifar(tmp_path, monkeypatch, name) / file
    path.write_bytes(path.read_bytes()[:-10])
    message = error(name, tmp_path)
    assert message.startswith(f"{name}: {path} is damaged")
    assert "delete it and run with download=True" in message


@pytest.mark.parametrize(("name", "file"), CIFAR_FILES)
def test_cifar_without_one_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    path = write_cifar(tmp_path, monkeypatch, name) / file
    path.unlink()
    message = error(name, tmp_path)
    assert message.startswith(f"{name}: {path} is missing")
    assert "NBREPRO_DATA" in message


@pytest.mark.parametrize(("name", "file"), CIFAR_FILES)
def test_cifar_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    """Class names, too: torchvision's own check does not cover them."""
    folder = write_cifar(tmp_path, monkeypatch, name)
    archive = tmp_path / CIFARS[name].filename  # as if it had just come
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, folder.name)
    monkeypatch.setattr(CIFARS[name], "url", (tmp_path / "nowhere").as_uri())
    monkeypatch.setattr(CIFARS[name], "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    whole = data.load(name, tmp_path).fingerprint
    (folder / file).unlink()
    assert data.load(name, tmp_path, download=True).fingerprint == whole
    archive.unlink()  # what is whole is not fetched again
    assert data.load(name, tmp_path, download=True).fingerprint == whole


def test_cifar_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR100, "url", (tmp_path / "nowhere.tar.gz").as_uri())
    with pytest.raises(
        DataError, match="cifar100: torchvision could not read or fetch it below"
    ) as told:
        data.load("cifar100", tmp_path, download=True)
    assert "put cifar-100-python/ there yourself" in str(told.value)


# --- cards and small forms ---------------------------------------------------------------------


def test_the_card_of_the_digits_is_what_is_loaded(digits: Dataset) -> None:
    assert data.card("digits") == digits.card
    assert digits.chance == data.card("digits").chance == 0.1


@pytest.mark.parametrize(
    ("name", "classes", "train", "test", "side"),
    [
        ("cifar10", 10, 50_000, 10_000, 32),
        ("cifar10-jpeg", 10, 50_000, 10_000, 32),
        ("cifar10-jpeg-16px", 10, 10_000, 2_000, 16),
        ("cifar100", 100, 50_000, 10_000, 32),
        ("cifar100-16px", 100, 10_000, 2_000, 16),
        ("digits-16px", 10, None, None, 4),  # classes of unequal size
        ("my-folder", None, None, None, None),
        ("my-folder-16px", None, None, None, None),
        ("my-folder@48-16px", None, None, None, 24),
        ("my-folder@48-classes2to4", 3, None, None, 48),
        ("cifar10-jpeg-classes0to4", 5, 25_000, 5_000, 32),
        ("cifar10-classes5to9-16px", 5, 5_000, 1_000, 16),
        ("cifar100-classes0to19", 20, 10_000, 2_000, 32),
        ("digits-classes0to4", 5, None, None, 8),  # classes of unequal size, again
        ("tiny-imagenet-50", 50, 25_000, 2_500, 64),
        ("tiny-imagenet-50@32", 50, 25_000, 2_500, 32),
        ("tiny-imagenet-50@32-classes0to9", 10, 5_000, 500, 32),
    ],
)
def test_cards(
    name: str, classes: int | None, train: int | None, test: int | None, side: int | None
) -> None:
    card = data.card(name)
    assert (card.name, card.classes, card.side) == (name, classes, side)
    assert (card.train_images, card.test_images) == (train, test)
    assert card.chance == (1 / classes if classes else None)
    assert card.original == (name == "cifar10")


def test_a_loaded_folder_completes_its_card(make_tree: MakeTree) -> None:
    dataset = data.load("tiny", make_tree().parent)
    assert dataset.card == data.Card("tiny", 3, 12, 6, 8, fingerprint=dataset.fingerprint)
    assert dataset.chance == pytest.approx(1 / 3)


def test_cards_need_no_torch() -> None:
    code = (
        "import sys; from nbrepro.data import DataError, card, default_root; import nbrepro.data;"
        "assert card('cifar100').classes == 100; assert 'torch' not in sys.modules;"
        "assert nbrepro.data.load('digits').chance == 0.1"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_of_the_room_loads() -> None:
    assert all(hasattr(data, name) for name in data.__all__)
    misspelt = "laod"
    with pytest.raises(AttributeError, match=r"'nbrepro\.data' has no attribute 'laod'"):
        getattr(data, misspelt)


def test_the_small_form_is_the_first_fifth_at_half_the_side(digits: Dataset) -> None:
    small = data.load("digits-16px")
    assert small.name == "digits-16px"
    assert small.card.side == 4
    for label in range(10):
        whole = digits.train_images[digits.train_labels == label]
        kept = small.train_images[small.train_labels == label]
        assert len(kept) == len(whole) // 5
        mean = whole[0].view(4, 2, 4, 2, 3).double().mean((1, 3))
        assert torch.equal(kept[0], mean.round().byte())


@pytest.mark.parametrize("few", [1, 4, 5])
def test_the_small_form_drops_no_class_and_names_the_small_ones(
    make_tree: MakeTree, caplog: pytest.LogCaptureFixture, few: int
) -> None:
    base = make_tree(classes=("cat", "dog"))
    for part in ("train", "test"):
        for class_name in ("cat", "dog"):
            for number in range(few if (part, class_name) == ("test", "dog") else 10):
                Image.new("RGB", (8, 8)).save(base / part / class_name / f"{number:02}.png")
            for left_over in sorted((base / part / class_name).iterdir())[few:]:
                if (part, class_name) == ("test", "dog"):
                    left_over.unlink()
    small = data.load("tiny-16px", base.parent)
    assert small.train_labels.tolist() == [0, 0, 1, 1]
    assert small.test_labels.tolist() == [0, 0, 1]
    named = "tiny-16px keeps one in 5 images of a class, but one test image of each class that has"
    expected = [f"{named} fewer than 5: dog ({few})"] if few < 5 else []
    assert caplog.messages == expected


@pytest.mark.parametrize(
    "name",
    [
        "cifar10",
        "a-classes0to4",
        "a@32-classes10to19-16px",
        "a-16px-alltest",
        "a-alltest",
        "a@32-classes10to19-16px-alltest-few10",
        "a-few3",
        "a-few03",
        "a@b",
        "a@0",
        "a-classes01to2",
        "-16px",
    ],
)
def test_a_name_is_its_parts(name: str) -> None:
    parts = cards.parse(name)
    assert str(parts) == name
    assert cards.parse(str(parts)) == parts
    assert cards.parse(cards.base(name)) == parts._replace(
        classes=None, small=False, all_test=False, few=None
    )


def test_some_classes_are_a_data_set_of_their_own(digits: Dataset) -> None:
    low, high = (data.load(f"digits-classes{part}") for part in ("0to4", "5to9"))
    assert (low.classes, high.classes) == (tuple("01234"), tuple("56789"))
    assert low.chance == high.chance == data.card("digits-classes5to9").chance == 0.2
    for part in ("train", "test"):
        images, labels = (getattr(digits, f"{part}_{what}") for what in ("images", "labels"))
        for dataset, first in ((low, 0), (high, 5)):
            kept = (labels >= first) & (labels < first + 5)
            assert torch.equal(getattr(dataset, f"{part}_images"), images[kept])
            assert torch.equal(getattr(dataset, f"{part}_labels"), labels[kept] - first)
    assert len({low.fingerprint, high.fingerprint, digits.fingerprint}) == 3
    known = data.card(low.name)
    assert low.card == replace(
        known, train_images=719, test_images=182, fingerprint=low.fingerprint
    )


def test_the_parts_of_a_name_follow_each_other() -> None:
    """A fifth of some classes is the same as some classes of a fifth."""
    part, small = data.load("digits-classes2to4-16px"), data.load("digits-16px")
    kept = (small.train_labels >= 2) & (small.train_labels <= 4)
    assert torch.equal(part.train_images, small.train_images[kept])
    assert part.name == "digits-classes2to4-16px"
    assert part.card.side == 4


@pytest.mark.parametrize("classes", ["5to10", "4to4", "4to2", "10to12"])
def test_classes_that_are_not_there(classes: str) -> None:
    message = error(f"digits-classes{classes}", Path("absent"))
    assert message.startswith(f"digits-classes{classes}: digits has the classes 0 to 9; expected")
    assert message.endswith("as in digits-classes0to5")


@pytest.mark.parametrize("size", [(16, 16), (21, 16), (16, 35)], ids=["square", "wide", "tall"])
def test_a_tree_at_another_side_has_means_of_areas(
    make_tree: MakeTree, size: tuple[int, int]
) -> None:
    base = make_tree(side=8)
    generator = np.random.default_rng(1)
    pixels = generator.integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(base / "train" / "cat" / "00.png")
    assert "or write tiny@" in error("tiny", base.parent)
    dataset = data.load("tiny@4", base.parent)
    left, top = (size[0] - 16) // 2, (size[1] - 16) // 2
    square = pixels[top : top + 16, left : left + 16].reshape(4, 4, 4, 4, 3)
    # Pillow rounds twice, after each direction: up to half a level each time
    assert np.abs(dataset.train_images[0].numpy() - square.mean((1, 3))).max() <= 1
    assert dataset.train_images.shape == (12, 4, 4, 3)
    assert (dataset.name, dataset.card.side) == ("tiny@4", 4)
    assert data.load("tiny@4-16px", base.parent).card.side == 2
    assert data.load("tiny@16", base.parent).train_images.shape == (12, 16, 16, 3)


@pytest.mark.parametrize("name", ["digits", "cifar10", "cifar100"])
def test_only_trees_are_resized(name: str) -> None:
    assert error(f"{name}@16", Path("absent")).endswith(f"write {name} without @16")


def test_an_arm_keeps_its_classes() -> None:
    own = "cifar10-classes0to4-16px"
    assert cards.same_part(own, "cifar100") == "cifar100-classes0to4-16px"
    assert cards.same_part(own, "tiny@32") == "tiny@32-classes0to4-16px"
    assert cards.same_part("cifar10", "tiny@32-classes0to9") == "tiny@32-classes0to9"


def test_an_arm_keeps_its_small_form() -> None:
    """On other data as on its own."""
    arms = ["cifar10", "cifar10-16px"]
    experiment = Experiment(
        *("name", "chapter", "title"),
        arms=lambda profile: [Spec(model="cifar_resnet8", dataset=name) for name in arms],
        seeds={"smoke": 1, "quick": 1, "full": 1},
    )

    def names(profile: str, dataset: str | None) -> list[str]:
        return [spec.dataset for spec in experiment.specs(profile, dataset)]

    assert names("quick", None) == names("quick", "cifar10") == arms
    assert names("full", "not-cifar10") == ["not-cifar10", "not-cifar10-16px"]
    assert names("quick", "cifar100-16px") == ["cifar100-16px"] * 2
    assert names("smoke", "cifar100") == arms


# --- the tree whose content is known ------------------------------------------------------------


def test_known_tree_with_other_classes(make_tree: MakeTree) -> None:
    base = make_tree("cifar10-jpeg", classes=(*CIFAR_CLASSES[:-1], "lorry"))
    message = error("cifar10-jpeg", base.parent)
    assert str(base) in message
    assert "'lorry'" in message
    assert "'truck'" in message


def test_known_tree_with_too_few_images(make_tree: MakeTree) -> None:
    base = make_tree("cifar10-jpeg", classes=CIFAR_CLASSES, suffix=".jpg", side=32)
    message = error("cifar10-jpeg", base.parent)
    assert f"{base / 'train' / 'airplane'} holds 4 images, expected 5000" in message
    assert "unpack the archive again" in message


def test_known_tree_with_altered_files(
    make_tree: MakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same on a small tree that is made known for this test."""
    base = make_tree()
    listing = {
        part: {c.name: sorted(c.iterdir()) for c in sorted((base / part).iterdir())}
        for part in ("train", "test")
    }
    digest = data.tree_digest(base, listing)
    tree = folder._Tree(8, {"train": 4, "test": 2}, digest, ("cat", "dog", "emu"))
    monkeypatch.setitem(folder._KNOWN_TREES, "tiny", tree)
    assert len(data.load("tiny", base.parent).train_labels) == 12
    shutil.copy(base / "train" / "cat" / "00.png", base / "train" / "cat" / "01.png")
    message = error("tiny", base.parent)
    assert str(base) in message
    assert "differs from the archive" in message


@pytest.fixture
def roomy_folder(tmp_path: Path) -> Iterator[Path]:
    """For 60,000 small files: in memory where the system has such a folder, and gone afterwards."""
    shared_memory = Path("/dev/shm")
    where = shared_memory if os.access(shared_memory, os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=where) as folder:
        yield Path(folder)


@pytest.mark.skipif(not TINY.is_file(), reason=f"needs {TINY.name} beside the project")
def test_tiny_imagenet_50_at_another_side(roomy_folder: Path) -> None:
    base = roomy_folder / "tiny-imagenet-50"
    with tarfile.open(TINY) as archive:
        archive.extractall(base, filter="data")
    dataset = data.load("tiny-imagenet-50@32", roomy_folder)
    assert dataset.card == data.card("tiny-imagenet-50@32")  # its fingerprint, too
    assert dataset.train_labels.bincount().tolist() == [500] * 50
    assert dataset.test_labels.bincount().tolist() == [50] * 50
    first = np.asarray(decode(min((base / "train" / dataset.classes[0]).rglob("*.JPEG"))), int)
    columns = (first[:, ::2] + first[:, 1::2] + 1) // 2
    assert np.array_equal(dataset.train_images[0], (columns[::2] + columns[1::2] + 1) // 2)
    part = data.load("tiny-imagenet-50@32-classes0to9", roomy_folder)
    assert part.card == data.card(part.name)
    assert torch.equal(part.train_images, dataset.train_images[:5000])
    moved = min((base / "val" / dataset.classes[0]).rglob("*.JPEG"))
    moved.write_bytes(max(moved.parent.iterdir()).read_bytes())
    assert "differs from the archive" in error("tiny-imagenet-50@32", roomy_folder)


def test_few_images_are_the_first_of_each_class(digits: Dataset) -> None:
    few = data.load("digits-few3")
    assert few.card == replace(
        data.card("digits-few3"), test_images=len(digits.test_images), fingerprint=few.fingerprint
    )
    assert few.card.train_images == 30
    assert torch.equal(few.test_images, digits.test_images)
    for label in range(10):
        first = digits.train_images[digits.train_labels == label][:3]
        assert torch.equal(few.train_images[few.train_labels == label], first)
    part = data.load("digits-classes5to9-16px-few3")
    assert part.train_labels.bincount().tolist() == [3] * 5
    assert cards.same_part(part.name, "tiny@32") == "tiny@32-classes5to9-16px-few3"


def test_more_images_than_a_class_has() -> None:
    with pytest.raises(DataError, match=r"digits has \d+ training images of \d, .*take at most"):
        data.load("digits-few1000")


@pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"needs {ARCHIVE.name} beside the project")
def test_the_whole_of_cifar10_jpeg(roomy_folder: Path, tmp_path: Path) -> None:
    base = roomy_folder / "cifar10-jpeg"
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(base, filter="data")
    dataset = data.load("cifar10-jpeg", roomy_folder)
    assert dataset.train_images.shape == (50_000, 32, 32, 3)
    assert dataset.test_images.shape == (10_000, 32, 32, 3)
    assert dataset.train_labels.bincount().tolist() == [5_000] * 10
    assert dataset.test_labels.bincount().tolist() == [1_000] * 10
    assert dataset.classes == CIFAR_CLASSES
    assert dataset.card == data.card("cifar10-jpeg")
    small = data.shrink(dataset)
    assert small.card == data.card("cifar10-jpeg-16px")
    tested = data.shrink(dataset, all_test=True)
    assert tested.card == data.card("cifar10-jpeg-16px-alltest")
    assert torch.equal(tested.train_images, small.train_images)
    assert torch.equal(tested.test_labels.bincount(), torch.full((10,), 1_000))
    firsts = [(tested.test_labels == label).nonzero()[:200, 0] for label in range(10)]
    assert torch.equal(tested.test_images[torch.cat(firsts)], small.test_images)
    for first, last in ((0, 4), (5, 9)):
        half = data.some_classes(dataset, first, last)
        assert half.card == data.card(f"cifar10-jpeg-classes{first}to{last}")
        assert data.shrink(half).card == data.card(f"cifar10-jpeg-classes{first}to{last}-16px")
    the_cache(tmp_path).unlink()

    frog, ship, spare = base / "train/frog/0000.jpg", base / "train/ship/0000.jpg", base / "spare"
    frog.rename(spare)
    ship.rename(frog)
    spare.rename(ship)
    message = error("cifar10-jpeg", roomy_folder)
    assert str(base) in message
    assert "differs from the archive (altered, or under another class)" in message
    assert list((tmp_path / "cache").iterdir()) == []
