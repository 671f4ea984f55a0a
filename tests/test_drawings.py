"""The drawings: one look, readable on a phone and in the dark, and true to the library."""

import math
import re
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from nbrepro import agc, freezing, models
from nbrepro.book import captions, drawings, style

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "nbrepro" / "book" / "drawings"
NAMES = sorted(drawings.captions())
#: Width of a drawing on a phone whose screen is 390 pixels wide: the page has margins of 16.
PHONE = 358
#: Attributes by which a drawing could get a colour, a font or a stroke of its own.
LOOK = {"style", "fill", "stroke", "color", "stroke-width", "opacity", "font-size", "font-family"}


@cache
def tree(name: str) -> ElementTree.Element:
    root = ElementTree.parse(FOLDER / f"{name}.svg").getroot()
    for element in root.iter():
        element.tag = element.tag.removeprefix("{http://www.w3.org/2000/svg}")
    return root


def rules() -> dict[str, dict[str, str]]:
    """Selector → properties of the style sheet."""
    text = re.sub(r"/\*.*?\*/", "", (FOLDER / "style.css").read_text("utf-8"), flags=re.S)
    found = {}
    for selectors, body in re.findall(r"([^{}]+)\{([^}]*)\}", text):
        lines = (line.split(":", 1) for line in body.split(";") if ":" in line)
        properties = {key.strip(): value.strip() for key, value in lines}
        for selector in selectors.split(","):
            found[selector.strip().removeprefix(".nbrepro-drawing").strip()] = properties
    return found


def data(name: str, key: str) -> list[str]:
    return [e.attrib[f"data-{key}"] for e in tree(name).iter() if f"data-{key}" in e.attrib]


def marked(name: str, key: str, value: str) -> ElementTree.Element:
    (element,) = (e for e in tree(name).iter() if e.get(f"data-{key}") == value)
    return element


def ends(path: ElementTree.Element) -> list[complex]:
    numbers = [float(x) for x in re.findall(r"[-\d.]+", path.attrib["d"])]
    return [complex(x, y) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]


def test_every_file_has_its_words_and_every_name_its_file() -> None:
    assert [path.stem for path in sorted(FOLDER.glob("*.svg"))] == NAMES
    for name, words in drawings.captions().items():
        assert words.keys() == {"title", "caption", "alt"}, name
        assert words["title"].strip().endswith("."), name
        assert len(words["alt"]) > 80, name


def test_notebooks_ask_for_drawings_that_exist() -> None:
    for page in (ROOT / "book").glob("*.ipynb"):
        asked = re.findall(r'\bdrawing\(\\"(\w+)\\"\)', page.read_text(encoding="utf-8"))
        assert not set(asked) - set(NAMES), page.name


@pytest.mark.parametrize("name", NAMES)
def test_a_drawing_has_the_shared_look_and_nothing_else(name: str) -> None:
    known = {c for selector in rules() for c in re.findall(r"\.([\w-]+)", selector)}
    width, height = map(float, tree(name).attrib["viewBox"].split()[2:])
    assert (width, tree(name).attrib["class"]) == (400, "nbrepro-drawing")
    assert 100 < height < 440
    for element in tree(name).iter():
        assert element.tag not in {"style", "script", "image", "foreignObject", "a"}
        assert not LOOK & element.attrib.keys(), element.attrib
        classes = set(element.get("class", "").split()) - {"nbrepro-drawing"}
        assert classes <= known, classes - known
        if element.tag == "path" and "marker" not in element.get("class", ""):
            drawn = {"line", "thin", "thick", "wash", "solid", "bar"} & classes
            assert drawn, f"a path of {name} would be black in the dark: {element.attrib}"


@pytest.mark.parametrize("name", NAMES)
def test_a_drawing_can_stand_beside_others_on_a_page(name: str) -> None:
    ids = [e.attrib["id"] for e in tree(name).iter() if "id" in e.attrib]
    assert len(ids) == len(set(ids))
    assert all(found.startswith(f"{name}-") for found in ids)
    text = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    used = re.findall(r"url\(#([\w-]+)\)|href=\"#([\w-]+)\"", text)
    assert {a or b for a, b in used} == set(ids)


@pytest.mark.parametrize("name", NAMES)
def test_text_is_readable_on_a_phone(name: str) -> None:
    default = float(rules()[""]["font-size"].removesuffix("px"))
    for element in tree(name).iter():
        sizes = [
            float(rules()[f".{c}"]["font-size"].removesuffix("px"))
            for c in element.get("class", "").split()
            if "font-size" in rules().get(f".{c}", {})
        ]
        assert min([*sizes, default]) * PHONE / 400 >= 9


