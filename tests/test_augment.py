from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage, stats
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as V

from nbrepro.data import MEAN, STD, Batches, augment
from nbrepro.data.augment import FILL, OPS
from nbrepro.data.batches import epoch_draws


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 6, height: int = 19, width: int = 26) -> Tensor:
    """Smooth, of several ranges; the last one has two grey levels and a constant channel."""
    rough = torch.rand(count, 3, 5, 6, generator=generator(count))
    smooth = F.interpolate(rough, (height, width), mode="bicubic").clamp(0, 1)
    low = torch.linspace(0, 80, count).view(-1, 1, 1, 1)
    high = torch.linspace(255, 150, count).view(-1, 1, 1, 1)
    images = (low + (high - low) * smooth).to(torch.uint8)
    images[-1, :2] = images[-1, :2] // 128 * 90 + 20
    images[-1, 2] = 77
    return images.contiguous(memory_format=torch.channels_last)


def chosen(
    name: str, images: int, turned: bool = False, row: float = 0, column: float = 0
) -> Tensor:
    """A draw of one layer that applies one op to every image."""
    numbers = [(OPS.index(name) + 0.5) / len(OPS), 0.75 if turned else 0.25, row, column]
    return torch.tensor(numbers).expand(images, 1, 4)


def apply(name: str, images: Tensor, magnitude: float, turned: bool = False) -> Tensor:
    return augment.randaugment(images, chosen(name, len(images), turned), magnitude)


