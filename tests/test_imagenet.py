import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro import imagenet, models
from nbrepro.data import MEAN, STD, DataError
from nbrepro.data.decode import decode
from nbrepro.data.preprocess import Preprocess, resize
from nbrepro.imagenet import PRINTED, Accuracy, evaluate, main, report
from nbrepro.models import nfnet, pretrained

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Seven images: folders sort as blue, green, red, not as the channels do."""
    for number, (name, colour) in enumerate(COLOURS.items()):
        (tmp_path / "tree" / name).mkdir(parents=True)
        for image in range(number + 1 + (name == "blue")):
            size = (40 + 7 * image, 30)
            Image.new("RGB", size, colour).save(tmp_path / "tree" / name / f"{image}.png")
    return tmp_path / "tree"


class Channels(nn.Module):
    """Logits are the mean of the channels, in the order given."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        return x.mean(dim=(2, 3))[:, self.order]


class Constant(nn.Module):
    """The same ``classes`` logits whatever the image, largest first."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return -torch.arange(float(self.classes)).expand(len(x), -1)


def test_resize_is_tensorflows() -> None:
    """Values of TensorFlow 2.21, ``tf.image.resize(..., "bicubic")``, smaller and larger."""
    image = (torch.arange(7)[:, None] * 37 + torch.arange(5) * 91) % 256
    expected = torch.tensor(
        [
            [3.86, 41.22, 107.96, 191.27, 159.56, 31.56, 73.64, 124.95],
            [72.08, 123.48, 165.4, 36.05, 4.28, 88.95, 156.96, 195.05],
            [135.95, 193.06, 242.76, 114.37, 85.87, 160.64, 78.11, 6.55],
            [224.22, 137.21, 34.87, 97.36, 175.4, 229.96, 133.32, 51.72],
        ]
    )
    assert (resize(image.float(), 4, 8) - expected).abs().max() < 0.2


def test_enlarging_is_pytorchs_antialiased_resize() -> None:
    """With ``antialias=True`` PyTorch has this kernel, and smooths when it shrinks only."""
    torch.manual_seed(0)
    image = torch.rand(3, 9, 11)
    expected = F.interpolate(image[None], (20, 31), mode="bicubic", antialias=True)[0]
    torch.testing.assert_close(resize(image, 20, 31), expected, rtol=0, atol=1e-5)


def test_preprocessing_squashes_crops_and_normalises() -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(256, size=(50, 80, 3), dtype=np.uint8)
    seen = Preprocess(24)(Image.fromarray(pixels))
    assert seen.shape == (3, 24, 24)
    whole = resize(torch.from_numpy(pixels).permute(2, 0, 1).float(), 56, 56)
    for channel in range(3):
        expected = (whole[channel, 16:40, 16:40] / 255 - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(seen[channel], expected, rtol=0, atol=1e-5)
    assert pickle.loads(pickle.dumps(Preprocess(24))) == Preprocess(24)


def test_classes_are_the_sorted_folders(colours: Path) -> None:
    right, rotated = Channels([2, 1, 0]), Channels([0, 2, 1])
    for batch_size in (2, 7, 50):
        found = evaluate(right, colours, 8, batch_size=batch_size, progress=False)
        assert found == Accuracy(1.0, 1.0, 7)
    assert evaluate(rotated, colours, 8).top1 == 0.0


def test_top1_and_top5(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"class{number}").mkdir()
        for image in range(2 if number == 0 else 1):
            Image.new("L", (9, 9)).save(tmp_path / f"class{number}" / f"{image}.png")  # grey
    accuracy = evaluate(Constant(7), tmp_path, 8, batch_size=3)
    assert (accuracy.top1, accuracy.top5) == pytest.approx((2 / 8, 6 / 8))
    assert accuracy.images == 8


def test_same_with_workers(colours: Path) -> None:
    model = Channels([1, 2, 0])
    assert evaluate(model, colours, 8, batch_size=2, workers=1) == evaluate(model, colours, 8)


def test_files_become_pixels_as_in_training(tmp_path: Path) -> None:
    """16 bits used to be white here; an animation gave its first frame."""
    (tmp_path / "class").mkdir()
    path = tmp_path / "class" / "deep.png"
    Image.fromarray((np.arange(81, dtype=np.uint16) * 800).reshape(9, 9)).save(path)
    seen: list[Tensor] = []

    class Seeing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.extend(x)
            return torch.zeros(len(x), 1)

    assert evaluate(Seeing(), tmp_path, 16).top1 == 1
    assert torch.equal(seen[0], Preprocess(16)(decode(path)))
    assert seen[0].std() > 0.1
    frames = [Image.new("L", (9, 9), level) for level in (0, 200)]
    frames[0].save(tmp_path / "class" / "moving.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"moving\.gif is an animation of 2 frames"):
        evaluate(Seeing(), tmp_path, 16)


def test_bad_trees(colours: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder in (empty, tmp_path / "absent"):
        with pytest.raises(DataError, match="not a tree of images"):
            evaluate(Constant(3), folder, 8)
    with pytest.raises(ValueError, match=r"4 outputs, but .* holds 3 class folders"):
        evaluate(Constant(4), colours, 8)
    (colours / "red" / "9.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"9\.png cannot be decoded"):
        evaluate(Constant(3), colours, 8)
    (colours / "white").mkdir()
    with pytest.raises(DataError, match="white"):
        evaluate(Constant(4), colours, 8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_command_line_end_to_end(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = models.create("cifar_nfnet_f0", num_classes=3)
    weights = tmp_path / "weights.pt"
    torch.save(model.state_dict(), weights)
    accuracy = evaluate(model, colours, 32)
    common = ["--model", "cifar_nfnet_f0", "--weights", str(weights), "--data", str(colours)]
    assert main([*common, "--workers", "0", "--device", "cpu"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        f"cifar_nfnet_f0 at 32 pixels, 7 images: top-1 {accuracy.top1:.2%}, top-5 100.00%"
    )
    assert second == "the paper prints no accuracy for cifar_nfnet_f0"
    assert main([*common, "--workers", "0", "--pixels", "16"]) == 0
    assert "at 16 pixels" in capsys.readouterr().out

    for arguments, message in (
        (["--pixels", "0"], "--pixels is 0"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--form", "timm"], "is for timm's weights"),
        (["--model", "nfnet_f9"], "nfnet_f0 to nfnet_f7"),
        (["--model", "bn_cifar_nfnet_f0"], "does not fit bn_cifar_nfnet_f0"),
        (["--weights", "absent.pth"], "no file absent.pth"),
        (["--data", str(tmp_path / "absent")], "not a tree of images"),
    ):
        assert main([*common, *arguments, "--workers", "0"]) == 2
        assert message in capsys.readouterr().err


def test_weights_of_timm_are_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = nfnet.Variant((1, 1, 1, 1), (256, 256, 256, 256), 0.2, 32, 64, 5)
    monkeypatch.setitem(nfnet.VARIANTS, "f0", small)
    monkeypatch.setitem(nfnet.VARIANTS, "f1", nfnet.VARIANTS["f2"])
    model = nfnet.NFNet(small, 3).eval()
    torch.save(pretrained.to_timm(model), tmp_path / "timm.pth")
    loaded = imagenet.load("nfnet_f0", tmp_path / "timm.pth").eval()
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(loaded(x), model(x))
    with pytest.raises(ValueError, match="of nfnet_f0, not of nfnet_f1"):
        imagenet.load("nfnet_f1", tmp_path / "timm.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"lacks fc\.weight"):
        imagenet.load("nfnet_f0", tmp_path / "other.pth")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_weights_of_ones_own_that_no_network_was_trained_to(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line that names the tensor, from the command line too; weights in float64 are rounded."""
    model = models.create("cifar_nfnet_f0", num_classes=3)
    state = model.state_dict()
    arguments = ["--model", "cifar_nfnet_f0", "--data", str(colours), "--device", "cpu"]
    arguments += ["--workers", "0", "--weights"]
    nan = {name: tensor.clone() for name, tensor in state.items()}
    nan["fc.weight"][0, 0] = float("nan")
    for name, wrong, message in (
        ("half.pth", {n: t.half() for n, t in state.items()}, "has type torch.float16, expected"),
        ("whole.pth", {n: t.int() for n, t in state.items()}, "has type torch.int32, expected"),
        ("nan.pth", nan, "fc.weight has values that are not finite"),
    ):
        torch.save(wrong, tmp_path / name)
        assert main([*arguments, str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
    torch.save({name: tensor.double() for name, tensor in state.items()}, tmp_path / "double.pth")
    loaded = imagenet.load("cifar_nfnet_f0", tmp_path / "double.pth")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_report_stands_next_to_the_paper() -> None:
    lines = report("nfnet_f0", 256, Accuracy(0.8340, 0.966, 50_000)).splitlines()
    assert lines == [
        "nfnet_f0 at 256 pixels, 50,000 images: top-1 83.40%, top-5 96.60%",
        "the paper: top-1 83.6 %, top-5 96.8 % (mean of 3 seeds; arXiv 2102.06171, Table 3, seen "
        "in the paper)",
        "difference -0.20 points; standard error of the measured top-1 from the choice of images "
        "0.17",
    ]
    assert "with SAM" in report("nfnet_f6", 576, Accuracy(0.8, 0.9, 50_000))
    assert "not comparable" in report("nfnet_f0", 256, Accuracy(0.8, 0.9, 100))
    assert "not comparable" in report("nfnet_f0", 192, Accuracy(0.8, 0.9, 50_000))
    assert "prints no accuracy" in report("nfnet_f7", 608, Accuracy(0.8, 0.9, 50_000))
    assert list(PRINTED) == [f"nfnet_f{number}" for number in range(7)]