def luminance(colour: tuple[float, ...]) -> float:
    linear = (v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in colour)
    return sum(weight * v for weight, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_are_the_books_and_text_has_contrast(theme: int) -> None:
    ink = rgb(("#222832", "#ced6dd")[theme])  # the theme's text
    ground = luminance(rgb(style.COLOURS["--nb-ground"][theme]))
    used = 0
    for properties in rules().values():
        for value in properties.values():
            assert "#" not in re.sub(r"var\([^()]*\)", "", value), value
            for variable, fallback in re.findall(r"var\((--nb-\w+), (#\w+)\)", value):
                assert style.COLOURS[variable][0] == fallback
        for variable, share in re.findall(
            r"var\((--nb-\w+), #\w+\)(?: (\d+)%)?", properties.get("color", "")
        ):
            used += 1
            part = float(share or 100) / 100
            mixed = zip(rgb(style.COLOURS[variable][theme]), ink, strict=True)
            colour = luminance(tuple(part * a + (1 - part) * b for a, b in mixed))
            contrast = (max(colour, ground) + 0.05) / (min(colour, ground) + 0.05)
            # Vermilion has a rule of its own for text.
            assert contrast >= (4.5 if share or "vermilion" not in variable else 3), variable
    assert used >= 7


def test_on_a_page_a_drawing_has_its_number_and_words() -> None:
    captions.start("08_training_only_batchnorm")
    html = drawings.drawing("blocks").data
    words = drawings.captions()["blocks"]
    assert "Figure 8.1" in html
    for text in words.values():
        assert text.strip().replace("'", "&#39;") in html
    assert "xml-stylesheet" not in html
    assert html == drawings.drawing("blocks").data


def test_an_unknown_drawing_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'lambda_ball'"):
        drawings.drawing("lamda_ball")


# --- what the drawings say is what the library computes ---


def test_lambda_ball_is_to_scale() -> None:
    # In the picture at the top λ = 0.3.
    origin, tip = ends(marked("lambda_ball", "weight", "picture"))
    ball = marked("lambda_ball", "ball", "picture")
    assert complex(float(ball.attrib["cx"]), float(ball.attrib["cy"])) == tip
    gradient, clipped = (
        ends(marked("lambda_ball", kind, "picture")) for kind in ("gradient", "clipped")
    )
    weight = torch.nn.Parameter(torch.tensor([[(tip - origin).real, (tip - origin).imag]]))
    step = gradient[1] - gradient[0]
    weight.grad = torch.tensor([[step.real, step.imag]])
    agc.clip_grads_([("w", weight)], clipping=0.3)
    assert abs(complex(*weight.grad[0].tolist()) - (clipped[1] - clipped[0])) < 0.2
    assert float(ball.attrib["r"]) == pytest.approx(0.3 * abs(tip - origin), abs=0.1)


def test_the_three_units_are_clipped_as_drawn() -> None:
    weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0], [30.0, 40.0]]))
    weight.grad = torch.tensor([[6.0, 8.0], [0.0, 2.0], [0.3, 0.4]])
    before = weight.grad.clone()
    agc.clip_grads_([("w", weight)], clipping=0.1)
    scale = 9  # pixels per unit
    for unit in (1, 3):
        ball = marked("lambda_ball", "ball", str(unit))
        bound = 0.1 * weight[unit - 1].norm().item()
        assert float(ball.attrib["r"]) == pytest.approx(scale * bound, abs=0.01)
        start, end = ends(marked("lambda_ball", "clipped", str(unit)))
        x, y = (scale * weight.grad[unit - 1]).tolist()
        assert abs(complex(x, -y) - (end - start)) < 0.02
    for unit in (1, 2):
        start, end = ends(marked("lambda_ball", "gradient", str(unit)))
        x, y = (scale * before[unit - 1]).tolist()
        assert abs(complex(x, -y) - (end - start)) < 0.2
    said = "".join("".join(text.itertext()) for text in tree("lambda_ball").iter("text"))
    for norm in weight.grad.norm(dim=1).tolist()[:2]:
        assert f"cut to {norm:.4g}" in said


def test_mean_shift_has_the_mean_of_a_relu_and_the_spread_of_he() -> None:
    after, *units = map(float, data("mean_shift", "mean"))
    assert after == pytest.approx(1 / math.sqrt(2 * math.pi), abs=1e-4)
    spread = math.sqrt(1 / math.pi)  # of the units' means, for variance 2/N behind a ReLU
    assert units == pytest.approx([k * spread for k in (-1.5, -0.5, 0.5, 1.5)], abs=1e-3)


def test_frozen_stack_counts_as_the_library_does() -> None:
    counts = freezing.count(models.create("cifar_resnet14"))
    said = "".join("".join(text.itertext()) for text in tree("frozen_stack").iter("text"))
    assert f"all {counts['all']:,} parameters" in said
    trained = counts["batchnorm"] / counts["all"]
    assert f"{counts['batchnorm']:,} trained: {100 * trained:.2f} %" in said
    for part in ("gamma", "beta"):
        width = float(marked("frozen_stack", "part", part).attrib["width"])
        assert width / 384 == pytest.approx(counts[part] / counts["all"], abs=2e-5)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in models.create("cifar_resnet14").modules())
    slices = [e for e in tree("frozen_stack").iter("rect") if e.get("height") == "2.5"]
    assert len(slices) == 2 * (norms - 2)  # without the two shortcuts


