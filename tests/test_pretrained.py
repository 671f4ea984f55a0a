import hashlib
import sys
import traceback
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nbrepro.models import nfnet, pretrained
from nbrepro.models.nfnet import NFNet, Variant

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TINY = Variant((1, 1, 2, 1), (256, 256, 256, 256), 0.2, 48, 64, 5)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> NFNet:
    """A small network of the family, known to the loader, with no parameter at a constant."""
    monkeypatch.setitem(nfnet.VARIANTS, "tiny", TINY)
    torch.manual_seed(0)
    model = NFNet(TINY, 7)
    for name, parameter in model.named_parameters():
        if name.endswith("gain"):
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def _reference(number: int) -> nn.Module:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model: nn.Module = timm.create_model(f"dm_nfnet_f{number}")
    return model


def _gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    logits = model(x)
    gradients = torch.autograd.grad(logits.square().sum(), parameters)
    return logits.detach(), dict(zip(names, gradients, strict=True))


def test_f0_is_timms_function_with_timms_weights() -> None:
    """Logits and all gradients, float64, with nothing on timm's side altered."""
    reference = _reference(0).eval()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in reference.state_dict().items():
        value = torch.empty(tensor.shape, dtype=torch.float64)
        if name.endswith("gain"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("bias"):
            value.normal_(0, 0.3, generator=generator)
        else:
            value.normal_(0, value[0].numel() ** -0.5, generator=generator)
        state[name] = value
    reference.load_state_dict(state, assign=True)
    model = pretrained.from_timm(state, form="timm").eval()
    assert sum(p.numel() for p in model.parameters()) == 71_489_284
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=generator)
    theirs, expected = _gradients(reference, x)
    ours, gradients = _gradients(model, x)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    for name, theirs_name in zip(gradients, pretrained.to_timm(model), strict=True):
        wanted = expected[theirs_name].reshape(gradients[name].shape)
        assert (gradients[name] - wanted).abs().max() <= 1e-10 * wanted.abs().max(), name

    official = pretrained.from_timm(state).eval()
    with torch.no_grad():
        difference = (official(x) - theirs).norm() / theirs.norm()
    assert 1e-3 < difference < 0.1  # the forms are not the same function, nor far apart


@pytest.mark.parametrize("number", [1, 6])
def test_names_and_shapes_are_timms(number: int) -> None:
    with torch.device("meta"):
        model = NFNet(nfnet.VARIANTS[f"f{number}"], 1000)
    ours = {name: tensor.shape for name, tensor in pretrained.to_timm(model).items()}
    theirs = {name: tensor.shape for name, tensor in _reference(number).state_dict().items()}
    assert ours == theirs


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_give_the_network_back(tiny: NFNet, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    state = {name: tensor.contiguous() for name, tensor in pretrained.to_timm(tiny).items()}
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)  # as timm's training scripts write it
    else:
        save_file = pytest.importorskip("safetensors.torch").save_file
        save_file(state, path)
    loaded = pretrained.load_timm(path)
    assert loaded.training
    for (name, tensor), (key, expected) in zip(
        loaded.state_dict().items(), tiny.state_dict().items(), strict=True
    ):
        assert name == key
        assert torch.equal(tensor, expected), name
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in loaded.parameters())
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(loaded.eval()(x), tiny(x))
    assert not torch.equal(pretrained.load_timm(str(path), form="timm").eval()(x), tiny(x))


def save(state: dict[str, Tensor], folder: Path, name: str = "dm_nfnet_f0-{}.pth") -> Path:
    """A file that is named by its digest."""
    torch.save(state, folder / "unnamed.pth")
    digest = hashlib.sha256((folder / "unnamed.pth").read_bytes()).hexdigest()
    return (folder / "unnamed.pth").rename(folder / name.format(digest[:8], digest))


