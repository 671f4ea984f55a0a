"""The published ImageNet weights of NFNet-F0 to F6, as timm converted them.

The authors trained them; timm (``dm_nfnet_f0`` ... ``dm_nfnet_f6``) stores the raw weights, gains
and biases. What timm computes from these differs in two small ways, so there are two forms:

============  =====================================================================================
``official``  what the authors' code computes with these weights: the variance of a weight row is
              floored, ``rsqrt(max(N·Var, 1e-4))``, and GELU is the tanh form
``timm``      what timm computes: ``rsqrt(N·(Var + 1e-5))``, and the exact GELU
============  =====================================================================================

With freshly drawn weights (Var = 1/N) timm's 1e-5 shrinks a 1×1 convolution of 1536 channels by
0.8 %, and convolutions with smaller trained weights by more.

timm's layers have the same parameters under other names; gains are ``[out, 1, 1, 1]`` there and
``[out]`` here, squeeze-excite holds 1×1 convolutions there and linear layers here.

A file is held against its published SHA-256 where its name gives it: timm's file names end in the
first digits (``dm_nfnet_f0-604f9c3a.pth``), the hub's cache names what it fetches by all of them.
Whatever the file, names, shapes and types of all tensors must fit, and all values must be finite.
"""

import hashlib
import logging
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nbrepro._suggest import choose
from nbrepro.layers import Activation, ScaledStdConv2d
from nbrepro.models.nf_resnet import Design
from nbrepro.models.nfnet import VARIANTS, NFNet

log = logging.getLogger("nbrepro")

#: The weights that can be fetched by name.
NAMES = tuple(f"dm_nfnet_f{number}" for number in range(7))
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

_RENAMED = {
    r"^fc\.": "head.fc.",
    r"\.shortcut\.": ".downsample.conv.",
    r"\.branch\.se\.fc0\.": ".attn_last.fc1.",
    r"\.branch\.se\.fc1\.": ".attn_last.fc2.",
    r"\.branch\.": ".",
    r"\.skip_gain$": ".skipinit_gain",
}


class TimmConv2d(ScaledStdConv2d):
    """timm adds 1e-5 to the variance, where the authors floor it."""

    EPS = 1e-5

    def _standardize(self, gain: Tensor) -> Tensor:
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        var, mean = torch.var_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
        scale = ((var + self.EPS) * self.fan_in).rsqrt() * gain.view(-1, 1, 1, 1)
        return ((weight - mean) * scale).to(self.weight.dtype)


class TimmActivation(Activation):
    """timm uses the exact GELU, the authors its tanh form."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same shape."""
        return F.gelu(x) * self.scale


class TimmDesign(Design):
    """Networks that compute what timm computes."""

    activation_class = TimmActivation
    convolution_class = TimmConv2d


#: Form → what the network is made of.
_DESIGNS: dict[str, type[Design]] = {"official": Design, "timm": TimmDesign}


def load_timm(source: str | Path, form: str = "official") -> NFNet:
    """An NFNet with published weights, in training mode like any new module.

    Args:
        source: a file (``.safetensors``, or ``.pth`` with a state dict), or one of :data:`NAMES`,
            fetched from the Hugging Face hub (0.3 to 1.8 GB) unless it is in the hub's cache.
        form: ``official`` or ``timm``, see the top of this module.

    Raises:
        FileNotFoundError: if ``source`` is a path without a file.
        ValueError: if it is neither a path nor a known name, or not the weights of such a network.
        OSError: if the file cannot be fetched.
        ImportError: if fetching needs a package that is not installed.
    """
    return from_timm(read(fetch(source)), form)


