import dataclasses
import json
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbrepro.models import initializers
from nbrepro.spec import BATCHNORM_INITS, MOST, WEIGHT_INITS, Spec


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model": "cifar_resnet14"}, "0cb9c4aa81cbce6b"),
        (
            {
                "model": "cifar_resnet14",
                "train": "batchnorm",
                "epochs": 8,
                "dataset": "cifar10-jpeg",
                "seed": 2,
            },
            "31924600aee2ab44",
        ),
        (
            {
                "model": "cifar_resnet14x4",
                "train": "random:2+output",
                "statistics": False,
                "milestones": [0.25, 0.5, 0.9],
                "lr": 1,
                "weight_decay": 0,
                "warmup_epochs": 5,
            },
            "a27390bb8973c4c6",
        ),
        (
            {
                "model": "cifar_resnet8",
                "weight_init": "binary",
                "batchnorm_init": "oneone",
                "dataset": "digits",
                "augmentation": "none",
                "epochs": 6,
                "batch_size": 64,
                "momentum": 0,
                "schedule": "cosine",
                "precision": "float32",
            },
            "614e6f28b18b5546",
        ),
    ],
)
def test_golden_hashes(settings: dict[str, Any], expected: str) -> None:
    """A hash is the name of a record. If one of these changes, every record on disk is orphaned.

    A new setting must have a default under which these runs stay what they were; then its name is
    not in the hashed text and nothing changes here. Do not adapt the numbers.
    """
    assert Spec(**settings).hash == expected


def test_golden_defaults() -> None:
    """Defaults are not in the hashed text, so they are part of every hash: changing one would give
    old records another meaning. Only ever add to this list.
    """
    assert Spec(model="cifar_resnet14").to_dict() == {
        "model": "cifar_resnet14",
        "train": "all",
        "statistics": True,
        "weight_init": "kaiming_normal",
        "batchnorm_init": "uniform",
        "dataset": "cifar10",
        "pretrained": "",
        "augmentation": "crop-flip",
        "epochs": 160,
        "batch_size": 128,
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "schedule": "step",
        "milestones": [0.5, 0.75],
        "warmup_epochs": 0.0,
        "warmup_from_zero": False,
        "precision": "auto",
        "seed": 0,
        "optimizer": "sgd",
        "decay": "all",
        "clip": "none",
        "clipping": 0.01,
        "unclipped": ["fc.weight"],
        "label_smoothing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "randaugment": 0.0,
        "sam": 0.0,
        "sam_share": 0.2,
        "scalar_lr": 0.0,
        "ema": 0.0,
        "dropout": 0.0,
        "stochastic_depth": 0.0,
        "ghost_batch": 0,
        "skip_init": True,
    }


def test_defaults_are_left_out_of_the_hash() -> None:
    bare = Spec(model="cifar_resnet14")
    spelt_out = Spec(**bare.to_dict())
    assert spelt_out.canonical() == bare.canonical() == '{"model":"cifar_resnet14"}'
    assert spelt_out.hash == bare.hash


CHANGES: dict[str, Any] = {
    "model": "cifar_resnet20",
    "train": "batchnorm",
    "statistics": False,
    "weight_init": "orthogonal",
    "batchnorm_init": "fixed",
    "dataset": "digits",
    "pretrained": "tiny-imagenet-50@16:6",
    "augmentation": "none",
    "epochs": 161,
    "batch_size": 127,
    "lr": 0.2,
    "momentum": 0.8,
    "weight_decay": 0,
    "schedule": "cosine",
    "milestones": [0.5],
    "warmup_epochs": 1,
    "precision": "float32",
    "seed": 1,
    "optimizer": "lars",
    "decay": "weights",
    "clip": "norm",
    "label_smoothing": 0.1,
    "mixup": 0.2,
    "cutmix": 1.0,
    "randaugment": 5.0,
    "sam": 0.05,
    "ema": 0.999,
}
#: Read only together with others, so changed from another base.
FURTHER: dict[str, Any] = {
    "clipping": 0.02,
    "unclipped": ["fc.*"],
    "sam_share": 0.5,
    "scalar_lr": 0.5,
    "dropout": 0.1,
    "stochastic_depth": 0.1,
    "skip_init": False,
    "warmup_from_zero": True,
}