def pil(function: Callable[[Image.Image], Image.Image], images: Tensor) -> Tensor:
    arrays = [np.array(function(Image.fromarray(i.permute(1, 2, 0).numpy()))) for i in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def furthest(one: Tensor, other: Tensor) -> int:
    return int((one.int() - other.int()).abs().max())


# The ops, one by one


@pytest.mark.parametrize(
    ("name", "magnitude", "reference", "levels"),
    [
        ("AutoContrast", 5, ImageOps.autocontrast, 1),
        ("Equalize", 5, ImageOps.equalize, 0),
        ("Invert", 5, ImageOps.invert, 0),
        ("Posterize", 5, lambda image: ImageOps.posterize(image, 2), 0),
        ("Posterize", 10, lambda image: ImageOps.posterize(image, 4), 0),
        ("Solarize", 3, lambda image: ImageOps.solarize(image, 76), 0),
        ("Brightness", 2, lambda image: ImageEnhance.Brightness(image).enhance(0.46), 1),
        ("Brightness", 10, lambda image: ImageEnhance.Brightness(image).enhance(1.9), 1),
        # PIL rounds the grey and the blur where the authors cut off
        ("Color", 2, lambda image: ImageEnhance.Color(image).enhance(0.46), 2),
        ("Color", 10, lambda image: ImageEnhance.Color(image).enhance(1.9), 2),
        ("Sharpness", 2, lambda image: ImageEnhance.Sharpness(image).enhance(0.46), 2),
        ("Sharpness", 15, lambda image: ImageEnhance.Sharpness(image).enhance(2.8), 3),
    ],
)
def test_tones_are_those_of_pil(
    name: str, magnitude: float, reference: Callable[[Image.Image], Image.Image], levels: int
) -> None:
    images = pictures()
    changed = apply(name, images, magnitude)
    assert furthest(changed, pil(reference, images)) <= levels
    assert furthest(changed, images) > 10


def test_equalize_and_autocontrast_are_those_of_torchvision() -> None:
    images = pictures(6, 60, 50)
    assert furthest(apply("Equalize", images, 5), V.equalize(images)) == 0
    assert furthest(apply("AutoContrast", images, 5), V.autocontrast(images)) <= 1


def test_autocontrast_rounds_as_the_authors_do() -> None:
    """Their formula in NumPy's float32, over every darkest and brightest value and all between."""
    for low in range(0, 255, 2):
        for high in range(low + 1, 256, 7):
            values = np.arange(low, high + 1)
            image = torch.from_numpy(values).to(torch.uint8).expand(1, 3, 1, -1)
            scale = np.float32(255) / np.float32(high - low)
            stretched = values.astype(np.float32) * scale + np.float32(-low) * scale
            expected = torch.from_numpy(stretched.clip(0, 255).astype(np.uint8))
            assert torch.equal(apply("AutoContrast", image, 5)[0, 0, 0], expected), (low, high)


def test_equalize_with_too_few_pixels_changes_nothing() -> None:
    """The step between grey levels is zero where most pixels are of the brightest level."""
    images = torch.full((1, 3, 8, 8), 200, dtype=torch.uint8)
    images[0, :, 0, 0] = 3
    assert torch.equal(apply("Equalize", images, 5), images)


def test_sharpness_starts_from_a_blur_in_whole_levels() -> None:
    images = pictures()
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]])
    blurred = np.stack([ndimage.convolve(p, kernel) for p in images.int().flatten(0, 1).numpy()])
    blur = torch.from_numpy(blurred // 13).view_as(images)
    expected = (blur + torch.tensor(2.8) * (images - blur)).clamp(0, 255).to(torch.uint8)
    changed = apply("Sharpness", images, 15)
    inner = (..., slice(1, -1), slice(1, -1))
    assert torch.equal(changed[inner], expected[inner])
    border = torch.ones(images.shape[2:], dtype=torch.bool)
    border[inner] = False
    assert torch.equal(changed[..., border], images[..., border])


def test_solarize_add_lightens_the_dark_half() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    value = np.arange(256)
    for magnitude, added in ((5, 55), (20, 220)):
        expected = np.where(value < 128, np.minimum(value + added, 255), value)
        assert apply("SolarizeAdd", images, magnitude)[0, 0].flatten().tolist() == expected.tolist()


@pytest.mark.parametrize(("side", "grey"), [(16, 1), (40, 6), (300, 255)])
def test_contrast_blends_with_a_grey_of_the_image_size(side: int, grey: int) -> None:
    images = pictures(2, side, side)
    flat = Image.new("RGB", (side, side), (grey, grey, grey))
    expected = pil(lambda image: Image.blend(flat, image, 1.9), images)
    assert furthest(apply("Contrast", images, 10), expected) <= 1


def test_the_threshold_of_solarize_is_a_byte() -> None:
    images = pictures()
    assert torch.equal(apply("Solarize", images, 10), 255 - images)
    assert torch.equal(apply("Solarize", images, 15), apply("Solarize", images, 5))


@pytest.mark.parametrize(
    ("name", "magnitude"),
    [
        *[(name, 5) for name in ("Color", "Contrast", "Brightness", "Sharpness")],
        *[("Posterize", 20), ("Posterize", 30)],
        *[(name, 0) for name in ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")],
    ],
)
def test_ops_that_do_nothing(name: str, magnitude: float) -> None:
    images = pictures()
    assert torch.equal(apply(name, images, magnitude), images)


def moved(images: Tensor, matrix: np.ndarray, offset: np.ndarray) -> Tensor:
    """By scipy; ``matrix`` takes (row, column) of the result to where it is read from."""
    planes = [
        ndimage.affine_transform(plane, matrix, offset, order=0, mode="grid-constant", cval=FILL)
        for plane in images.flatten(0, 1).numpy()
    ]
    return torch.from_numpy(np.stack(planes)).view_as(images)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("magnitude", [1, 5, 15])
@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"])
def test_moves_are_those_of_scipy(name: str, magnitude: float, turned: bool) -> None:
    images = pictures()
    amount = (-1 if turned else 1) * magnitude / 10
    matrix, offset = np.eye(2), np.zeros(2)
    if name == "Rotate":
        c, s = np.cos(amount * np.pi / 6), np.sin(amount * np.pi / 6)
        matrix = np.array([[c, s], [-s, c]])
        centre = (np.array(images.shape[2:]) - 1) / 2
        offset = centre - matrix @ centre
    elif name == "ShearX":
        matrix[1, 0] = 0.3 * amount
    elif name == "ShearY":
        matrix[0, 1] = 0.3 * amount
    else:
        offset["YX".index(name[-1])] = 100 * amount
    differ = (apply(name, images, magnitude, turned) != moved(images, matrix, offset)).float()
    assert differ.mean() < 0.005  # of pixels halfway between two


def test_lengths_follow_the_scale() -> None:
    images = pictures()
    draw = chosen("TranslateX", len(images))
    by_three = augment.randaugment(images, draw, 5, scale=3 / 50)
    assert torch.equal(by_three[..., :-3], images[..., 3:])
    assert (by_three[..., -3:] == FILL).all()
    draw = chosen("Cutout", len(images), row=0.5, column=0.5)
    cut = augment.randaugment(images, draw, 10, scale=0.1)
    assert torch.equal(cut, augment.randaugment(images, draw, 1))


@pytest.mark.parametrize(("row", "column"), [(0.5, 0.5), (0, 0.99), (0.99, 0.1)])
def test_cutout_is_a_square_cut_off_at_the_border(row: float, column: float) -> None:
    images = pictures()
    height, width = images.shape[2:]
    expected, y, x = images.clone(), int(row * height), int(column * width)
    expected[:, :, max(y - 4, 0) : y + 4, max(x - 4, 0) : x + 4] = FILL
    draw = chosen("Cutout", len(images), row=row, column=column)
    assert torch.equal(augment.randaugment(images, draw, 1), expected)


# RandAugment as a whole


def test_every_image_gets_its_own_op() -> None:
    images = pictures(len(OPS))
    draw = torch.cat([chosen(name, 1, row=0.3, column=0.6) for name in OPS])
    together = augment.randaugment(images, draw, 3)
    for i, name in enumerate(OPS):
        alone = augment.randaugment(images[i : i + 1], draw[i : i + 1], 3)
        assert torch.equal(together[i : i + 1], alone), name
        assert not torch.equal(together[i], images[i]), name


def test_layers_follow_one_another() -> None:
    images = pictures(50)
    draw = augment.draw_randaugment(50, generator(), layers=3)
    step = images
    for layer in range(3):
        step = augment.randaugment(step, draw[:, layer : layer + 1], 7)
    together = augment.randaugment(images, draw, 7)
    assert torch.equal(together, step)
    assert together.is_contiguous(memory_format=torch.channels_last)
    plain = augment.randaugment(images.contiguous(), draw, 7)
    assert torch.equal(together, plain)


def test_numbers_are_cut_to_bytes() -> None:
    images = pictures()
    draw = augment.draw_randaugment(len(images), generator())
    noisy = images.float() + 0.9
    noisy[:, :, 0], images[:, :, 0] = -30.0, 0
    noisy[:, :, 1], images[:, :, 1] = 300.0, 255
    assert torch.equal(augment.randaugment(noisy, draw, 10), augment.randaugment(images, draw, 10))


def test_ops_are_drawn_alike_often() -> None:
    draw = augment.draw_randaugment(4000, generator(), layers=4)
    assert draw.shape == (4000, 4, 4)
    counts = torch.bincount((draw[..., 0] * 16).long().flatten(), minlength=16)
    assert len(counts) == 16
    assert stats.chisquare(counts.numpy()).pvalue > 0.01
    assert ((draw[..., 1] < 0.5).float().mean() - 0.5).abs() < 0.02


def test_blank_images_are_counted() -> None:
    images = pictures(4)
    assert augment.blank_share(images) == 0
    images[0] = 250
    images[1, :, 2:] = FILL  # 17 of 19 rows: just under 90 %
    images[2, :, 1:] = FILL
    assert augment.blank_share(images) == 0.5


def test_stronger_magnitudes_blank_more_images_and_small_images_first() -> None:
    """Section 6.1: the magnitude has to follow the resolution."""
    images = pictures(200, 32, 32)
    draw = augment.draw_randaugment(200, generator())
    shares = [
        augment.blank_share(augment.randaugment(images, draw, magnitude)).item()
        for magnitude in (5, 10, 15, 20)
    ]
    assert shares == sorted(shares)
    assert shares[0] > 0.3
    # one of the two translations or the cutout in at least one of four layers
    assert shares[-1] >= 1 - (13 / 16) ** 4 - 0.1
    larger = pictures(200, 96, 96)
    assert augment.blank_share(augment.randaugment(larger, draw, 5)) < 0.1
    in_proportion = augment.randaugment(images, draw, 5, scale=32 / 224)
    assert augment.blank_share(in_proportion) < 0.1


# MixUp and CutMix


def labelled(size: int) -> tuple[Tensor, Tensor]:
    """Images whose every pixel is their number, and one class for each."""
    numbers = torch.arange(size, dtype=torch.uint8).view(-1, 1, 1, 1)
    images = numbers.expand(size, 3, 12, 17).contiguous(memory_format=torch.channels_last)
    return images, torch.eye(size)


def test_mixup_is_the_loop() -> None:
    images, targets = labelled(5)
    images[..., 3] = 200
    share = augment.draw_mixup(5, generator())
    mixed, mixed_targets = augment.mixup(images, targets, share)
    for i, k in enumerate(share.tolist()):
        j = (i + 1) % 5
        expected = k * images[i].double() + (1 - k) * images[j].double()
        torch.testing.assert_close(mixed[i].double(), expected, atol=1e-4, rtol=0)
        expected = k * targets[i] + (1 - k) * targets[j]
        torch.testing.assert_close(mixed_targets[i], expected)
    assert mixed.dtype == torch.float32
    assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_labels_of_cutmix_are_shares_of_the_area() -> None:
    size = 64
    images, targets = labelled(size)
    draw = augment.draw_cutmix(size, generator())
    mixed, mixed_targets = augment.cutmix(images, targets, draw)
    assert mixed.dtype == torch.uint8
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    own = torch.arange(size).view(-1, 1, 1, 1) == mixed
    partner = (torch.arange(size).view(-1, 1, 1, 1) + 1) % size == mixed
    assert (own | partner).all()
    torch.testing.assert_close(mixed_targets.diagonal(), own[:, 0].float().mean((1, 2)))
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(size))
    assert mixed_targets.diagonal().std() > 0.1


@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.0, 0.99)])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.75, 1.0])
def test_the_box_of_cutmix(share: float, centre: tuple[float, float]) -> None:
    images, targets = labelled(2)
    mixed, _ = augment.cutmix(images, targets, torch.tensor([[share, *centre]] * 2))
    expected = np.zeros((12, 17))
    y, x = int(centre[0] * 12), int(centre[1] * 17)
    tall, wide = int((1 - share) ** 0.5 * 12) // 2, int((1 - share) ** 0.5 * 17) // 2
    expected[max(y - tall, 0) : y + tall, max(x - wide, 0) : x + wide] = 1
    assert mixed[0, 0].tolist() == expected.tolist()


