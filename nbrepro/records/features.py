"""What training made of a network's BatchNorm layers: ``<ledger>/features/<hash>.json``.

One small file beside the record of a run: γ and β of every channel, how often its ReLU is off, and
the accuracy that is left when small γ are set to zero. Chapters about them need no second training.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from nbrepro._files import replacing
from nbrepro.records.ledger import FEATURES, _digest

#: A γ below it counts as off (arXiv 2003.00152, Figure 5).
OFF = 0.01
#: A γ below it counts as small (ours).
SMALL = 0.1
#: A ReLU that is zero at more than this share of images and places counts as off.
ALWAYS = 0.99
#: The share of the channels whose removal makes the metric ``clamp_loss``.
QUARTER = 0.25


@dataclass(frozen=True)
class Layer:
    """One BatchNorm layer: its name, and γ and β of its channels."""

    name: str
    gamma: tuple[float, ...]
    beta: tuple[float, ...]


@dataclass(frozen=True)
class Relu:
    """One ReLU, in the order of the forward pass.

    Attributes:
        after: the BatchNorm layer whose output it gets; empty if it gets a sum.
        off: per channel, at which share of test images and places it is zero.
    """

    after: str
    off: tuple[float, ...]


class Channel(NamedTuple):
    """A channel whose ReLU stands right behind its BatchNorm layer.

    Attributes:
        gamma: its γ; ``beta`` likewise.
        off: at which share of test images and places its ReLU is zero.
    """

    gamma: float
    beta: float
    off: float

    @property
    def ratio(self) -> float:
        """β / |γ|: how far the middle of what the ReLU gets lies from zero, in deviations."""
        return self.beta / max(abs(self.gamma), sys.float_info.min)


@dataclass(frozen=True)
class Clamp:
    """The test accuracy when every γ with ``|γ| < threshold`` is zero, a ``share`` of all."""

    threshold: float
    share: float
    accuracy: float


@dataclass(frozen=True)
class Features:
    """What training made of a network's BatchNorm layers.

    Attributes:
        hash: of the run.
        layers: in the network's order.
        relus: in the order of the forward pass.
        clamped: by rising threshold; the first one removes nothing.
    """

    hash: str
    layers: tuple[Layer, ...]
    relus: tuple[Relu, ...]
    clamped: tuple[Clamp, ...]

    @property
    def gamma(self) -> tuple[float, ...]:
        """γ of all channels."""
        return tuple(g for layer in self.layers for g in layer.gamma)

    @property
    def beta(self) -> tuple[float, ...]:
        """β of all channels."""
        return tuple(b for layer in self.layers for b in layer.beta)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """All channels with a ReLU right behind BatchNorm, in the order of the forward pass."""
        layers = {layer.name: layer for layer in self.layers}
        return tuple(
            Channel(*channel)
            for relu in self.relus
            if relu.after
            for channel in zip(
                layers[relu.after].gamma, layers[relu.after].beta, relu.off, strict=True
            )
        )

    def gamma_below(self, threshold: float) -> float:
        """The share of channels with ``|γ| < threshold``."""
        return _share([abs(g) < threshold for g in self.gamma])

    def relus_off(self, always: float = ALWAYS) -> float:
        """The share of channels whose ReLU is zero more often than ``always``."""
        return _share([off > always for relu in self.relus for off in relu.off])

    def lost(self, share: float) -> float | None:
        """The accuracy lost by setting that share of the γ, the smallest, to zero.

        ``None`` if it was not measured: where γ are alike, no threshold removes a part of them.
        """
        for clamp in self.clamped:
            if abs(clamp.share - share) <= 0.5 / len(self.gamma):
                return self.clamped[0].accuracy - clamp.accuracy
        return None

    def metrics(self) -> dict[str, float]:
        """What the record of the run says of it, as fractions.

        ``gamma_off`` and ``gamma_small``, the shares of γ below :data:`OFF` and :data:`SMALL`;
        ``relu_off``, that of ReLUs that are always off; ``clamp_loss``, the accuracy lost with the
        smallest quarter of the γ, where it was measured.
        """
        found = {
            "gamma_off": self.gamma_below(OFF),
            "gamma_small": self.gamma_below(SMALL),
            "relu_off": self.relus_off(),
            "clamp_loss": self.lost(QUARTER),
        }
        return {name: round(number, 6) for name, number in found.items() if number is not None}

    def to_json(self) -> str:
        """Canonical text with a digest."""
        body = json.loads(json.dumps(asdict(self)))
        return json.dumps(body | {"digest": _digest(body)}, separators=(",", ":")) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Features":
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: if the text was altered or damaged.
        """
        try:
            body = json.loads(text)
            if body.pop("digest") != _digest(body):
                raise ValueError("contents do not match their digest (altered or damaged)")
            return cls(
                body["hash"],
                tuple(
                    Layer(x["name"], tuple(x["gamma"]), tuple(x["beta"])) for x in body["layers"]
                ),
                tuple(Relu(x["after"], tuple(x["off"])) for x in body["relus"]),
                tuple(Clamp(**x) for x in body["clamped"]),
            )
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not the features of a run ({error!r})") from error


def write(features: Features, root: Path) -> Path:
    """Write atomically to the ledger at ``root``."""
    path = root / FEATURES / f"{features.hash}.json"
    with replacing(path) as file:
        file.write(features.to_json().encode())
    return path


def read(root: Path, run: str) -> Features | None:
    """The features of a run, by its hash; ``None`` if there are none.

    Raises:
        ValueError: naming the file, if it is damaged or belongs to another run.
    """
    path = root / FEATURES / f"{run}.json"
    try:
        found = Features.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path}: {error}; restore it, or delete it") from error
    if found.hash != run:
        raise ValueError(f"{path} holds the features of {found.hash}; restore it, or delete it")
    return found


def _share(of: Sequence[bool]) -> float:
    return sum(of) / len(of)
