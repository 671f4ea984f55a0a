"""Every plot of the book, drawn from records and measurements alone.

A function returns a :class:`~nbrepro.book.figures.chart.Chart`, a Matplotlib figure that knows in
words what it shows; :func:`nbrepro.book.captions.figure` puts it on a page.
"""

from nbrepro.book.figures.batches import lines, lines_by_seed
from nbrepro.book.figures.chart import Chart
from nbrepro.book.figures.family import ladder, pictures, trade_offs
from nbrepro.book.figures.measured import (
    along_gradient,
    branch_shares,
    clipped_shares,
    closed,
    factors,
    gammas,
    influence,
    overshooting,
    signal_propagation,
    skip_bounds,
    skip_gains,
    times_as_long,
    zeroed,
)
from nbrepro.book.figures.outcome_table import outcome_table
from nbrepro.book.figures.runs import (
    Arms,
    ended,
    figure_v1,
    frame,
    runs_of,
    scale_of,
    schedules,
)
from nbrepro.book.figures.training import (
    accuracy,
    at_equal_fit,
    by_number,
    curves,
    dots,
    equal_parameters,
    k_sweep,
    stored,
    survival,
    sweep,
)

__all__ = [
    "Arms",
    "Chart",
    "accuracy",
    "along_gradient",
    "at_equal_fit",
    "branch_shares",
    "by_number",
    "clipped_shares",
    "closed",
    "curves",
    "dots",
    "ended",
    "equal_parameters",
    "factors",
    "figure_v1",
    "frame",
    "gammas",
    "influence",
    "k_sweep",
    "ladder",
    "lines",
    "lines_by_seed",
    "outcome_table",
    "overshooting",
    "pictures",
    "runs_of",
    "scale_of",
    "schedules",
    "signal_propagation",
    "skip_bounds",
    "skip_gains",
    "stored",
    "survival",
    "sweep",
    "times_as_long",
    "trade_offs",
    "zeroed",
]
