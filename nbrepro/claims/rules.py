"""What decides a claim: one class per kind of rule, and a strict reader of what YAML says.

A rule is written before the run that decides it, and a verdict is only as good as its rule. So a
rule is closed: an unknown key, kind or setting, a missing key, a value of the wrong type and a
bound that nothing can meet are errors, never a default taken in silence.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from reprlib import repr as shortened
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from nbrepro._suggest import unknown
from nbrepro.data.cards import base, same_part
from nbrepro.spec import Spec

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Profile: TypeAlias = Literal["full", "quick"]
#: Profiles that can carry a verdict, the better one first.
DECISIVE: tuple[Profile, ...] = get_args(Profile)

#: What a verdict rests on: networks ``trained`` on images, something ``measured`` without
#: training, ``counted`` parameters or operations, ``arithmetic`` on printed numbers, code
#: ``verified`` against a description or another implementation.
Evidence: TypeAlias = Literal["trained", "measured", "counted", "arithmetic", "verified"]


@dataclass(frozen=True)
class Bounds:
    """Where a number must lie: ``[low, high]`` in YAML; ``.inf`` or ``-.inf`` is no bound."""

    low: float
    high: float

    def __post_init__(self) -> None:
        # Put so that what is not a number is refused too.
        if not (self.low <= self.high and self.low < math.inf and self.high > -math.inf):
            raise ValueError(f"no number lies in [{self.low}, {self.high}]; low comes first")

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high

    def check(self, what: str, least: float, most: float) -> None:
        """Refuse bounds that cannot decide about an interval between ``least`` and ``most``.

        Raises:
            ValueError: if an end is out of that range (per cent for a fraction, say), or no
                interval, or every one, lies within the bounds.
        """
        for end in (self.low, self.high):
            if math.isfinite(end) and not least <= end <= most:
                raise ValueError(f"{end} is out of range; {what} lies between {least} and {most}")
        if not max(self.low, least) < min(self.high, most):
            raise ValueError(f"[{self.low}, {self.high}] cannot be met; {what} has an interval")
        if self.low <= least and most <= self.high:
            raise ValueError(f"[{self.low}, {self.high}] decides nothing; {what} always lies there")


@dataclass(frozen=True)
class Value:
    """An accuracy as published, and how far from it ours may be and still agree.

    Attributes:
        published: a fraction.
        tolerance: either way; covers the spread of the paper's runs and how well a figure is read.
    """

    published: float
    tolerance: float

    def __post_init__(self) -> None:
        if not (0 <= self.published <= 1 and 0 < self.tolerance < 1):
            raise ValueError(
                f"{self.published} ± {self.tolerance} is no accuracy; both are fractions"
            )

    @property
    def bounds(self) -> Bounds:
        """Where an accuracy agrees."""
        return Bounds(self.published - self.tolerance, self.published + self.tolerance)


@dataclass(frozen=True)
class Arm:
    """The runs that have these settings, whatever their seed.

    Attributes:
        settings: fields of :class:`~nbrepro.spec.Spec` and their values.
        called: its name for readers; needed where model and policy do not say which arm it is.
        value: the published accuracy; asked of runs with the whole recipe only.
    """

    settings: Mapping[str, Any]
    called: str = ""
    value: Value | None = None

    def matches(self, spec: Spec) -> bool:
        """Whether a run has all settings of this arm."""
        return matches(spec, self.settings)

    def of(self, model: str) -> "Arm":
        """The part of this arm that is one network's; itself, if it names a network."""
        return dataclasses.replace(self, settings={"model": model, **self.settings})


@dataclass(frozen=True)
class Pair:
    """Two arms; in YAML ``[low, high]``, or written out if it has bounds of its own.

    Attributes:
        low: the arm that is expected to be lower.
        high: the other.
        between: where ``high - low`` must lie; ``None`` for the rule's own bounds.
    """

    low: Arm
    high: Arm
    between: Bounds | None = None

    def __post_init__(self) -> None:
        if self.low.settings == self.high.settings:
            raise ValueError("the two arms have the same settings")
        if self.between:
            self.between.check("a difference of two accuracies", -1, 1)


@dataclass(frozen=True)
class Gains:
    """Two pairs; in YAML ``[low, high]``.

    Attributes:
        low: the pair whose difference is expected to be smaller.
        high: the other.
    """

    low: Pair
    high: Pair

    def __post_init__(self) -> None:
        if self.low.between or self.high.between:
            raise ValueError("between belongs to the rule here, not to a pair")

    @property
    def arms(self) -> tuple[Arm, ...]:
        """All four arms."""
        return (self.low.low, self.low.high, self.high.low, self.high.high)