def fetch(source: str | Path) -> Path:
    """The file that ``source`` stands for, see :func:`load_timm`."""
    path = Path(source)
    if path.is_file():
        return path
    if isinstance(source, Path) or path.suffix in SUFFIXES or len(path.parts) > 1:
        raise FileNotFoundError(
            f"no file {source}; give the path of a .safetensors or .pth file, or a name such as "
            f"{NAMES[0]}"
        )
    choose("weights", source, NAMES)
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ImportError(
            f"fetching {source} needs the package huggingface_hub: pip install huggingface_hub, or "
            "give the path of a file"
        ) from error
    repository = f"timm/{source}.dm_in1k"
    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except OSError as error:  # no network, no space, no such file: the remedy is the same
        raise OSError(
            f"{repository}/model.safetensors cannot be fetched from the Hugging Face hub; fetch it "
            f"by other means and give its path ({error})"
        ) from error


def published_digest(path: Path) -> str | None:
    """The SHA-256 that a file's name gives, or its first digits; ``None`` if it gives none."""
    blob = path.resolve().name  # the hub's cache links to files that are called by their digests
    if re.fullmatch("[0-9a-f]{64}", blob):
        return blob
    match = re.fullmatch("dm_nfnet_f[0-6]-([0-9a-f]{8,64})", path.stem)
    return match[1] if match else None


def checked_digest(path: Path) -> str:
    """Hold a file against the digest that its name gives.

    Returns:
        A sentence that says what was checked.

    Raises:
        ValueError: if the file has another digest.
    """
    expected = published_digest(path)
    if expected is None:
        return f"{path.name}: no digest in its name, so whether it is as published is not checked"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise ValueError(
            f"{path} is damaged or not what its name says: its SHA-256 begins with "
            f"{found[: len(expected)]}, published is {expected}; fetch it again, or rename what is "
            "your own"
        )
    return f"{path.name}: its SHA-256 begins with {expected}, as published"


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file or of a state dict that ``torch.save`` wrote.

    Names are those of the network, without what DistributedDataParallel or ``torch.compile`` put
    before them. What its digest was held against is logged, see :func:`checked_digest`.

    Raises:
        ValueError: if the file is neither, its suffix does not match its content, or its digest is
            not the published one.
    """
    log.info("%s", checked_digest(path))
    return _unwrapped(
        _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    )


#: What stands before every name of a model that is compiled, or in several processes.
_WRAPPERS = ("module.", "_orig_mod.")


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _WRAPPERS:
        if state and all(name.startswith(prefix) for name in state):
            return _unwrapped({name.removeprefix(prefix): t for name, t in state.items()})
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        if zipfile.is_zipfile(path):
            raise ValueError(
                f"{path} is not a safetensors file: torch.save wrote it; rename it to "
                f"{path.with_suffix('.pth').name}"
            ) from error
        raise ValueError(f"{path} is not a safetensors file: {error}") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    if _is_safetensors(path):
        raise ValueError(
            f"{path} was not written by torch.save: it is a safetensors file; rename it to "
            f"{path.with_suffix('.safetensors').name}"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle and zip raise many kinds
        # Not torch's own text: it recommends weights_only=False, which runs code from the file.
        raise ValueError(
            f"{path} is not a state dict saved by torch.save ({type(error).__name__}): it is "
            "damaged, of another format, or holds objects other than tensors. Where it was made, "
            "save only the tensors: torch.save(model.state_dict(), path)"
        ) from None
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if _is_state(state):
        return dict(state)
    entries = state.items() if isinstance(state, Mapping) else ()
    inner = next((key for key, value in entries if _is_state(value)), None)
    hint = f"; save what it has under {inner!r} in a file of its own" if inner else ""
    raise ValueError(
        f"{path} holds a {type(state).__name__}, expected a state dict of tensors{hint}"
    )


def _is_state(found: object) -> bool:
    return isinstance(found, Mapping) and all(isinstance(v, Tensor) for v in found.values())


def _is_safetensors(path: Path) -> bool:
    """Whether the file begins with the length of a JSON header and the header itself."""
    with path.open("rb") as file:
        length, brace = int.from_bytes(file.read(8), "little"), file.read(1)
    return brace == b"{" and length <= path.stat().st_size - 8


def to_timm(model: NFNet) -> dict[str, Tensor]:
    """The state dict of ``model`` as timm names and shapes it, in the order of ``model``'s own."""
    places: list[str] = []
    for block in model.blocks:
        assert isinstance(block.stride, int)
        stage, index = map(int, places[-1].split(".")) if places else (0, -1)
        places.append(f"{stage + 1}.0" if block.stride == 2 else f"{stage}.{index + 1}")
    renamed = {}
    for name, tensor in model.state_dict().items():
        name = re.sub(r"^blocks\.(\d+)", lambda match: f"stages.{places[int(match[1])]}", name)
        for ours, theirs in _RENAMED.items():
            name = re.sub(ours, theirs, name)
        if name.endswith(".gain"):
            tensor = tensor[:, None, None, None]
        elif ".attn_last." in name and name.endswith(".weight"):
            tensor = tensor[:, :, None, None]
        renamed[name] = tensor
    return renamed


