"""Networks stored as a seed and what was trained."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbrepro import data
from nbrepro.spec import Spec
from nbrepro.train import assembly, loop, seed_checkpoint

SPEC = Spec(
    model="cifar_resnet8",
    train="batchnorm",
    dataset="digits",
    augmentation="none",
    epochs=1,
    precision="float32",
    seed=3,
)


@pytest.mark.parametrize("policy", ["batchnorm", "gamma+output", "random:2", "all"])
def test_rebuilt_bit_for_bit(policy: str, tmp_path: Path) -> None:
    spec = SPEC.replace(train=policy)
    model = loop.train(spec, data.load("digits"), device="cpu").model
    path = tmp_path / "network.safetensors"
    assert seed_checkpoint.save(model, spec, path) == path.stat().st_size
    rebuilt, stored_spec = seed_checkpoint.load(path)
    assert stored_spec == spec
    state = rebuilt.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor), name


def test_much_smaller_than_the_network(tmp_path: Path) -> None:
    """ResNet-110: 8,288 trained numbers and as many running statistics, against 1.73 million."""
    spec = SPEC.replace(model="cifar_resnet110")
    model = assembly.initial_model(spec, 10)
    small = seed_checkpoint.save(model, spec, tmp_path / "seed.safetensors")
    torch.save(model.state_dict(), tmp_path / "whole.pt")
    assert 4 * 2 * 8288 < small < (tmp_path / "whole.pt").stat().st_size / 50


def test_a_frozen_weight_that_moved_is_refused(tmp_path: Path) -> None:
    model = assembly.initial_model(SPEC, 10)
    with torch.no_grad():
        model.get_parameter("blocks.1.conv2.weight")[0, 0, 0, 0] += 1e-6
    with pytest.raises(seed_checkpoint.CheckpointError, match=r"blocks\.1\.conv2\.weight"):
        seed_checkpoint.save(model, SPEC, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_another_draw_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    seed_checkpoint.save(assembly.initial_model(SPEC, 10), SPEC, path)
    other = assembly.initial_model(SPEC.replace(seed=4), 10)  # what another build might draw
    monkeypatch.setattr(seed_checkpoint, "initial_model", lambda *_: other)
    with pytest.raises(seed_checkpoint.CheckpointError, match="draws other frozen weights"):
        seed_checkpoint.load(path)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "network.safetensors"
    seed_checkpoint.save(assembly.initial_model(SPEC, 10), SPEC, path)
    return path


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), header=st.booleans())
def test_no_flipped_bit_is_believed(stored: Path, place: float, bit: int, header: bool) -> None:
    content = bytearray(stored.read_bytes())
    length = 8 + int.from_bytes(content[:8], "little") if header else len(content)
    content[int(place * length)] ^= 1 << bit
    flipped = stored.with_name("flipped.safetensors")
    flipped.write_bytes(content)
    with pytest.raises(seed_checkpoint.CheckpointError):
        seed_checkpoint.load(flipped)


def test_a_flipped_weight_is_named_as_damage(stored: Path) -> None:
    content = bytearray(stored.read_bytes())
    content[-3] ^= 1
    flipped = stored.with_name("flipped.safetensors")
    flipped.write_bytes(content)
    with pytest.raises(seed_checkpoint.CheckpointError, match="is damaged: its content does not"):
        seed_checkpoint.load(flipped)


@pytest.mark.parametrize("keep", [0, 7, 200, 2000])
def test_a_truncated_file_is_refused(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    seed_checkpoint.save(assembly.initial_model(SPEC, 10), SPEC, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(seed_checkpoint.CheckpointError, match="cannot be read"):
        seed_checkpoint.load(path)
