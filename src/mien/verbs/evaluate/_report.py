"""The report of an evaluation: one HTML file with its tables, plots and protocol, in the style of mien's pages."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.verbs import _output
from mien.verbs._demo_page import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mien.verbs.evaluate._common import Evaluation

MORE_STYLE = """
main{max-width:1080px}
.plots{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:20px}
.plots figure{padding:14px 16px 12px}
.plots svg{overflow:visible}.plots svg text{font-family:inherit;font-size:inherit}
h3.plot{margin:0 0 6px}
.wide{overflow-x:auto}.wide table{min-width:520px}
td.text,th.text{text-align:left}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:6px 22px;margin:0}
dt{color:var(--soft)}dd{margin:0}
p.note{color:var(--soft);font-size:14px;margin:10px 0 0;max-width:80ch}
@media(max-width:860px){.plots{grid-template-columns:1fr}dl{grid-template-columns:1fr}dd{margin-bottom:6px}}
@media print{body{background:#fff}.card{break-inside:avoid}}
"""


SPACE = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Plot:
    """A plot with its file name, heading, and a sentence that says what to see."""

    name: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Table:
    """A table; columns of numbers stand at the right, but for the first, which names the row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What a page says.

    Parameters
    ----------
    title, lead
        Heading, and a sentence under it.
    tiles
        The main figures: (value, what it is).
    protocol
        How it was measured, by heading.
    plots, tables
        In order.
    command
        What makes the page again.
    heading
        Above the plots.
    """

    title: str
    lead: str
    tiles: Sequence[tuple[str, str]]
    protocol: Mapping[str, str]
    plots: Sequence[Plot]
    tables: Sequence[Table]
    command: str
    notes: Sequence[str] = field(default_factory=tuple)
    heading: str = "Curves"


def write(
    report: Report,
    result: Evaluation,
    *,
    page: str | os.PathLike[str] | None,
    plots: str | os.PathLike[str] | None,
) -> None:
    """Writes the page, and every plot as SVG and PNG into a folder, where they are wanted."""
    from mien.media.plots import save_plot

    if plots is not None:
        folder = _output.folder(plots)
        for plot in report.plots:
            for suffix in (".svg", ".png"):
                save_plot(plot.figure, folder / f"{plot.name}{suffix}")
    if page is not None:
        with _output.whole_file(page) as file:
            file.write(text_of(report, result))


def text_of(report: Report, result: Evaluation) -> str:
    """The page as one HTML document: no file beside it, no script, nothing from elsewhere."""
    from mien import __version__
    from mien.media.plots import svg_of

    tiles = "".join(
        f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(what)}</span></div>'
        for value, what in report.tiles
    )
    plots = "".join(
        f'<figure class="card"><h3 class="plot">{html.escape(plot.title)}</h3>{svg_of(plot.figure, label=plot.title)}'
        f"<figcaption>{html.escape(plot.caption)}</figcaption></figure>"
        for plot in report.plots
    )
    protocol = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in report.protocol.items() if v)
    tables = "".join(_table(table) for table in report.tables)
    failures = ""
    if result.failures:
        rows = [(Path(failure.source).name, failure.code.replace("_", " ")) for failure in result.failures[:50]]
        more = len(result.failures) - len(rows)
        failures = _table(
            Table("Pictures that could not be read", ("picture", "why"), rows, f"{more:,} more" if more > 0 else "")
        )
    notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in report.notes)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>mien: {html.escape(report.title)}</title><style>{STYLE}{MORE_STYLE}</style></head><body><main>
<h1>{html.escape(report.title)}</h1>
<p class="lead">{html.escape(report.lead)}</p>
<div class="tiles">{tiles}</div>
<h2>{html.escape(report.heading)}</h2>
<div class="plots">{plots}</div>
{tables}{failures}
<h2>How it was measured</h2>
<div class="card"><dl>{protocol}</dl>{notes}</div>
<footer>Made by <code>{html.escape(report.command)}</code>, mien {__version__}, {html.escape(result.date)}.
Figures hold for {html.escape(result.measured_on)} and for pictures like those; they promise nothing for
others.</footer>
</main></body></html>
"""


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    numeric = [
        column > 0 and all(isinstance(row[column], int | float) or _is_figure(str(row[column])) for row in table.rows)
        for column in range(len(table.header))
    ]

    def cell(tag: str, column: int, value: object) -> str:
        kind = "" if numeric[column] else ' class="text"'
        return f"<{tag}{kind}>{html.escape(_shown(value))}</{tag}>"

    head = "".join(cell("th", column, name) for column, name in enumerate(table.header))
    body = "".join(
        "<tr>" + "".join(cell("td", column, value) for column, value in enumerate(row)) + "</tr>" for row in table.rows
    )
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    return f'<h2>{html.escape(table.title)}</h2><div class="card wide"><table><tr>{head}</tr>{body}</table>{note}</div>'


def _is_figure(text: str) -> bool:
    return text == "" or text.replace("\N{MINUS SIGN}", "-")[:1].isdigit() or (text[:1] in "-+" and text[1:2].isdigit())


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


# ------------------------------------------------------------------------------------------- how numbers read


def percent(value: float | None, digits: int = 2) -> str:
    """A share as percent; empty for none."""
    return "" if value is None or not np.isfinite(value) else f"{100 * value:.{digits}f}{SPACE}%"


def span(low: float | None, high: float | None, digits: int = 2) -> str:
    """The two ends of an interval as percent."""
    return "" if low is None or high is None else f"{100 * low:.{digits}f} to {100 * high:.{digits}f}{SPACE}%"


def cosine(value: float | None) -> str:
    """A threshold with four digits."""
    return "" if value is None or not np.isfinite(value) else f"{value:.4f}"


def rate(value: float) -> str:
    """A false match rate as people write it."""
    return f"{value:g}"


def acquired(pictures: int, faceless: int, unreadable: int) -> str:
    """What became of the pictures."""
    parts = [f"{pictures:,} pictures"]
    parts += [f"{faceless:,} without a face"] if faceless else []
    parts += [f"{unreadable:,} unreadable"] if unreadable else []
    return ", ".join(parts)


def networks(contract: str, embeddings: str | os.PathLike[str] | None, options: Iterable[tuple[str, object]]) -> str:
    """Where the embeddings come from."""
    if embeddings is not None:
        return f"read from {Path(embeddings).name}" + (f", contract {contract}" if contract else "")
    return ", ".join(f"{name} {value}" for name, value in options) + f"; contract {contract}"


def check_drawable(page: object, plots: object) -> None:
    """MissingExtra now and not after the work, where plots are wanted and matplotlib is not there."""
    if page is not None or plots is not None:
        from mien.media.plots import need_matplotlib

        need_matplotlib()
