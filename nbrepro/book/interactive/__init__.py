"""Parts of a page that answer the reader: guesses, folded answers, figures that are worked.

All of them work offline and from a file. Python writes a figure's first state as SVG and its
numbers as JSON; ``book/_static/interactive.js`` then takes over. Without that script, in a notebook
for example, the first state stays and everything that is folded can be unfolded.
"""

from nbrepro.book.interactive.betas import betas
from nbrepro.book.interactive.companions import companions
from nbrepro.book.interactive.epochs import epochs
from nbrepro.book.interactive.gain_and_bias import Rectified, gain_and_bias
from nbrepro.book.interactive.gamma_threshold import GammaCurve, gamma_threshold
from nbrepro.book.interactive.lambda_ball import lambda_ball
from nbrepro.book.interactive.parts import Slider
from nbrepro.book.interactive.questions import answers, guess
from nbrepro.book.interactive.rate_map import rate_map
from nbrepro.book.interactive.stages import Member, Stage, stages

__all__ = [
    "GammaCurve",
    "Member",
    "Rectified",
    "Slider",
    "Stage",
    "answers",
    "betas",
    "companions",
    "epochs",
    "gain_and_bias",
    "gamma_threshold",
    "guess",
    "lambda_ball",
    "rate_map",
    "stages",
]