#: The share of training images that are right when ``fitted`` looks at the test images.
FITTED = 0.7
#: What may be asked of a run, in words. The last four are measured at its end, see
#: :meth:`nbrepro.records.features.Features.metrics`. Training accuracy is counted in training mode,
#: on augmented images, while the last epoch goes on.
METRICS = {
    "test_accuracy": "test accuracy",
    "untrained_accuracy": "test accuracy before training",
    "fitted": f"test accuracy when {FITTED:.0%} of the training images are right",
    "train_lead": "training accuracy less test accuracy",
    "gamma_off": "share of γ below 0.01",
    "gamma_small": "share of γ below 0.1",
    "relu_off": "share of ReLUs that are always off",
    "clamp_loss": "accuracy lost without the smallest quarter of γ",
}
Metric: TypeAlias = Literal[
    "test_accuracy",
    "untrained_accuracy",
    "fitted",
    "train_lead",
    "gamma_off",
    "gamma_small",
    "relu_off",
    "clamp_loss",
]
#: Those that are differences of two accuracies, and so in points.
DIFFERENCES = ("train_lead", "clamp_loss")


@dataclass(frozen=True)
class Ordered:
    """Is the second arm's mean test accuracy, or another metric, above the first one's?

    Effect: mean difference, Student's interval over shared seeds, or Welch's where the arms share
    fewer than two. Where a run fails (see :class:`Failures`), failures are counted instead, and
    Fisher's exact test says whether the first arm fails more often.

    Attributes:
        pairs: what is compared.
        rising: arms, each compared with the next one that was run.
        gains: pairs of pairs: is the second pair's difference above the first one's?
        survives: arms of which more than half of the runs must not fail, as in :class:`Failures`.
        between: where differences must lie, as fractions: ``[-0.005, .inf]`` is "not worse by half
            a point". Default: above zero.
        metric: what is compared; only where it is the test accuracy can a run fail.
        profiles: the only ones that may decide.
    """

    evidence: ClassVar[Evidence] = "trained"

    pairs: tuple[Pair, ...] = ()
    rising: tuple[Arm, ...] = ()
    gains: tuple[Gains, ...] = ()
    survives: tuple[Arm, ...] = ()
    between: Bounds = Bounds(0.0, math.inf)
    metric: Metric = "test_accuracy"
    profiles: tuple[Profile, ...] = DECISIVE

    def __post_init__(self) -> None:
        if len(self.rising) == 1 or not (self.pairs or self.rising or self.gains):
            raise ValueError("needs pairs, gains, or two arms or more in rising")
        if any(a.settings == b.settings for a, b in combinations(self.rising, 2)):
            raise ValueError("two arms in rising have the same settings")
        self.between.check("a difference of two accuracies", -1, 1)
        if self.metric != "test_accuracy" and (self.survives or any(a.value for a in self.arms)):
            raise ValueError("survives and published values are about the test accuracy only")
        _check_names(self.arms, one_network=True)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """All arms the rule names."""
        paired = (arm for pair in self.pairs for arm in (pair.low, pair.high))
        return (
            *self.rising,
            *paired,
            *(arm for gains in self.gains for arm in gains.arms),
            *self.survives,
        )


@dataclass(frozen=True)
class Level:
    """Does the mean of an accuracy, or of another metric, lie between two bounds?

    Effect: the mean, Student's interval. The bounds are one of three things: accuracies, multiples
    of chance, or the arms' published values.

    Attributes:
        arms: whose accuracy; an arm without ``model`` is one arm per network of the grid.
        metric: one of :data:`METRICS`.
        over: whether each network is asked, or all runs together.
        between: the bounds, as fractions.
        times_chance: the bounds, as multiples of the accuracy of guessing.
        profiles: the only ones that may decide.
    """

    evidence: ClassVar[Evidence] = "trained"

    arms: tuple[Arm, ...]
    metric: Metric
    over: Literal["each network", "all runs"]
    between: Bounds | None = None
    times_chance: Bounds | None = None
    profiles: tuple[Profile, ...] = DECISIVE

    def __post_init__(self) -> None:
        if self.between and self.times_chance:
            raise ValueError("between and times_chance are set; leave one of them out")
        if self.between:
            least = -1 if self.metric in DIFFERENCES else 0
            self.between.check("an accuracy or a share", least, 1)
        elif self.times_chance:
            self.times_chance.check("an accuracy in multiples of chance", 0, math.inf)
        elif not all(arm.value for arm in self.arms):
            raise ValueError("between is missing; or set times_chance, or a value for each arm")
        elif self.profiles != ("full",):
            raise ValueError("profiles must be [full]; values are asked of the whole recipe only")
        _check_names(self.arms)


