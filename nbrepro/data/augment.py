"""The strong augmentation of NFNets: MixUp, CutMix and RandAugment, on whole batches.

Randomness and arithmetic are separate. ``draw_*`` make one row of numbers per image, on the CPU,
from a generator; the other functions take rows ``[B, ...]`` of such a draw, on the device of the
images, and are pure: nothing waits for the device and no shape depends on data, so all of them run
in the same way inside a captured CUDA graph and outside.

Order in the recipe: crop and flip, :func:`mix`, :func:`randaugment`, normalize. A batch goes
through all of it in :meth:`nbrepro.data.Batches.batch`.

The authors' code decides (github.com/google-deepmind/deepmind-research, nfnets/dataset.py and
nfnets/autoaugment.py). It differs from the papers and from other libraries as follows:

* Every op is always applied. A probability in [0.2, 0.8] is drawn and then not used, since no op
  takes one.
* Translations and the cutout are in pixels at every resolution, hence the argument ``scale``.
* "Contrast" blends with the grey level height × width / 256, at most 255, not with the mean grey.
* "Color", "Contrast", "Brightness" and "Sharpness" do nothing at magnitude 5, where their factor
  is 1; "Posterize" keeps more bits the larger the magnitude and does nothing from 20 on.
* "Solarize" inverts values from ``int(25.6 * magnitude)`` on, a number that TensorFlow wraps into a
  byte: at magnitudes 10 and 20 that is 0 and the whole image is inverted, at 15 it is 128 as at 5.
  In PIL, and in most other code, nothing happens from 10 on.

Deviations: a mixed batch takes each image's partner from the same batch, so that an epoch shows
every image once as the first of a pair; the authors read two images for every mixed one. The box of
CutMix shows the partner, as in its paper; in their code the rest does, which gives the same
mixtures, since it is random which image of a pair comes first. The blur of "Sharpness" is exact;
theirs is sometimes one level darker because of rounding.
"""

import math

import torch
from torch import Generator, Tensor

#: The sixteen ops of RandAugment, in the authors' order.
OPS = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color", "Contrast"),
    *("Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout"),
    "SolarizeAdd",
)
#: Grey level of pixels that an op leaves empty.
FILL = 128
_TRANSLATE, _CUTOUT = 100, 40  # pixels at magnitude 10
_GREY = (0.2989, 0.587, 0.114)


def draw_mixup(images: int, generator: Generator, alpha: float = 0.2) -> Tensor:
    """Draw the share of itself that every image keeps: Beta(alpha, alpha), float32 ``[N]``."""
    return _beta(images, alpha, generator).float()


def draw_cutmix(images: int, generator: Generator, alpha: float = 1.0) -> Tensor:
    """Draw the boxes of CutMix, float32 ``[N, 3]``.

    Columns: share of the image to keep, Beta(alpha, alpha); row and column of the box's centre, in
    [0, 1).
    """
    share = _beta(images, alpha, generator).float()
    return torch.cat([share[:, None], torch.rand(images, 2, generator=generator)], dim=1)


def draw_randaugment(images: int, generator: Generator, layers: int = 4) -> Tensor:
    """Draw the ops of RandAugment: float32 ``[N, layers, 4]``, uniform in [0, 1).

    Columns: op, direction (half of the images are turned, sheared or moved the other way), row and
    column of the cutout's centre.
    """
    return torch.rand(images, layers, 4, generator=generator)


def _beta(images: int, alpha: float, generator: Generator) -> Tensor:
    if alpha <= 0:
        raise ValueError(f"alpha is {alpha}; a Beta distribution needs more than 0")
    concentration = torch.full((images, 2), alpha, dtype=torch.float64)
    return torch._sample_dirichlet(concentration, generator)[:, 0]