@pytest.mark.parametrize("size", [8, 9])
def test_both_share_the_batch(size: int) -> None:
    images, targets = labelled(size)
    shares, boxes = augment.draw_mixup(size, generator()), augment.draw_cutmix(size, generator())
    mixed, mixed_targets = augment.mix(images, targets, shares, boxes)
    half = size // 2
    first = augment.mixup(images[:half], targets[:half], shares[:half])
    second = augment.cutmix(images[half:], targets[half:], boxes[half:])
    assert torch.equal(mixed, torch.cat([first[0], second[0].float()]))
    assert torch.equal(mixed_targets, torch.cat([first[1], second[1]]))
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(size))
    assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_one_alone_takes_the_whole_batch() -> None:
    images, targets = labelled(6)
    shares, boxes = augment.draw_mixup(6, generator()), augment.draw_cutmix(6, generator())
    for got, expected in (
        (augment.mix(images, targets, shares), augment.mixup(images, targets, shares)),
        (augment.mix(images, targets, None, boxes), augment.cutmix(images, targets, boxes)),
        (augment.mix(images, targets), (images, targets)),
    ):
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    expected = stats.beta(alpha, alpha).cdf
    shares = augment.draw_mixup(4000, generator(), alpha)
    assert stats.kstest(shares.double().numpy(), expected).pvalue > 0.01
    boxes = augment.draw_cutmix(4000, generator(), alpha)
    assert stats.kstest(boxes[:, 0].double().numpy(), expected).pvalue > 0.01
    assert stats.kstest(boxes[:, 1].double().numpy(), "uniform").pvalue > 0.01


