"""Optimizers and what goes with them."""

from nbrepro.optim import sam
from nbrepro.optim.clipped_sgd import ClippedSGD
from nbrepro.optim.ema import EMA
from nbrepro.optim.groups import parameter_groups
from nbrepro.optim.lars import LARS

__all__ = ["EMA", "LARS", "ClippedSGD", "parameter_groups", "sam"]