def mixup(images: Tensor, targets: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
    """Blend every image with the next one of the batch (MixUp, arXiv 1710.09412).

    Args:
        images: ``[B, C, H, W]``, any scale.
        targets: probabilities ``[B, K]``.
        draw: ``[B]``, rows of :func:`draw_mixup`.

    Returns:
        Floating-point images and targets of the same shapes.

    Raises:
        ValueError: if the batch sizes differ or the targets are not probabilities.
    """
    _check_mix(images, targets, draw, 1)
    images = _floating(images)
    return _lerp(images, draw), _lerp(targets, draw)


def cutmix(images: Tensor, targets: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
    """Replace a box of every image by the next image's (CutMix, arXiv 1905.04899, Algorithm 1).

    The box has a share ``1 - draw[:, 0]`` of the image's area before it is cut off at the borders;
    targets are mixed in proportion to the area that remains.

    Args:
        images: ``[B, C, H, W]``, any scale.
        targets: probabilities ``[B, K]``.
        draw: ``[B, 3]``, rows of :func:`draw_cutmix`.

    Returns:
        Images and targets of the same shapes.

    Raises:
        ValueError: if the batch sizes differ or the targets are not probabilities.
    """
    _check_mix(images, targets, draw, 2)
    height, width = images.shape[2:]
    side = (1 - draw[:, 0]).sqrt()
    rows, tall = _inside(height, draw[:, 1], (side * height).long() // 2)
    columns, wide = _inside(width, draw[:, 2], (side * width).long() // 2)
    box = (rows[:, :, None] & columns[:, None, :])[:, None]
    kept = 1 - (tall * wide) / (height * width)
    return torch.where(box, _next(images), images), _lerp(targets, kept)


def mix(
    images: Tensor,
    targets: Tensor,
    mixup_draw: Tensor | None = None,
    cutmix_draw: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """MixUp on the first half of the batch and CutMix on the second; one alone acts on all of it.

    In an odd batch the second half is the larger one. If several processes share a batch, mix
    before it is divided: otherwise the partners depend on the number of processes.

    Args:
        images: ``[B, C, H, W]``, any scale.
        targets: probabilities ``[B, K]``.
        mixup_draw: ``[B]``, rows of :func:`draw_mixup`, or none.
        cutmix_draw: ``[B, 3]``, rows of :func:`draw_cutmix`, or none.

    Returns:
        Images, floating-point if there is a ``mixup_draw``, and targets.

    Raises:
        ValueError: as :func:`mixup` and :func:`cutmix` do.
    """
    if mixup_draw is None:
        return (images, targets) if cutmix_draw is None else cutmix(images, targets, cutmix_draw)
    if cutmix_draw is None:
        return mixup(images, targets, mixup_draw)
    half = len(images) // 2
    images = _floating(images)
    first = mixup(images[:half], targets[:half], mixup_draw[:half])
    second = cutmix(images[half:], targets[half:], cutmix_draw[half:])
    return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])


def _check_mix(images: Tensor, targets: Tensor, draw: Tensor, dimensions: int) -> None:
    if targets.ndim != 2 or not targets.is_floating_point():
        raise ValueError(
            f"targets are {targets.dtype} {list(targets.shape)}; expected probabilities [B, K]: "
            "use torch.nn.functional.one_hot(labels, classes).float()"
        )
    if images.ndim != 4 or draw.ndim != dimensions or not len(images) == len(targets) == len(draw):
        raise ValueError(
            f"images {list(images.shape)}, targets {list(targets.shape)} and draw "
            f"{list(draw.shape)} do not fit; expected [B, C, H, W], [B, K] and B rows of a draw"
        )


def _floating(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.float()


def _next(batch: Tensor) -> Tensor:
    """Every example's partner; unlike ``roll`` on a GPU this keeps the memory format."""
    return torch.cat([batch[1:], batch[:1]])


def _lerp(batch: Tensor, share: Tensor) -> Tensor:
    share = share.to(batch.dtype).view(-1, *[1] * (batch.ndim - 1))
    return share * batch + (1 - share) * _next(batch)


def _inside(length: int, centre: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Positions ``[B, length]`` within ``half`` of a centre in [0, 1), and their number."""
    positions = torch.arange(length, device=centre.device)
    middle = (centre * length).long()
    low, high = (middle - half).clamp(min=0), (middle + half).clamp(max=length)
    return (positions >= low[:, None]) & (positions < high[:, None]), high - low


def randaugment(images: Tensor, draw: Tensor, magnitude: float, scale: float = 1.0) -> Tensor:
    """Apply random ops of one magnitude in turn, one per layer and image (arXiv 1909.13719).

    Every op here is either a table of 256 values per image and channel, a blend with grey or blur,
    or a move of pixels. A layer does all three to the whole batch, with parameters that change
    nothing in images whose op is of another kind.

    Args:
        images: ``[B, 3, H, W]`` in 0..255; numbers other than bytes are clamped to that range and
            rounded down.
        draw: ``[B, layers, 4]``, rows of :func:`draw_randaugment`.
        magnitude: strength of all ops; 10 is AutoAugment's largest, more extrapolates.
        scale: factor on the lengths of translations and cutouts, which are ``10 * magnitude`` and
            ``4 * magnitude`` pixels in the authors' code for images of any size;
            ``side / 224`` keeps them in proportion.

    Returns:
        uint8 images in channels-last memory format.

    Raises:
        ValueError: for another shape of images or draw, or a negative magnitude.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images are {list(images.shape)}; expected [B, 3, H, W]")
    if draw.ndim != 3 or draw.shape[2] != 4 or len(draw) != len(images):
        raise ValueError(
            f"draw is {list(draw.shape)}; expected [{len(images)}, layers, 4], as many rows of "
            "draw_randaugment as there are images"
        )
    if magnitude < 0:
        raise ValueError(f"magnitude is {magnitude}; expected 0 or more, usually 5 to 20")
    level = magnitude / 10
    pixels = images.permute(0, 2, 3, 1)
    if pixels.dtype != torch.uint8:
        pixels = pixels.clamp(0, 255).to(torch.uint8)
    for layer in draw.unbind(1):
        op = (layer[:, 0] * len(OPS)).long()
        pixels = _tone(pixels, op, level)
        pixels = _blend_ops(pixels, op, level)
        pixels = _move(pixels, op, layer[:, 1:], level, scale)
    return pixels.permute(0, 3, 1, 2)


def _is(op: Tensor, name: str) -> Tensor:
    return op == OPS.index(name)


def _enhancement(level: float) -> float:
    """Factor of the four enhancing ops: 0 is all grey, 1 the image, above 1 exaggerates."""
    return 1.8 * level + 0.1


def _blend(base: Tensor | float, image: Tensor, factor: Tensor | float) -> Tensor:
    """From ``base`` (factor 0) through ``image`` (1) and beyond, rounded down to grey levels."""
    return (base + factor * (image - base)).clamp(0, 255).floor()


def _tone(pixels: Tensor, op: Tensor, level: float) -> Tensor:
    """The ops that look every value up in a table; ``pixels`` is uint8 ``[B, H, W, 3]``."""
    images, height, width, _ = pixels.shape
    value = torch.arange(256, device=pixels.device)
    grey = min(height * width // 256, 255)
    dropped = max(8 - int(4 * level), 0)
    tables = {
        "Invert": 255 - value,
        "Posterize": value >> dropped << dropped,
        "Solarize": torch.where(value < int(256 * level) % 256, value, 255 - value),
        "SolarizeAdd": torch.where(value < 128, (value + int(110 * level)).clamp(max=255), value),
        "Contrast": _blend(grey, value.float(), _enhancement(level)).long(),
        "Brightness": _blend(0, value.float(), _enhancement(level)).long(),
    }
    table = torch.stack([tables.get(name, value) for name in OPS])[op][:, None]  # [B, 1, 256]

    low = pixels.amin((1, 2)).long()[:, :, None]
    high = pixels.amax((1, 2)).long()[:, :, None]
    # In float32 and in this order, as the authors round it: whole numbers differ by a grey level,
    # and so does 255 / span, which torch computes as 255 * (1 / span).
    span = (high - low).clamp(min=1).float()
    scale = torch.full_like(span, 255) / span
    stretched = (value.float() * scale - low * scale).clamp(0, 255).long()
    stretched = torch.where(high > low, stretched, value)
    table = torch.where(_is(op, "AutoContrast")[:, None, None], stretched, table)

    # The tables of an image lie one after the other: position 256 * channel + value.
    index = pixels.long() + 256 * torch.arange(3, device=pixels.device)
    index = index.flatten(1)
    one = torch.ones_like(value[:1]).expand_as(index)
    counts = torch.zeros(images, 768, dtype=torch.int64, device=pixels.device)
    counts = counts.scatter_add_(1, index, one).view(images, 3, 256)
    # The brightest level's count does not enter the step (as in PIL).
    step = (height * width - counts.gather(2, high)) // 255
    below = counts.cumsum(2) - counts
    equalized = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(_is(op, "Equalize")[:, None, None] & (step > 0), equalized, table)
    return table.to(torch.uint8).flatten(1).gather(1, index).view_as(pixels)


def _blend_ops(pixels: Tensor, op: Tensor, level: float) -> Tensor:
    """Color and Sharpness: blends with the grey and with the blurred image."""
    factor = _enhancement(level)
    image = pixels.float()
    red, green, blue = (image[..., i : i + 1] * weight for i, weight in enumerate(_GREY))
    # The authors' library turns a grey level g in 0..1 into the byte 255.5 g, rounded down.
    grey = ((red + green + blue) * (255.5 / 255)).floor()
    color = torch.where(_is(op, "Color"), factor, 1.0)[:, None, None, None]
    image = _blend(grey, image, color)
    # 3×3 neighbours, the middle five times; the border stays as it is
    middle = image[:, 1:-1, 1:-1]
    three = image[:, :-2] + image[:, 1:-1] + image[:, 2:]
    around = three[:, :, :-2] + three[:, :, 1:-1] + three[:, :, 2:] + 4 * middle
    sharpness = torch.where(_is(op, "Sharpness"), factor, 1.0)[:, None, None, None]
    image[:, 1:-1, 1:-1] = _blend((around / 13).floor(), middle, sharpness)
    return image.to(torch.uint8)


def _move(pixels: Tensor, op: Tensor, draw: Tensor, level: float, scale: float) -> Tensor:
    """Rotations, shears, translations (nearest pixel) and Cutout.

    ``draw`` is ``[B, 3]``: direction, row and column of the cutout's centre.
    """
    images, height, width, _ = pixels.shape
    direction = torch.where(draw[:, 0] < 0.5, level, -level)

    def amount(name: str, most: float) -> Tensor:
        return torch.where(_is(op, name), direction * most, 0.0)[:, None, None]

    angle = amount("Rotate", math.radians(30))
    x = torch.arange(width, device=pixels.device, dtype=torch.float32)
    y = torch.arange(height, device=pixels.device, dtype=torch.float32)[:, None]
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    from_x = (x - middle_x) * angle.cos() - (y - middle_y) * angle.sin() + middle_x
    from_y = (x - middle_x) * angle.sin() + (y - middle_y) * angle.cos() + middle_y
    from_x = from_x + amount("ShearX", 0.3) * y + amount("TranslateX", _TRANSLATE * scale)
    from_y = from_y + amount("ShearY", 0.3) * x + amount("TranslateY", _TRANSLATE * scale)
    column, row = (from_x + 0.5).floor().long(), (from_y + 0.5).floor().long()
    empty = (column < 0) | (column >= width) | (row < 0) | (row >= height)

    half = torch.where(_is(op, "Cutout"), int(_CUTOUT * level * scale), 0)
    rows, _ = _inside(height, draw[:, 1], half)
    columns, _ = _inside(width, draw[:, 2], half)
    empty = empty | (rows[:, :, None] & columns[:, None, :])
    image = torch.arange(images, device=pixels.device)[:, None, None]
    moved = pixels[image, row.clamp(0, height - 1), column.clamp(0, width - 1)]
    return torch.where(empty[..., None], FILL, moved)


def blank_share(images: Tensor) -> Tensor:
    """Share of images that show nothing: a scalar tensor.

    An image counts if the standard deviation of its values is under 5 grey levels or over 90 % of
    its pixels are the fill :data:`FILL`.

    Args:
        images: uint8 ``[B, 3, H, W]``.
    """
    flat = images.float().flatten(1).std(1, correction=0) < 5
    filled = (images == FILL).all(1).flatten(1).float().mean(1) > 0.9
    return (flat | filled).float().mean()
