"""The description of one run, and its identity.

Defaults are the CIFAR-10 recipe of arXiv 2003.00152 (appendix B and released code). A run's
identity is a hash of the settings that differ from the defaults, so a setting added later, at a
default that changes nothing, keeps every old hash and every old record.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, get_args, get_origin, get_type_hints

from nbrepro import _policy, models
from nbrepro._suggest import choose, unknown

# The keys of the tables in nbrepro.models.initializers, which cannot be imported without torch.
WEIGHT_INITS = ("kaiming_normal", "kaiming_uniform", "orthogonal", "binary")
BATCHNORM_INITS = ("uniform", "fixed", "oneone", "positivenegative")
SCHEDULES = ("step", "cosine", "constant")
AUGMENTATIONS = ("crop-flip", "resized-crop", "none")
PRECISIONS = ("auto", "float32", "bfloat16")
OPTIMIZERS = ("sgd", "nesterov", "lars", "adamw")
DECAYED = ("all", "weights")
CLIPS = ("none", "agc", "agc-layer", "norm")
UNCLIPPED = ("fc.weight",)
#: The largest whole number: seeds are multiplied, and steps counted, in 64 bits.
MOST = 2**31 - 1

#: How every pre-training trains, whatever the run does that starts from it: the recipe of chapters
#: 4 and 5 at half its batch. Networks with scaled weight standardization also have AGC, as
#: arXiv 2102.06171 trains them, at :class:`Spec`'s λ and with all but the classifier clipped.
PRETRAINING: Mapping[str, Any] = {
    "optimizer": "nesterov",
    "batch_size": 128,
    "lr": 0.2,
    "schedule": "cosine",
    "warmup_epochs": 0.5,
    "weight_decay": 5e-4,
    "decay": "weights",
    "label_smoothing": 0.1,
}
#: What a pre-training shares with the run that starts from it: the network and its seed.
_SHARED = (
    *("model", "weight_init", "batchnorm_init", "skip_init", "dropout", "stochastic_depth"),
    *("ghost_batch", "augmentation", "precision", "seed"),
)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One training run. Two runs that differ only in ``seed`` are replicates.

    Attributes:
        model: name for :func:`nbrepro.models.create`.
        train: policy for :func:`nbrepro.freezing.freeze`. The order of its parts does not matter:
            it is stored with what is drawn first, then the groups in that module's order.
        statistics: whether BatchNorm layers use batch statistics and update the running ones.
        weight_init: one of :data:`WEIGHT_INITS`.
        batchnorm_init: one of :data:`BATCHNORM_INITS`.
        dataset: name for :func:`nbrepro.data.load`; of a folder its name alone, never a path, which
            would tell of the machine and give one data set two names.
        pretrained: ``<data set>:<epochs>`` to start from weights that were trained on another data
            set, see :attr:`parent`; empty to start from random weights.
        augmentation: ``crop-flip`` (4 pixels of black border, random crop, mirror),
            ``resized-crop`` (random boxes of image files at the side that the data set's name
            gives, mirror: the ImageNet recipe, see :mod:`nbrepro.data.files`) or ``none``.
        mixup: α of MixUp's Beta distribution; 0 for none. With CutMix, each acts on half a batch.
        cutmix: α of CutMix's Beta distribution; 0 for none.
        randaugment: magnitude of RandAugment with four layers (10 is the scale's top); 0 for none.
        epochs: passes over the training set; 0 evaluates the untrained network.
        batch_size: images per step, over all processes together.
        optimizer: ``sgd``, ``nesterov`` (SGD with Nesterov's momentum), ``lars`` or ``adamw``.
        lr: learning rate before the schedule.
        scalar_lr: that of biases, gains and scalars under ``lars``; 0 for the same.
        momentum: the optimizer's momentum; AdamW's β₁, beside a β₂ of 0.999.
        weight_decay: L2 coefficient; under ``adamw``, which decays weights apart from gradients,
            the share of a weight that is lost per step, divided by the rate.
        decay: what it acts on: ``all`` that is trained, or the ``weights`` of convolutions and
            linear layers only (no gains, biases or SkipInit scalars).
        clip: how gradients are clipped: ``none``, ``agc`` (adaptive, unit by unit), ``agc-layer``
            (adaptive, one ratio per layer) or ``norm`` (by the norm of the whole gradient).
        clipping: AGC's λ, or the largest norm of the whole gradient; above 0 where it is used.
        unclipped: parameters left out of AGC, by name or pattern. The order does not matter: it is
            stored with the default first, then in that of the alphabet.
        label_smoothing: label smoothing of the cross-entropy.
        sam: ρ of sharpness-aware minimization; 0 for none.
        sam_share: share of the batch that SAM's ascent step sees.
        ema: decay of an exponential moving average of the weights, evaluated in addition to them;
            0 for none.
        dropout: rate before the classifier, for networks that have it; 0 for the network's own.
        stochastic_depth: rate of dropped residual branches, for networks that have it; 0 for the
            network's own.
        ghost_batch: images that BatchNorm's statistics see at a time in training, for networks that
            can (:class:`nbrepro.layers.GhostBatchNorm2d`); 0 for the whole batch.
        skip_init: whether a normalizer-free network's blocks have SkipInit's scalar.
        schedule: ``step``, ``cosine`` (to zero) or ``constant``.
        milestones: where ``step`` multiplies the rate by 0.1, as fractions of all steps; stored in
            rising order.
        warmup_epochs: epochs, W steps, over which the rate rises linearly to the schedule's first.
        warmup_from_zero: whether step s of them (from 0) has s/W of that rate, as in the code of
            both papers; without it (s + 1)/W, as in all runs before there was this setting.
        precision: ``auto`` is bfloat16 (convolutions, linear layers) where the hardware has it.
        seed: initialization, data order and augmentation all follow from it.
    """

    model: str
    train: str = "all"
    statistics: bool = True
    weight_init: str = "kaiming_normal"
    batchnorm_init: str = "uniform"
    dataset: str = "cifar10"
    pretrained: str = ""
    augmentation: str = "crop-flip"
    mixup: float = 0.0
    cutmix: float = 0.0
    randaugment: float = 0.0
    epochs: int = 160
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    scalar_lr: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay: str = "all"
    clip: str = "none"
    clipping: float = 0.01
    unclipped: tuple[str, ...] = UNCLIPPED
    label_smoothing: float = 0.0
    sam: float = 0.0
    sam_share: float = 0.2
    ema: float = 0.0
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    ghost_batch: int = 0
    skip_init: bool = True
    schedule: str = "step"
    milestones: tuple[float, ...] = (0.5, 0.75)
    warmup_epochs: float = 0.0
    warmup_from_zero: bool = False
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Normalize numbers and reject what cannot be run.

        Raises:
            TypeError: for a value of the wrong type, such as the text ``"1e-3"`` for a rate.
            ValueError: for an unknown name or a number out of range.
        """
        for name, hint in _hints().items():
            value = _typed(name, getattr(self, name), hint)
            object.__setattr__(self, name, value)
        object.__setattr__(self, "train", _policy.canonical(self.train))
        object.__setattr__(self, "milestones", tuple(sorted(self.milestones)))
        unclipped = sorted(set(self.unclipped), key=lambda name: (name not in UNCLIPPED, name))
        object.__setattr__(self, "unclipped", tuple(unclipped))
        self._check_names()
        self._check_numbers()
        if self.pretrained:
            self._check_pretrained()
        self._check_read()

    def _check_names(self) -> None:
        models.check(self.model)
        _check_folder(self.dataset)
        for name, known in _NAMES.items():
            choose(name, getattr(self, name), known)

    def _check_numbers(self) -> None:
        for name, (low, high) in (_RANGES | {"warmup_epochs": (0, self.epochs)}).items():
            value = getattr(self, name)
            if value < low or (high is not None and value > high):
                bound = f"at least {low}" if high is None else f"between {low} and {high}"
                raise ValueError(f"{name} is {value}; it must be {bound}")
        for name, used in (("clipping", self.clip != "none"), ("sam_share", self.sam > 0)):
            if used and getattr(self, name) == 0:
                raise ValueError(f"{name} is 0.0; it must be above 0 where it is used")
        if self.optimizer == "nesterov" and self.momentum == 0:
            raise ValueError("momentum is 0, and Nesterov's needs some; take sgd without momentum")
        if self.optimizer == "adamw" and self.momentum == 1:
            raise ValueError("momentum is 1, but AdamW's β₁ must be below 1")
        if any(not 0 < m < 1 for m in self.milestones):
            raise ValueError(
                f"milestones are {self.milestones}; each is a fraction between 0 and 1"
            )

    def _check_read(self) -> None:
        """Refuse a setting that nothing reads: it would give one run two names."""
        known = models.options(self.model)
        for name in self.model_options():
            if name not in known:
                asked = "skip_init" if name == "skip_gain" and not self.skip_init else name
                raise ValueError(
                    f"{asked} is set, but {self.model} has no such option; it has "
                    f"{', '.join(known) or 'none'}"
                )
        for name, unread, cause in (
            ("clipping", self.clip == "none", "clip"),
            ("unclipped", not self.clip.startswith("agc"), "clip"),
            ("sam_share", self.sam == 0, "sam"),
            ("scalar_lr", self.optimizer != "lars", "optimizer"),
            ("warmup_from_zero", self.warmup_epochs == 0, "warmup_epochs"),
            ("milestones", self.schedule != "step", "schedule"),
            ("decay", self.weight_decay == 0, "weight_decay"),
        ):
            if unread and getattr(self, name) != _DEFAULTS[name]:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, which nothing reads with "
                    f"{cause}={getattr(self, cause)!r}; leave it out"
                )

    def model_options(self) -> dict[str, Any]:
        """The settings that :func:`nbrepro.models.create` takes, where they are not the default."""
        named = {name: getattr(self, name) for name in _MODEL_OPTIONS}
        options = {name: value for name, value in named.items() if value != _DEFAULTS[name]}
        return options if self.skip_init else options | {"skip_gain": None}

    @property
    def parent(self) -> "Spec | None":
        """The run whose final weights this one starts from, all but those of the output layer.

        It trains everything (:data:`PRETRAINING`) with this run's network, augmentation, precision
        and seed. ``None`` without ``pretrained``.
        """
        if not self.pretrained:
            return None
        dataset, _, epochs = self.pretrained.rpartition(":")
        shared = {name: getattr(self, name) for name in _SHARED}
        clip = "agc" if "standardize" in models.options(self.model) else "none"
        return Spec(**shared, **PRETRAINING, clip=clip, dataset=dataset, epochs=int(epochs))

    def _check_pretrained(self) -> None:
        dataset, _, epochs = self.pretrained.rpartition(":")
        if not (dataset and epochs.isascii() and epochs.isdecimal() and 0 < int(epochs) <= MOST):
            raise ValueError(
                f"pretrained is {self.pretrained!r}; expected a data set and one epoch or more, as "
                "in tiny-imagenet-50@16:6"
            )
        if epochs != str(int(epochs)):
            raise ValueError(f"pretrained is {self.pretrained!r}; write {dataset}:{int(epochs)}")
        _check_folder(dataset, "pretrained")
        if dataset == self.dataset:
            raise ValueError(
                f"pretrained is {self.pretrained!r}, and the run is on {dataset} too; pre-train on "
                "other data, or train for longer"
            )
        if self.augmentation == "resized-crop":
            raise ValueError("pretrained needs decoded images; augmentation is resized-crop")

    def to_dict(self) -> dict[str, Any]:
        """All settings, defaults included, as JSON types."""
        settings = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Spec":
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: for an unknown setting, naming the nearest known one.
            TypeError: for a missing ``model`` or a value of the wrong type.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in settings:
            if name not in known:
                raise ValueError(unknown("setting", name, known))
        return cls(**settings)

    def canonical(self) -> str:
        """The text that is hashed: settings that differ from their defaults, sorted by name."""
        settings = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        return json.dumps(settings, sort_keys=True, separators=(",", ":"))

    @cached_property
    def hash(self) -> str:
        """Identity of the run: 16 hexadecimal digits."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]

    def replace(self, **changes: Any) -> "Spec":
        """A copy with some settings changed."""
        return dataclasses.replace(self, **changes)

    def __str__(self) -> str:
        start = f" from {self.pretrained}" if self.pretrained else ""
        return (
            f"{self.model} train={self.train} on {self.dataset}{start}, "
            f"{self.epochs} epochs, seed {self.seed}"
        )


