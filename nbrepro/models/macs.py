"""Multiply-adds of a network, counted by running it."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle


def count_macs(model: nn.Module, pixels: int) -> int:
    """Multiply-adds of one forward pass over one square image of ``pixels`` × ``pixels``.

    Convolutions and linear layers count, those of squeeze-excite included; biases, activations,
    pooling and normalisation do not. This is what arXiv 2102.06171 prints as FLOPs (Table 3, at
    the resolution of evaluation). Nothing is computed: the pass runs on the meta device.

    Args:
        model: any network of images ``[N, 3, pixels, pixels]``; on any device, left as it was.
        pixels: height and width of the image.
    """
    images = 2  # a BatchNorm in training mode refuses a single value a channel
    total = 0

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            products = module.in_channels // module.groups * math.prod(module.kernel_size)
        else:
            assert isinstance(module, nn.Linear)
            products = module.in_features
        total += output.numel() // images * products

    handles: list[RemovableHandle] = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    state = {name: tensor.detach().to("meta") for name, tensor in model.state_dict().items()}
    try:
        dtype = next(model.parameters()).dtype
        image = torch.empty(images, 3, pixels, pixels, device="meta", dtype=dtype)
        with torch.no_grad():
            functional_call(model, state, (image,))
    finally:
        for handle in handles:
            handle.remove()
    return total
