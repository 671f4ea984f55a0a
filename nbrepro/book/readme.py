"""What the README says was found: a table and a picture, made from the records like every page.

``nbrepro book --update intro`` writes both, beside the home page, which shows the same.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nbrepro._files import replacing
from nbrepro.book import address
from nbrepro.book.chapter import evidence
from nbrepro.book.evidence import gather
from nbrepro.book.found import bare, takeaway

if TYPE_CHECKING:
    from nbrepro.book.figures import Chart
    from nbrepro.claims.verdicts import Verdict

#: Claims that a newcomer understands, of both papers and of most kinds of verdicts.
SHOWN = (
    *("ACC-19", "ACC-10", "ACC-21"),
    *("F2-a-4096", "F2-a-BN-4096", "F2-c", "F2-f-1024", "P-10", "B-1"),
)
BEGIN, END = "<!-- what was found: written by nbrepro -->\n", "<!-- end of what was found -->\n"


def findings(verdicts: "Mapping[str, Verdict]") -> str:
    """A Markdown table: what a paper says, what we found, the verdict.

    Args:
        verdicts: claim → its deciding verdict.
    """
    rows = [("a paper says", "we found", "verdict"), ("---",) * 3]
    for name in SHOWN:
        verdict = verdicts[name]
        rows.append((bare(verdict.claim), takeaway(verdict), f"{verdict.verdict} ({name})"))
    return "".join(f"| {' | '.join(_cell(cell) for cell in row)} |\n" for row in rows)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def picture() -> "Chart":
    """The figure of the home page, with its legend: accuracy by what of a network is trained."""
    from nbrepro.book import figures

    ours, whole = (evidence("training_only_batchnorm", profile) for profile in (None, "full"))
    chart = figures.accuracy(ours, figures.figure_v1(), whole)
    named = dict(
        reversed(pair)
        for axis in chart.axes
        for pair in zip(*axis.get_legend_handles_labels(), strict=True)
    )
    chart.legend(
        named.values(),
        named.keys(),
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=14,
    )
    return chart


def filled(readme: str, table: str) -> str:
    """The README with another table between its marks.

    Raises:
        ValueError: if it has no such marks.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md has no lines {BEGIN.strip()!r} and {END.strip()!r}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def write(root: Path) -> None:
    """Write the table into ``README.md``, and the picture that it and previews of links show.

    Args:
        root: the folder that holds ``README.md``, ``book/`` and ``results/``.
    """
    verdicts = {v.claim.id: v for v in gather(root / "results").deciding}
    path = root / "README.md"
    text = filled(path.read_text(encoding="utf-8"), findings(verdicts))
    with replacing(path) as file:
        file.write(text.encode())
    with replacing(root / "book" / address.PICTURE) as file:
        picture().savefig(
            file,
            format="png",
            dpi=130,
            facecolor="white",
            bbox_inches="tight",
            pad_inches=0.3,
            metadata={"Software": None},
        )