def from_timm(state: Mapping[str, Tensor], form: str = "official") -> NFNet:
    """The network with the weights ``state`` of timm's ``dm_nfnet_*``; see :func:`load_timm`.

    The tensors of ``state`` become the network's own.

    Raises:
        ValueError: if names or shapes are not exactly those of an NFNet, or values are not finite
            numbers of float32 (or all of float64); it names the tensor.
    """
    choose("form", form, _DESIGNS)
    classes = len(state["head.fc.weight"]) if "head.fc.weight" in state else 1000
    with torch.device("meta"):
        variant = VARIANTS[variant_of(state)]
        model = NFNet(variant, classes, design_class=_DESIGNS[form])
    expected = to_timm(model)
    missing, unexpected = expected.keys() - state.keys(), state.keys() - expected.keys()
    for what, names in (("lacks", missing), ("has the unknown", unexpected)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"not the weights of timm's dm_nfnet_*: it {what} {min(names)}{more}")
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            raise ValueError(
                f"not the weights of timm's dm_nfnet_*: {name} has the shape "
                f"{list(state[name].shape)}, expected {list(tensor.shape)}"
            )
    check_values({name: state[name] for name in expected})
    ours = zip(model.state_dict().items(), expected, strict=True)
    loaded = {name: state[theirs].reshape(tensor.shape) for (name, tensor), theirs in ours}
    model.load_state_dict(loaded, assign=True)
    return model


def check_values(weights: Mapping[str, Tensor]) -> None:
    """Refuse what no network was trained to.

    Args:
        weights: by name; no integer buffers.

    Raises:
        ValueError: if values are not finite, or not all float32 or all float64; it names the
            tensor.
    """
    first, dtype = next((name, tensor.dtype) for name, tensor in weights.items())
    for name, tensor in weights.items():
        if tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"{name} has type {tensor.dtype}, expected torch.float32; convert the weights "
                "first, or take the released ones"
            )
        if tensor.dtype != dtype:
            raise ValueError(
                f"{name} has type {tensor.dtype} and {first} has {dtype}; expected one type"
            )
        if not tensor.isfinite().all():
            raise ValueError(
                f"{name} has values that are not finite: the weights are damaged; fetch them again"
            )


def variant_of(state: Mapping[str, Tensor]) -> str:
    """``f0``, ``f4+`` and so on, from the names and shapes of timm's state dict.

    Raises:
        ValueError: if it fits none of them.
    """
    blocks = {
        (int(match[1]), int(match[2]))
        for match in (re.match(r"stages\.(\d+)\.(\d+)\.", name) for name in state)
        if match is not None
    }
    if blocks and not any(name.endswith("skipinit_gain") for name in state):
        raise ValueError(
            "these weights have no skipinit_gain: timm's nfnet_* are not the paper's "
            "networks; use its dm_nfnet_*"
        )
    depths = tuple(sum(stage == s for stage, _ in blocks) for s in range(4))
    projections = (state.get(f"stages.{s}.0.downsample.conv.weight") for s in range(4))
    widths = tuple(0 if weight is None else len(weight) for weight in projections)
    for name, variant in VARIANTS.items():
        if (variant.depths, variant.widths) == (depths, widths):
            return name
    raise ValueError(
        f"not the weights of timm's dm_nfnet_*: stages of {depths} blocks and {widths} channels"
    )
