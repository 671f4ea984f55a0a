"""What γ and β make of the ReLU behind them (arXiv 2003.00152, section 5)."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro.claims.checks import Outcome, check

#: γ of four channels.
GAMMA = (0.1, -0.3, 1.0, 3.0)
#: Their β, as it stands and in units of |γ|.
BETA = -0.5


@check
def beta_in_units_of_gamma() -> Outcome:
    """At how many places a ReLU behind BatchNorm is zero, for four γ of which one is negative.

    The quantiles of a normal distribution, 65,536 of them, pass through a channel of each γ. Values
    are differences between shares of zeros: the largest between channels with one β, the largest
    between channels with one β/|γ|, and the largest between the latter and Φ(−β/|γ|).
    """
    gamma = torch.tensor(GAMMA)
    numbers = torch.special.ndtri((torch.arange(65_536, dtype=torch.float64) + 0.5) / 65_536)
    numbers = numbers.float().view(64, 1, 32, 32).expand(-1, len(gamma), -1, -1)
    by_beta = _zeros(numbers, gamma, torch.full_like(gamma, BETA))
    by_both = _zeros(numbers, gamma, BETA * gamma.abs())
    theory = float(torch.special.ndtr(torch.tensor(-BETA)))
    beta = f"{BETA:g}".replace("-", "−")
    return Outcome(
        {
            "by_beta": float(np.ptp(by_beta)),
            "by_both": float(np.ptp(by_both)),
            "theory": float(np.abs(by_both - theory).max()),
        },
        f"with β = {beta} the ReLU is zero at {100 * by_beta.min():.0f} to "
        f"{100 * by_beta.max():.0f} % of all places, by γ; with β = {beta}|γ| at "
        f"{100 * by_both.mean():.0f} %, whatever γ is (theory {100 * theory:.0f} %)",
    )


def _zeros(numbers: Tensor, gamma: Tensor, beta: Tensor) -> np.ndarray:
    """The share of zeros per channel of ``numbers``, ``[images, channels, height, width]``."""
    norm = nn.BatchNorm2d(len(gamma))
    with torch.no_grad():
        norm.weight.copy_(gamma)
        norm.bias.copy_(beta)
        passed = F.relu(norm(numbers))
    return (passed == 0).double().mean(dim=(0, 2, 3)).numpy()
