"""Optimizers, averaged weights and parameter groups.

Nothing here waits for the device, so all of it may run inside a captured CUDA graph. The loss needs
no function of its own: ``torch.nn.functional.cross_entropy`` takes probabilities as targets, and
its ``label_smoothing`` is that of the NFNet authors.
"""

from nbrepro.optim import sam
from nbrepro.optim.clipped_sgd import ClippedSGD
from nbrepro.optim.ema import EMA
from nbrepro.optim.groups import parameter_groups, undecayed
from nbrepro.optim.lars import LARS

__all__ = ["EMA", "LARS", "ClippedSGD", "parameter_groups", "sam", "undecayed"]
