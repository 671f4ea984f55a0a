"""What a run keeps of its BatchNorm layers."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro import data
from nbrepro.records import features
from nbrepro.records.features import Clamp, Features, Layer, Relu
from nbrepro.records.ledger import Ledger
from nbrepro.spec import Spec
from nbrepro.sweep import SweepOptions, run_one
from nbrepro.train import loop
from nbrepro.train.features import measure

FOUR = Features(
    "0" * 16,
    (Layer("bn", (0.005, -0.05, 0.5, 1.0), (0.0, 1.0, -1.0, 0.5)),),
    (Relu("bn", (0.5, 0.995, 0.2, 0.1)), Relu("", (1.0, 0.0, 0.0, 0.0))),
    (Clamp(0.0, 0.0, 0.9), Clamp(0.03, 0.25, 0.8)),
)


def test_shares() -> None:
    assert FOUR.gamma_below(0.01) == 0.25
    assert FOUR.gamma_below(0.1) == 0.5
    assert FOUR.relus_off() == 0.25
    assert FOUR.lost(0.25) == pytest.approx(0.1)
    assert FOUR.lost(0.5) is None
    assert FOUR.metrics().keys() == {"gamma_off", "gamma_small", "relu_off", "clamp_loss"}


def test_channels_are_those_with_a_relu_right_behind_batchnorm() -> None:
    assert FOUR.channels == (
        (0.005, 0.0, 0.5),
        (-0.05, 1.0, 0.995),
        (0.5, -1.0, 0.2),
        (1.0, 0.5, 0.1),
    )
    assert [channel.ratio for channel in FOUR.channels] == [0, 20, -2, 0.5]
    assert features.Channel(0.0, 0.0, 1.0).ratio == 0
    assert features.Channel(0.0, -1.0, 1.0).ratio < -1e300


def test_file_round_trip_and_damage(tmp_path: Path) -> None:
    path = features.write(FOUR, tmp_path)
    assert features.read(tmp_path, FOUR.hash) == FOUR
    assert features.read(tmp_path, "1" * 16) is None
    path.write_text(path.read_text().replace("0.995", "0.985"))
    with pytest.raises(ValueError, match=f"{path.name}: contents do not match"):
        features.read(tmp_path, FOUR.hash)
    path.write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="not the features of a run"):
        features.read(tmp_path, FOUR.hash)
    features.write(FOUR, tmp_path).rename(path.with_name(f"{'1' * 16}.json"))
    with pytest.raises(ValueError, match="holds the features of"):
        features.read(tmp_path, "1" * 16)


class Tiny(nn.Module):
    """Two channels; the second ReLU gets a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.relu(self.bn(x)) - 1)


def test_relus_are_counted_where_they_are() -> None:
    model = Tiny().eval()
    with torch.no_grad():
        model.bn.weight[:] = torch.tensor([1.0, 0.004])
        model.bn.bias[:] = torch.tensor([0.0, -1.0])
    images = torch.randn(30, 2, 4, 4)

    def accuracy() -> float:
        for part in images.split(20):  # two batches of two sizes
            model(part)
        return float(model.bn.weight.count_nonzero()) / 2

    found = measure(model, "a" * 16, accuracy, lambda counts: counts)
    assert found is not None
    first, second = found.relus
    assert (first.after, second.after) == ("bn", "")
    hidden = F.relu(model.bn(images))
    share = (hidden == 0).float().mean(dim=(0, 2, 3))
    assert first.off == pytest.approx(share.tolist(), abs=1e-4)
    share = (hidden <= 1).float().mean(dim=(0, 2, 3))
    assert second.off == pytest.approx(share.tolist(), abs=1e-4)
    assert first.off[1] == 1
    # γ of the second channel falls below 0.01, and comes back.
    assert [c.accuracy for c in found.clamped if c.threshold == 0.01] == [0.5]
    assert model.bn.weight.tolist() == pytest.approx([1.0, 0.004])


def test_no_features_without_batchnorm() -> None:
    assert measure(nn.Linear(2, 2), "a" * 16, lambda: 0.0, lambda counts: counts) is None


def test_a_run_keeps_them_and_the_rest_is_as_before(spec: Spec, ledger: Ledger) -> None:
    spec = spec.replace(train="batchnorm", epochs=1)
    options = SweepOptions(ledger=ledger, device="cpu", progress=False)
    record = run_one(spec, options)
    kept = features.read(options.ledger.root, spec.hash)
    assert kept is not None
    assert record.metrics.items() >= kept.metrics().items()
    assert kept.clamped[0].accuracy == record.metrics["test_accuracy"]
    result = loop.train(spec, data.load("digits"), device="cpu", progress=False)
    parameters = dict(result.model.named_parameters())
    for layer in kept.layers:
        assert parameters[f"{layer.name}.weight"].tolist() == pytest.approx(layer.gamma, rel=1e-4)
        assert parameters[f"{layer.name}.bias"].tolist() == pytest.approx(
            layer.beta, rel=1e-4, abs=1e-9
        )