# What the training loop relies on


@pytest.mark.parametrize(
    "draw", [augment.draw_mixup, augment.draw_cutmix, augment.draw_randaugment]
)
def test_draws_come_from_the_generator_alone(draw: Callable[..., Tensor]) -> None:
    first = draw(20, generator(1))
    torch.rand(3)
    assert torch.equal(first, draw(20, generator(1)))
    assert not torch.equal(first, draw(20, generator(2)))
    assert first.dtype == torch.float32
    assert len(first) == 20


def test_nothing_depends_on_data_but_the_values() -> None:
    """Tensors without data: reading one back, or a shape that depends on it, would raise."""
    images = torch.empty(9, 3, 12, 12, device="meta", dtype=torch.uint8)
    targets, shares = torch.empty(9, 4, device="meta"), torch.empty(9, device="meta")
    mixed, mixed_targets = augment.mix(images, targets, shares, torch.empty(9, 3, device="meta"))
    done = augment.randaugment(mixed, torch.empty(9, 4, 4, device="meta"), 10)
    assert done.shape == images.shape
    assert mixed_targets.shape == targets.shape
    assert augment.blank_share(done).shape == ()


def test_bad_input_is_named() -> None:
    images, targets = labelled(4)
    with pytest.raises(ValueError, match="one_hot"):
        augment.mixup(images, torch.arange(4), torch.rand(4))
    with pytest.raises(ValueError, match="B rows"):
        augment.mixup(images, targets, torch.rand(3))
    with pytest.raises(ValueError, match="B rows"):
        augment.cutmix(images, targets, torch.rand(4))
    with pytest.raises(ValueError, match="alpha is 0"):
        augment.draw_mixup(4, generator(), 0)
    with pytest.raises(ValueError, match=r"expected \[4, layers, 4\]"):
        augment.randaugment(images, torch.rand(3, 2, 4), 5)
    with pytest.raises(ValueError, match=r"expected \[B, 3, H, W\]"):
        augment.randaugment(images.permute(0, 2, 3, 1), torch.rand(4, 2, 4), 5)
    with pytest.raises(ValueError, match="magnitude is -1"):
        augment.randaugment(images, torch.rand(4, 2, 4), -1)