@dataclass(frozen=True)
class Failures:
    """Does the first arm of each pair fail more often than the second; do arms survive?

    What fails: :func:`nbrepro.claims.outcomes.failed`. Fisher's exact test for pairs, the exact
    binomial test for survival, both one-sided at 5 % and with at least five seeds per arm.

    Attributes:
        pairs: in YAML ``[fails more often, fails less often]``.
        survives: arms of which more than ``share`` of the runs must not fail.
        share: as a fraction.
        profiles: the only ones that may decide.
    """

    evidence: ClassVar[Evidence] = "trained"

    pairs: tuple[Pair, ...] = ()
    survives: tuple[Arm, ...] = ()
    share: float = 0.5
    profiles: tuple[Profile, ...] = DECISIVE

    def __post_init__(self) -> None:
        if not (self.pairs or self.survives):
            raise ValueError("needs pairs, or arms in survives")
        if any(pair.between for pair in self.pairs):
            raise ValueError("a pair has between; failures are counted, not accuracies")
        if any(arm.value for arm in self.arms):
            raise ValueError("an arm has a value; failures are counted, not accuracies")
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}; it must lie between 0 and 1")
        _check_names(self.arms, one_network=True)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """All arms the rule names."""
        paired = (arm for pair in self.pairs for arm in (pair.low, pair.high))
        return (*paired, *self.survives)


@dataclass(frozen=True)
class Counts:
    """Do the networks have the printed numbers of parameters? No run needed.

    Attributes:
        table: of the paper's printed tables (:mod:`nbrepro.claims.tables`); a row per network, its
            columns groups of :func:`nbrepro.freezing.count`.
        classes: that they tell apart.
    """

    evidence: ClassVar[Evidence] = "counted"

    table: str
    classes: int = 10


@dataclass(frozen=True)
class Check:
    """Does a computation come out as claimed? No recorded run needed.

    Attributes:
        check: name of a function of :mod:`nbrepro.claims.checks`.
        bounds: each value that it computes, and where it must lie, ends included.
        evidence: what kind of thing it computes.
        trains: whether it trains small networks on the spot, on digits or noise, which stand in for
            the paper's.
    """

    check: str
    bounds: Mapping[str, Bounds]
    evidence: Literal["measured", "counted", "arithmetic", "verified"]
    trains: bool = False


@dataclass(frozen=True)
class Measured:
    """Does every ratio that a benchmark measured lie between two bounds?

    Effect: the median ratio over interleaved rounds, with the middle 95 % of rounds.

    Attributes:
        benchmark: name of a script in ``benchmarks/``.
        cases: rows of its record.
        between: the bounds.
        device: ``cuda`` asks for a record made on a GPU.
    """

    evidence: ClassVar[Evidence] = "measured"

    benchmark: str
    cases: tuple[str, ...]
    between: Bounds
    device: Literal["cuda"] | None = None

    def __post_init__(self) -> None:
        self.between.check("a ratio of times", 0, math.inf)


#: Rules that look at runs.
Trained: TypeAlias = Ordered | Level | Failures
Rule: TypeAlias = Trained | Counts | Check | Measured
KINDS: dict[str, type[Rule]] = {
    "ordered": Ordered,
    "level": Level,
    "failures": Failures,
    "counts": Counts,
    "check": Check,
    "measured": Measured,
}


def matches(spec: Spec, settings: Mapping[str, Any]) -> bool:
    """Whether a run has all these settings; a list stands for a tuple.

    A data set of an arm says which part it is: of which data set is a matter of the runs.
    """
    return all(_same(name, getattr(spec, name), wanted) for name, wanted in settings.items())


def _same(setting: str, found: Any, wanted: Any) -> bool:
    if setting == "dataset":
        return bool(found == same_part(wanted, base(found)))
    if setting == "pretrained" and found and wanted:
        (start, _, epochs), (data, _, wanted_epochs) = found.rpartition(":"), wanted.rpartition(":")
        return epochs == wanted_epochs and _same("dataset", start, data)
    return bool(found == (tuple(wanted) if isinstance(wanted, list) else wanted))


def _check_names(arms: Sequence[Arm], one_network: bool = False) -> None:
    """Refuse an arm whose name for readers would not say what it is."""
    for arm in arms:
        if one_network and not arm.called and "model" not in arm.settings:
            raise ValueError(f"the arm {arm.settings} needs called, or a model")
        unsaid = [setting for setting in arm.settings if setting not in ("model", "train")]
        if unsaid and not arm.called:
            raise ValueError(f"the arm with {', '.join(unsaid)} needs called, its name for readers")