#: Settings that name one of a few things, and those.
_NAMES = {
    "weight_init": WEIGHT_INITS,
    "batchnorm_init": BATCHNORM_INITS,
    "augmentation": AUGMENTATIONS,
    "optimizer": OPTIMIZERS,
    "decay": DECAYED,
    "clip": CLIPS,
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
}
#: Smallest and largest value of a setting; None for no bound.
_RANGES: dict[str, tuple[float, float | None]] = {
    "epochs": (0, MOST),
    "batch_size": (1, MOST),
    "lr": (0, None),
    "scalar_lr": (0, None),
    "momentum": (0, 1),
    "weight_decay": (0, None),
    "clipping": (0, None),
    "label_smoothing": (0, 1),
    "mixup": (0, None),
    "cutmix": (0, None),
    "randaugment": (0, None),
    "sam": (0, None),
    "sam_share": (0, 1),
    "ema": (0, 1),
    "dropout": (0, 1),
    "stochastic_depth": (0, 1),
    "ghost_batch": (0, MOST),
    "seed": (0, MOST),
}
_MODEL_OPTIONS = ("weight_init", "batchnorm_init", "dropout", "stochastic_depth", "ghost_batch")
_LARGEST = 2**1000  # and not much more can be a float
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Spec)}


def _check_folder(name: str, setting: str = "dataset") -> None:
    """Refuse a data set's name that is not that of one folder.

    Raises:
        ValueError: saying how to name a folder elsewhere.
    """
    if name in ("", ".", "..") or not name.isprintable() or set(name) & set("/\\"):
        raise ValueError(
            f"{setting} is {name!r}; expected the name of a folder, not a path: the folder it lies "
            "in goes to --data-root or NBREPRO_DATA"
        )


@cache
def _hints() -> dict[str, Any]:
    """Name of a setting → its type."""
    hints = get_type_hints(Spec)
    return {name: hints[name] for name in _DEFAULTS}


def _typed(name: str, value: Any, hint: Any) -> Any:
    """``value`` as ``hint`` (int → float and list → tuple are the only conversions)."""
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"{name} is {value!r}; expected a list")
        return tuple(_typed(name, item, get_args(hint)[0]) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < _LARGEST else math.inf
    if hint is float and value == 0:
        value = 0.0  # -0.0 is the same setting
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); expected {hint.__name__}")
    if hint is float and not math.isfinite(value):
        raise ValueError(f"{name} is {value}; expected a finite number")
    return value