# A batch: all of it in one place


def loaded(pad: int = 0, **options: Any) -> Batches:
    images = pictures(12, 20, 20).permute(0, 2, 3, 1).contiguous()
    return Batches(images, torch.arange(12) % 4, pad, classes=4, **options)


@pytest.mark.parametrize(
    "strong",
    [
        {},
        {"mixup": 0.2},
        {"cutmix": 1.0},
        {"randaugment": 5.0},
        {"mixup": 0.2, "cutmix": 1.0, "randaugment": 5.0},
    ],
    ids=lambda strong: "+".join(strong) or "weak",
)
def test_a_batch_is_cropped_then_mixed_then_altered_then_normalized(
    strong: dict[str, Any],
) -> None:
    batches = loaded(pad=2, magnitude=5.0)
    draws = epoch_draws(0, 0, 12, 2, **strong)
    order = draws["order"]
    padded = F.pad(batches.images[order, 2:-2, 2:-2], (0, 0, 2, 2, 2, 2)).permute(0, 3, 1, 2)
    images = torch.stack(
        [
            picture[:, row : row + 20, column : column + 20].flip(2 if mirror else ())
            for picture, (row, column), mirror in zip(
                padded, draws["offset"].tolist(), draws["flip"].tolist(), strict=True
            )
        ]
    )
    labels = targets = order % 4
    if "mixup" in strong or "cutmix" in strong:
        targets = F.one_hot(labels, 4).float()
        images, targets = augment.mix(images, targets, draws.get("mixup"), draws.get("cutmix"))
    if "randaugment" in strong:
        images = augment.randaugment(images, draws["randaugment"], 5.0, 20 / 224)
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (MEAN, STD))
    batch = batches.batch(draws)
    torch.testing.assert_close(batch.images, (images / 255 - mean) / std, rtol=0, atol=1e-5)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.labels, labels)
    assert torch.equal(batch.targets, targets)
    assert batch.size == 12


def test_the_parts_of_a_batch_are_the_batch() -> None:
    """Mixed before it is divided; sizes are those that make averaged gradients the whole's."""
    draws = epoch_draws(0, 0, 12, 2, mixup=0.2, cutmix=1.0, randaugment=5.0)
    draws = {name: rows[:11] for name, rows in draws.items()}
    whole = loaded(2, magnitude=5.0).batch(draws)
    parts = [loaded(2, magnitude=5.0, part=(rank, 2)).batch(draws) for rank in range(2)]
    for name in ("images", "labels", "targets"):
        together = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(together, getattr(whole, name)), name
    assert [len(part.labels) for part in parts] == [6, 5]
    assert [part.size for part in parts] == [5.5, 5.5]


def test_to_mix_the_number_of_classes_must_be_known() -> None:
    batches = Batches(torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.zeros(4).long())
    with pytest.raises(ValueError, match="number of classes"):
        batches.batch(epoch_draws(0, 0, 4, mixup=0.2))