# --- from YAML -----------------------------------------------------------------------------------

T = TypeVar("T", bound="DataclassInstance")

_WORDS: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
    type(None): "nothing",
}


def read(cls: type[T], value: object, at: str, **given: object) -> T:
    """A dataclass from a mapping as YAML gives it.

    Args:
        cls: the class; the types of its fields say how each entry is read.
        value: the mapping.
        at: where it stands, such as ``nfnets/claims.yaml: F2-b``; begins every message.
        given: fields that do not come from the mapping.

    Raises:
        ValueError: naming the place, what is wrong and the nearest right word: for an unknown,
            missing or empty entry, a value of the wrong type, and what the class itself refuses.
    """
    entries = _mapping(value, at)
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name not in given}
    for key, entry in entries.items():
        if key not in fields:
            raise ValueError(f"{at}: {unknown('key', key, fields)}")
        if entry in (None, "", [], {}):
            raise ValueError(f"{at}: {key} is empty; leave it out or fill it in")
    for name, known in fields.items():
        optional = (known.default, known.default_factory) != (dataclasses.MISSING,) * 2
        if name not in entries and not optional:
            raise ValueError(f"{at}: {name} is missing")
    made = {key: _typed(hints[key], entry, f"{at}: {key}") for key, entry in entries.items()}
    try:
        return cls(**given, **made)
    except ValueError as error:
        raise ValueError(f"{at}: {error}") from None


def _typed(hint: Any, value: Any, at: str) -> Any:
    """``value`` as ``hint``; int → float and list → tuple are the only conversions of scalars."""
    origin, of = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        classes = [cls for cls in of if cls is not type(None)]
        return _typed(classes[0], value, at) if len(classes) == 1 else _rule(value, at)
    if hint is Arm:
        return _arm(value, at)
    if hint in (Gains, Pair, Bounds) and not isinstance(value, dict):
        if not isinstance(value, list) or len(value) != 2:
            raise ValueError(f"{at} is {shortened(value)}; expected two entries, [low, high]")
        value = dict(zip(("low", "high"), value, strict=True))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return read(hint, value, at)
    if origin is tuple:
        if not isinstance(value, list):
            raise _unexpected(value, list, at)
        return tuple(_typed(of[0], entry, f"{at} {n}") for n, entry in enumerate(value, 1))
    if origin in (dict, Mapping):
        return {k: _typed(of[1], v, f"{at}: {k}") for k, v in _mapping(value, at).items()}
    if origin is Literal:
        if value not in of:
            raise ValueError(f"{at}: {unknown('value', value, of)}")
        return value
    if hint is float and type(value) is int:
        value = float(value)
    if hint is not Any and type(value) is not hint:
        raise _unexpected(value, hint, at)
    return value


def _rule(value: object, at: str) -> Rule:
    entries = dict(_mapping(value, at))
    if "kind" not in entries:
        raise ValueError(
            f"{at}: kind is missing; it has {', '.join(map(str, entries)) or 'nothing'}"
        )
    kind = entries.pop("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"{at}: {unknown('kind', kind, KINDS)}")
    return read(KINDS[kind], entries, at)


def _arm(given: object, at: str) -> Arm:
    entries = dict(_mapping(given, at))
    types = _settings()
    ours = ("called", "value")
    for key in entries:
        if key not in (*types, *ours):
            raise ValueError(f"{at}: {unknown('setting', key, (*types, *ours))}")
    called = _typed(str, entries.pop("called", ""), f"{at}: called")
    value = read(Value, entries.pop("value"), f"{at}: value") if "value" in entries else None
    if not entries:
        raise ValueError(f"{at}: an arm needs a setting, such as model")
    settings = {k: _typed(types[k], v, f"{at}: {k}") for k, v in entries.items()}
    return Arm(settings, called, value)


@cache
def _settings() -> dict[str, Any]:
    """What an arm may set, and its type. Not the seed: an arm is all its replicates."""
    return {name: hint for name, hint in get_type_hints(Spec).items() if name != "seed"}


def _mapping(value: object, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _unexpected(value, dict, at)
    for key in value:
        if not isinstance(key, str):  # YAML reads off, on, yes and no as true or false
            raise ValueError(f"{at}: the key {key!r} is no text; put it in quotes")
    return value


def _unexpected(value: object, expected: type, at: str) -> ValueError:
    found = _WORDS.get(type(value), type(value).__name__)
    return ValueError(f"{at} is {shortened(value)} ({found}); expected {_WORDS[expected]}")