def test_a_file_with_a_published_digest_is_held_against_it(
    tiny: NFNet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As timm names its files; one flipped bit of a weight is noticed."""
    path = save(pretrained.to_timm(tiny), tmp_path)
    with caplog.at_level("INFO", "nbrepro"):
        pretrained.load_timm(path)
    digest = path.stem.rpartition("-")[2]
    assert caplog.messages == [f"{path.name}: its SHA-256 begins with {digest}, as published"]

    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"is damaged .* published is {digest}; fetch it again"):
        pretrained.load_timm(path)


def test_a_file_in_the_cache_of_the_hub_is_held_against_its_name(tmp_path: Path) -> None:
    """There ``model.safetensors`` is a link to a file that is called by its whole SHA-256."""
    blob = save({"a": torch.zeros(3)}, tmp_path, "{1}")
    link = tmp_path / "model.pth"
    link.symlink_to(blob)
    assert pretrained.checked_digest(link) == (
        f"model.pth: its SHA-256 begins with {blob.name}, as published"
    )
    blob.write_bytes(blob.read_bytes() + b"x")
    with pytest.raises(ValueError, match="is damaged"):
        pretrained.read(link)


def test_a_name_without_a_digest_is_said_to_be_unchecked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "mine-20260101.pth")  # a date
    with caplog.at_level("INFO", "nbrepro"):
        pretrained.read(tmp_path / "mine-20260101.pth")
    assert "no digest in its name, so whether it is as published is not checked" in caplog.text


@pytest.mark.parametrize("name", pretrained.NAMES)
def test_timm_publishes_the_digest_in_the_name(name: str) -> None:
    url = pytest.importorskip("timm").get_pretrained_cfg(name).url
    assert len(pretrained.published_digest(Path(url.rpartition("/")[2])) or "") == 8


def test_names_are_fetched_from_the_hub(
    tiny: NFNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    path = tmp_path / "cached.pth"
    torch.save(pretrained.to_timm(tiny), path)
    asked = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(path)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert pretrained.load_timm("dm_nfnet_f3").fc.out_features == 7
    assert asked == [("timm/dm_nfnet_f3.dm_in1k", "model.safetensors")]

    def fail(repository: str, file: str) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    with pytest.raises(OSError, match=r"give its path \(no route to host\)"):
        pretrained.load_timm("dm_nfnet_f0")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        pretrained.load_timm("dm_nfnet_f0")


@pytest.mark.parametrize("name", pretrained.NAMES)
def test_names_are_those_timm_publishes(name: str) -> None:
    published = pytest.importorskip("timm").get_pretrained_cfg(name)
    assert published.hf_hub_id == f"timm/{name}.dm_in1k"


def test_sources_that_are_neither_file_nor_name(tmp_path: Path) -> None:
    for missing in (tmp_path / "f0", str(tmp_path / "f0"), "dm_nfnet_f0.pth"):
        with pytest.raises(FileNotFoundError, match="no file"):
            pretrained.load_timm(missing)
    with pytest.raises(ValueError, match="did you mean 'dm_nfnet_f"):
        pretrained.load_timm("nfnet_f0")


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    for suffix, message in (
        (".safetensors", "not a safetensors file"),
        (".pth", "not a state dict"),
    ):
        path = tmp_path / f"junk{suffix}"
        path.write_bytes(b"junk that is long enough to be read as a header of some kind")
        with pytest.raises(ValueError, match=message):
            pretrained.read(path)
    path = tmp_path / "list.pt"
    torch.save([torch.zeros(1)], path)
    with pytest.raises(ValueError, match="holds a list"):
        pretrained.read(path)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_are_those_of_the_network_whatever_wrapped_it(prefix: str, tmp_path: Path) -> None:
    state = {"module.weight": torch.zeros(3), "bias": torch.ones(3)}  # one of its names has one too
    torch.save({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "w.pth")
    assert pretrained.read(tmp_path / "w.pth").keys() == state.keys()


def test_a_state_dict_inside_another_dict_is_pointed_to(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "model": {"weight": torch.zeros(3)}}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="save what it has under 'model' in a file of its own"):
        pretrained.read(tmp_path / "checkpoint.pt")


def test_files_that_are_not_what_their_name_says(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file({"a": torch.zeros(3)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"it is a safetensors file; rename it to a\.safetensors"):
        pretrained.read(tmp_path / "a.pth")
    torch.save({"a": torch.zeros(3)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"torch\.save wrote it; rename it to b\.pth"):
        pretrained.read(tmp_path / "b.safetensors")


def test_no_advice_to_run_code_from_a_file(tmp_path: Path) -> None:
    """torch's own message recommends weights_only=False for a whole model that was pickled."""
    torch.save(nn.Linear(2, 2), tmp_path / "model.pth")
    (tmp_path / "empty.pth").touch()
    for name in ("model.pth", "empty.pth"):
        with pytest.raises(ValueError, match=r"torch\.save\(model\.state_dict\(\)") as caught:
            pretrained.read(tmp_path / name)
        text = "".join(traceback.format_exception(caught.value))
        assert "weights_only" not in text.replace("weights_only=True", "")


@pytest.mark.parametrize("form", ["official", "timm"])
def test_values_that_are_no_weights(tiny: NFNet, form: str) -> None:
    state = pretrained.to_timm(tiny)
    bias = "stages.2.1.conv2b.bias"
    for value in (float("nan"), float("inf")):
        damaged = state[bias].clone()
        damaged[3] = value
        with pytest.raises(ValueError, match=f"{bias} has values that are not finite"):
            pretrained.from_timm({**state, bias: damaged}, form)
    for dtype in (torch.float16, torch.bfloat16, torch.int64):
        with pytest.raises(ValueError, match=f"has type {dtype}, expected torch.float32"):
            pretrained.from_timm({name: tensor.to(dtype) for name, tensor in state.items()}, form)
    with pytest.raises(ValueError, match=f"{bias} has type torch.float64 and stem.conv1.weight"):
        pretrained.from_timm({**state, bias: state[bias].double()}, form)


def test_weights_of_other_networks(tiny: NFNet) -> None:
    state = pretrained.to_timm(tiny)
    gain = "stages.2.1.conv2b.gain"
    for changed, message in (
        ({k: v for k, v in state.items() if k != gain}, f"lacks {gain}"),
        ({**state, "extra.weight": torch.zeros(1)}, r"has the unknown extra\.weight"),
        ({**state, gain: state[gain].flatten()}, r"the shape \[128\], expected \[128, 1, 1, 1\]"),
        ({k: v for k, v in state.items() if "skipinit" not in k}, "use its dm_nfnet_"),
        ({k: v for k, v in state.items() if "stages.2.1" not in k}, r"\(1, 1, 1, 1\) blocks"),
        ({}, "of timm's dm_nfnet"),
    ):
        with pytest.raises(ValueError, match=message):
            pretrained.from_timm(changed)
    with pytest.raises(ValueError, match="did you mean 'timm'"):
        pretrained.from_timm(state, form="tim")
