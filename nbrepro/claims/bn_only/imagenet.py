"""The recipe for ImageNet (arXiv 2003.00152, appendix B, released code): rates, crops, centres."""

import math
import random

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from nbrepro.claims.checks import Outcome, check, check_over
from nbrepro.data.files import centre, random_box
from nbrepro.spec import Spec
from nbrepro.train.schedule import learning_rate

IMAGES = 1_281_167
#: Width and height of an image as ImageNet has many.
SIZE = (500, 375)


@check
def imagenet_rates() -> Outcome:
    """The rate of every step of a run with the recipe's settings.

    Values count defaults of the optimizer that differ, and give the largest difference from a rate
    that rises linearly from 0 to 0.4 over five epochs and is divided by ten at epochs 30, 60 and
    80.
    """
    spec = Spec(
        model="resnet50",
        dataset="imagenet@224",
        augmentation="resized-crop",
        epochs=90,
        batch_size=1024,
        lr=0.4,
        milestones=(1 / 3, 2 / 3, 8 / 9),
        warmup_epochs=5,
        warmup_from_zero=True,
    )
    named = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "decay": "all"}
    epoch = math.ceil(IMAGES / 1024)
    steps = np.arange(90 * epoch)
    wanted = 0.4 * np.minimum(1, steps / (5 * epoch))
    for end in (30, 60, 80):
        wanted[end * epoch :] /= 10
    found = [learning_rate(spec, step, epoch) for step in range(90 * epoch)]
    return Outcome(
        {
            "other": sum(getattr(spec, name) != value for name, value in named.items()),
            "error": float(np.abs(found - wanted).max()),
        },
        f"the rates of {len(steps):,} steps, {epoch:,} per epoch",
    )


@check_over(seeds=10)
def imagenet_crops() -> Outcome:
    """Boxes for training, and what is seen in testing.

    Values are the least and the greatest share of an image's area and ratio of width to height
    among 2,000 boxes (both sides are rounded to pixels), and the largest difference, in steps of
    256, from torchvision's resizing to 256 and central crop of 224 pixels.
    """
    width, height = SIZE
    generator = random.Random(int(torch.randint(2**31, ())))
    boxes = np.array([random_box(width, height, generator) for _ in range(2000)])
    across, down = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share, ratio = across * down / (width * height), across / down
    image = Image.fromarray(torch.randint(256, (height, width, 3), dtype=torch.uint8).numpy())
    tested = v2.CenterCrop(224)(v2.Resize(256)(image))
    ours = np.asarray(centre(image, 224), dtype=int)
    return Outcome(
        {
            "least_area": share.min(),
            "greatest_area": share.max(),
            "least_ratio": ratio.min(),
            "greatest_ratio": ratio.max(),
            "error_in_testing": np.abs(ours - np.asarray(tested, dtype=int)).max(),
        },
        "boxes of {least_area:.2f} to {greatest_area:.2f} of an image's area, with ratios from "
        "{least_ratio:.2f} to {greatest_ratio:.2f}",
    )