def test_gamma_switch_gives_the_share_that_a_relu_passes() -> None:
    normal = torch.distributions.Normal(0.0, 1.0)
    ratios = torch.tensor([0.0, 0.0, -2.0, 2.0])  # β / γ
    shares = torch.tensor([float(share) for share in data("gamma_switch", "share")])
    assert torch.allclose(normal.cdf(ratios), shares, atol=1e-4)


def test_batch_dependence_is_batchnorms() -> None:
    values = torch.tensor([[1.0, 2, 3, 4], [1.0, 2, 3, 10]])
    norm = nn.BatchNorm1d(1, eps=1e-12)
    expected = torch.cat([norm(batch[:, None]).flatten() for batch in values])
    drawn = torch.tensor([float(x) for x in data("batch_dependence", "normalized")])
    assert torch.allclose(expected, drawn, atol=1e-4)


def test_gamma_beta_is_batchnorm_with_a_scale_and_a_shift() -> None:
    norm = nn.BatchNorm1d(1, eps=1e-12)
    standard = norm(torch.tensor([[1.0], [2.0], [3.0], [4.0]])).flatten()
    for key, expected in (("standard", standard), ("out", 0.5 * standard + 0.6)):
        drawn = torch.tensor([float(x) for x in data("gamma_beta", key)])
        assert torch.allclose(expected, drawn, atol=1e-4)
        places = [
            float(e.attrib["cx"]) for e in tree("gamma_beta").iter() if f"data-{key}" in e.attrib
        ]
        assert places == pytest.approx([236 + 84 * x for x in drawn.tolist()], abs=0.06)


def test_train_eval_has_the_running_mean_of_its_dots() -> None:
    norm = nn.BatchNorm1d(1, momentum=0.1)
    dots = [e for e in tree("train_eval").iter("circle") if "data-mean" in e.attrib]
    line = ends(marked("train_eval", "running", "0.1"))
    # From values to heights, by the lowest and the highest dot.
    pairs = [(float(dot.attrib["data-mean"]), float(dot.attrib["cy"])) for dot in dots]
    (low, y_low), (high, y_high) = min(pairs), max(pairs)
    for (mean, _), point in zip(pairs, line, strict=True):
        norm(torch.tensor([[mean - 1], [mean + 1]]))
        share = (norm.running_mean.item() - low) / (high - low)
        assert point.imag == pytest.approx(y_low + share * (y_high - y_low), abs=0.2)


def descent(steps: int, clipping: float | None) -> list[float]:
    """The weight on the way down (w − 2)², with the rate of the drawing."""
    weight = torch.nn.Parameter(torch.tensor([1.4], dtype=torch.float64))
    rate, path = 1.0, [1.4]
    for _ in range(steps):
        weight.grad = 2.25 * (weight.detach() - 2)
        if clipping:
            agc.clip_grads_([("w", weight)], clipping=clipping)
        torch.optim.SGD([weight], lr=rate).step()
        path.append(weight.item())
    return path


def test_loss_rate_is_gradient_descent() -> None:
    drawn = list(map(float, data("loss_rate", "weight")))
    unclipped = descent(3, None)
    assert drawn[:4] == pytest.approx(unclipped, abs=1e-3)
    assert drawn[4:] == pytest.approx(descent(12, 0.2), abs=1e-3)
    distances = [abs(w - 2) for w in unclipped]
    assert distances == sorted(distances)
    assert all(abs(w - 2) < 0.3 for w in descent(200, 0.2)[3:])  # it stays near the minimum


def test_random_k_trains_as_many_numbers_on_both_sides() -> None:
    coloured = [e for e in tree("random_k").iter("rect") if "solid" in e.attrib["class"]]
    by_row: dict[tuple[bool, int], int] = {}
    for rect in coloured:
        random = "purple" in rect.attrib["class"]
        key = (random, int((float(rect.attrib["y"]) - 44) // 46))
        by_row[key] = by_row.get(key, 0) + 1
    assert by_row == {(side, row): 2 for side in (False, True) for row in range(4)}


def test_ghost_batches_have_their_own_statistics() -> None:
    values = torch.tensor([float(x) for x in data("ghost_batches", "value")])
    groups: list[Any] = [values[:12], *values[12:].split(4)]
    assert torch.equal(values[:12], values[12:])
    for key, correction in (("mean", None), ("std", 0)):
        drawn = list(map(float, data("ghost_batches", key)))
        expected = [g.mean() if correction is None else g.std(correction=0) for g in groups]
        assert drawn == pytest.approx([float(x) for x in expected], abs=1e-3)


def test_shared_device_has_as_many_views_as_it_says() -> None:
    views, partners = data("shared_device", "view"), data("shared_device", "partner")
    assert views == partners == [str(number) for number in range(8)]
    said = "".join("".join(text.itertext()) for text in tree("shared_device").iter("text"))
    assert f"{len(views) + len(partners)} views" in said
    assert f"1 in {len(partners)}" in said