def test_every_setting_is_part_of_the_identity() -> None:
    base = Spec(model="cifar_resnet14")
    other = Spec(model="cifar_nf_resnet20", clip="agc", sam=0.05, optimizer="lars", warmup_epochs=1)
    hashes = {base.replace(**{name: value}).hash for name, value in CHANGES.items()}
    hashes |= {other.replace(**{name: value}).hash for name, value in FURTHER.items()}
    normalized = other.replace(model="bn_cifar_nf_resnet20")
    hashes.add(normalized.replace(ghost_batch=16).hash)
    names = {field.name for field in dataclasses.fields(Spec)}
    assert {*CHANGES, *FURTHER, "ghost_batch"} == names
    assert len(hashes | {base.hash, other.hash, normalized.hash}) == len(names) + 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clipping": 0.02}, "clipping is 0.02, which nothing reads with clip='none'"),
        ({"clip": "norm", "unclipped": ["stem.*"]}, "unclipped is"),
        ({"sam_share": 0.5}, "sam_share is 0.5"),
        ({"scalar_lr": 0.5}, "nothing reads with optimizer='sgd'"),
        (
            {"warmup_from_zero": True},
            "nothing reads with warmup_epochs=0.0",
        ),
        ({"dropout": 0.1}, "dropout is set, but cifar_resnet14 has no such option"),
        ({"model": "cifar_nf_resnet20", "weight_init": "binary"}, "weight_init is set"),
        ({"skip_init": False}, "skip_init is set, but cifar_resnet14"),
        ({"schedule": "cosine", "milestones": [0.5]}, r"milestones is \(0.5,\), which nothing"),
        ({"weight_decay": 0, "decay": "weights"}, "decay is 'weights', which nothing reads"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(settings: dict[str, Any], message: str) -> None:
    """Otherwise one run would have two names."""
    with pytest.raises(ValueError, match=message):
        Spec(**{"model": "cifar_resnet14"} | settings)


@pytest.mark.parametrize(
    ("name", "whole", "real"),
    [("lr", 1, 1.0), ("momentum", 0, 0.0), ("weight_decay", 1, 1.0), ("warmup_epochs", 5, 5.0)],
)
def test_whole_numbers_are_numbers(name: str, whole: int, real: float) -> None:
    a, b = (Spec.from_dict({"model": "cifar_resnet14", name: value}) for value in (whole, real))
    assert a == b
    assert a.hash == b.hash


def test_list_and_tuple_of_milestones_are_one() -> None:
    a, b = (
        Spec.from_dict({"model": "cifar_resnet14", "milestones": milestones})
        for milestones in ([0.3, 0.6], (0.3, 0.6))
    )
    assert a == b
    assert a.hash == b.hash
    hash((a, b))


AGC = {"model": "cifar_nf_resnet20", "clip": "agc"}


@pytest.mark.parametrize(
    ("stored", "others"),
    [
        (
            {"train": "random:2+batchnorm+output"},
            [
                {"train": "output+random:02+batchnorm+output"},
                {"train": "beta+output+random:2+gamma"},
            ],
        ),
        ({"train": "batchnorm"}, [{"train": "gamma+batchnorm"}, {"train": "beta+gamma"}]),
        ({"train": "all"}, [{}, {"train": "output+all"}]),
        ({"milestones": (0.25, 0.75)}, [{"milestones": [0.75, 0.25]}]),
        ({"milestones": (0.5, 0.5)}, [{"milestones": [0.5, 0.5]}]),  # twice is a hundredth
        (
            AGC | {"unclipped": ("fc.weight", "*skip_gain", "stem.*")},
            [
                AGC | {"unclipped": ["stem.*", "fc.weight", "*skip_gain"]},
                AGC | {"unclipped": ["*skip_gain", "stem.*", "*skip_gain", "fc.weight"]},
            ],
        ),
    ],
)
def test_settings_that_mean_the_same_are_the_same(
    stored: dict[str, Any], others: list[dict[str, Any]]
) -> None:
    first = Spec(**{"model": "cifar_resnet14"} | stored)
    assert {name: getattr(first, name) for name in stored} == stored
    for settings in others:
        other = Spec(**{"model": "cifar_resnet14"} | settings)
        assert other == first
        assert other.hash == first.hash


@st.composite
def settings(draw: st.DrawFn) -> dict[str, Any]:
    """Settings of a run that there can be."""
    chosen = draw(
        st.fixed_dictionaries(
            {
                "model": st.sampled_from(["cifar_resnet14", "cifar_resnet32x2"]),
                "train": st.sampled_from(["all", "batchnorm", "gamma+output", "random:3"]),
                "statistics": st.booleans(),
                "dataset": st.from_regex(r"[\w-]{1,10}", fullmatch=True),
                "epochs": st.integers(1, 10_000),
                "batch_size": st.integers(1, 10_000),
                "lr": st.floats(0, 1e9),
                "momentum": st.floats(0, 1),
                "weight_decay": st.floats(0, 1),
                "schedule": st.sampled_from(["step", "cosine", "constant"]),
                "warmup_epochs": st.floats(0, 1),
                "seed": st.integers(0, MOST),
            }
        )
    )
    if chosen["schedule"] == "step":
        fraction = st.floats(0, 1, exclude_min=True, exclude_max=True)
        chosen["milestones"] = draw(st.lists(fraction, max_size=4))
    return chosen


SPECS = settings().map(lambda chosen: Spec(**chosen))


@given(SPECS)
def test_round_trip_through_json(spec: Spec) -> None:
    again = Spec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert again.hash == spec.hash


@given(SPECS, SPECS)
def test_one_hash_for_one_run(a: Spec, b: Spec) -> None:
    assert (a.hash == b.hash) == (a == b)


def test_replicates_differ_in_the_seed_alone() -> None:
    spec = Spec(model="cifar_resnet14", lr=0.3)
    assert spec.replace(seed=4) == dataclasses.replace(spec, seed=4) != spec
    assert spec.replace(seed=4).replace(seed=0) == spec


@pytest.mark.parametrize(
    ("name", "nearest"), [("epoch", "epochs"), ("widht_decay", "weight_decay"), ("sede", "seed")]
)
def test_unknown_setting_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"unknown setting '{name}'; did you mean '{nearest}'"):
        Spec.from_dict({"model": "cifar_resnet14", name: 1})


def test_missing_model() -> None:
    with pytest.raises(TypeError, match="model"):
        Spec.from_dict({"lr": 0.1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", "1e-3"),
        ("lr", True),
        ("lr", None),
        ("lr", [0.1]),
        ("epochs", "8"),
        ("epochs", 8.0),
        ("epochs", True),
        ("seed", False),
        ("batch_size", 12.5),
        ("statistics", 1),
        ("statistics", "False"),
        ("model", 14),
        ("train", ["batchnorm"]),
        ("milestones", 0.5),
        ("milestones", "0.5"),
        ("milestones", ["0.5"]),
        ("milestones", [True]),
    ],
)
def test_values_of_the_wrong_type(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{name} is "):
        Spec.from_dict({"model": "cifar_resnet14", name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": -1}, "epochs is -1; it must be between 0 and"),
        ({"batch_size": 0}, "batch_size is 0; it must be between 1 and"),
        ({"lr": -0.1}, "lr is -0.1; it must be at least 0"),
        ({"lr": float("nan")}, "lr is nan; expected a finite number"),
        ({"lr": float("inf")}, "lr is inf; expected a finite number"),
        ({"momentum": 1.1}, "momentum is 1.1; it must be between 0 and 1"),
        ({"momentum": -0.1}, "momentum is -0.1; it must be between 0 and 1"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001"),
        ({"warmup_epochs": 9, "epochs": 8}, "warmup_epochs is 9.0; it must be between 0 and 8"),
        ({"seed": -1}, "seed is -1; it must be between 0 and 2147483647"),
        ({"seed": 2**50}, "seed is 1125899906842624; it must be between 0 and 2147483647"),
        ({"epochs": 2**31}, "epochs is 2147483648; it must be between 0 and 2147483647"),
        ({"batch_size": 10**30}, "batch_size is 1"),
        ({"lr": 10**400}, "lr is inf; expected a finite number"),
        ({"clip": "norm", "clipping": 0}, "clipping is 0.0; it must be above 0 where it is used"),
        ({"sam": 0.05, "sam_share": 0}, "sam_share is 0.0; it must be above 0 where it is used"),
        ({"optimizer": "nesterov", "momentum": 0}, "Nesterov's needs some"),
        ({"optimizer": "adamw", "momentum": 1}, "must be below 1"),
        (
            {"dataset": "/home/me/cifar10"},
            "dataset is '/home/me/cifar10'; expected the name of a f",
        ),
        ({"dataset": "a/b"}, "expected the name of a folder, not a path"),
        ({"dataset": "..\\a"}, "expected the name of a folder, not a path"),
        ({"dataset": ".."}, "goes to --data-root or NBREPRO_DATA"),
        ({"dataset": ""}, "expected the name of a folder"),
        ({"dataset": "a\nb"}, "expected the name of a folder"),
        ({"milestones": [0.5, 1.0]}, "each is a fraction between 0 and 1"),
        ({"milestones": [0.0]}, "each is a fraction between 0 and 1"),
        ({"milestones": [80, 120]}, "each is a fraction between 0 and 1"),
        ({"model": "cifar_resnet15"}, "nearest to 15: 14 and 20"),
        ({"train": "batchnrom"}, "did you mean 'batchnorm'"),
        ({"train": "random:0"}, "at least 1"),
        ({"weight_init": "binray"}, "did you mean 'binary'"),
        ({"batchnorm_init": "oneon"}, "did you mean 'oneone'"),
        ({"augmentation": "crop"}, "did you mean 'crop-flip'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"precision": "bfloat"}, "did you mean 'bfloat16'"),
    ],
)
def test_values_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Spec.from_dict({"model": "cifar_resnet14", **settings})


def test_zero_epochs_are_allowed() -> None:
    assert Spec(model="cifar_resnet14", epochs=0).epochs == 0


def test_specs_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Spec(model="cifar_resnet14").lr = 1.0  # type: ignore[misc]


def test_choices_are_those_of_the_initializers() -> None:
    assert tuple(initializers.WEIGHT) == WEIGHT_INITS
    assert tuple(initializers.BATCHNORM) == BATCHNORM_INITS


def test_nothing_here_needs_torch() -> None:
    """A misspelt setting is reported, and a record read, before torch is loaded."""
    code = """
import sys
from nbrepro import experiments, models
from nbrepro.spec import Spec

for experiment in experiments.REGISTRY.values():
    for profile in experiments.PROFILES:
        assert experiment.specs(profile)
for settings in (
    {"model": "cifar_resent14"},
    {"model": "cifar_resnet15"},
    {"model": "cifar_resnet14", "train": "batchnrom"},
    {"model": "cifar_resnet14", "dropout": 0.1},
    {"model": "cifar_nf_resnet20", "weight_init": "binary"},
    {"model": "cifar_resnet14", "batchnorm_init": "oneon"},
):
    try:
        Spec(**settings)
    except ValueError as error:
        assert str(error)
    else:
        raise AssertionError(settings)
assert models.label("cifar_resnet14x2") == "ResNet-14 ×2"
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
