"""Plots of figures of merit: ROC, DET, score histograms, CMC, open-set errors, error versus discard, reliability.

    figure = roc({"mine": (fmr, tar)})
    save_plot(figure, "roc.svg")            # or .png
    svg_of(figure)                          # text, to stand inside a page

Curves come as plain arrays by name, so that several systems share one plot. Colours are those of Okabe and Ito, which
people with any common colour blindness tell apart; curves differ in their dashes too. Needs matplotlib (extra
``evaluate``), but no display and none of its global state.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from mien.errors import MissingExtra, OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = Mapping[str, tuple[ArrayLike, ArrayLike]]
"""x and y (m,) of each curve, by name."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b5b5b")
"""Blue, vermilion, green, purple, orange, sky, grey."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (8, 3)), (0, (3, 1)), "-")
GENUINE, IMPOSTOR = COLOURS[0], COLOURS[1]

INK, SOFT, LINE = "#1b2730", "#5c6b76", "#e0e5e8"
"""Words, small words and rules: the colours of mien's pages, which replace them by their own in the dark."""

SIZE = (5.2, 3.9)
"""Of a plot, inches."""

DOTS = 200
"""Of a PNG, per inch."""

POINTS = 2000
"""Most points of a drawn curve; a million of them look the same and make a page of a hundred megabytes."""

DET_TICKS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95)


def roc(curves: Curves, *, points: Sequence[tuple[float, float]] = (), lowest: float | None = None) -> Figure:
    """True accept rate over false match rate, which is drawn by its logarithm.

    Parameters
    ----------
    curves
        FMR and TAR of each system, both rising.
    points
        (FMR, TAR) to mark, such as the operating points that were chosen.
    lowest
        Left end of the axis. Default: the lowest rate above zero, rounded down to a power of ten.
    """
    figure, axes = _plot("false match rate", "true accept rate")
    low = lowest or _decade([x for x, _ in curves.values()])
    worst = 1.0
    for index, (name, (x, y)) in enumerate(curves.items()):
        fmr, tar = _steps(x, y)
        # What lies left of the lowest rate is the curve's height there.
        inside = fmr >= low
        edge = tar[~inside].max(initial=0.0)
        fmr, tar = np.append(low, fmr[inside]), np.append(edge, tar[inside])
        worst = min(worst, edge)
        _curve(axes, *_thinned(fmr, tar, log=True), name, index)
    for x, y in points:
        axes.plot(max(x, low), y, "o", color=INK, markersize=4.5, zorder=5)
    axes.set_xscale("log")
    axes.set_xlim(low, 1)
    axes.set_ylim(_floor(worst), 1.0 + 0.02 * (1 - _floor(worst)))
    _legend(axes, curves, "lower right")
    return figure


def det(curves: Curves, *, points: Sequence[tuple[float, float]] = ()) -> Figure:
    """False non-match rate over false match rate on normal-deviate axes (Martin et al., 1997).

    Scores of two normal distributions make a straight line there, and better systems lie nearer to the lower left.

    Parameters
    ----------
    curves
        FMR and FNMR of each system.
    points
        (FMR, FNMR) to mark.
    """
    from scipy.special import ndtri

    figure, axes = _plot("false match rate", "false non-match rate")
    rates = [np.asarray(v, np.float64) for curve in curves.values() for v in curve]
    seen = np.concatenate([v[(v > 0) & (v < 1)] for v in rates] or [np.array([0.5])])
    low = max(float(seen.min(initial=0.4)), DET_TICKS[0])
    for index, (name, (x, y)) in enumerate(curves.items()):
        fmr, fnmr = np.asarray(x, np.float64), np.asarray(y, np.float64)
        inner = (fmr > 0) & (fmr < 1) & (fnmr > 0) & (fnmr < 1)
        _curve(axes, *_thinned(ndtri(fmr[inner]), ndtri(fnmr[inner])), name, index)
    for x, y in points:
        if 0 < x < 1 and 0 < y < 1:
            axes.plot(ndtri(x), ndtri(y), "o", color=INK, markersize=4.5, zorder=5)
    ticks = [t for t in DET_TICKS if low / 2 <= t <= 0.6]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ndtri(ticks), [_percent(t) for t in ticks])
    ends = ndtri(max(low * 0.8, 1e-7)), ndtri(0.6)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.plot(ends, ends, color=SOFT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
    _legend(axes, curves, "upper right")
    return figure


def histogram(
    genuine: ArrayLike,
    impostor: ArrayLike,
    *,
    threshold: float | None = None,
    bins: int | None = None,
    label: str = "cosine",
    names: tuple[str, str] = ("same person", "different people"),
) -> Figure:
    """Scores of genuine and of impostor comparisons, each with the same area, and the threshold between them."""
    figure, axes = _plot(label, "density")
    kinds = np.asarray(genuine, np.float64), np.asarray(impostor, np.float64)
    both = np.concatenate(kinds)
    bins = bins or int(np.clip(np.sqrt(min(len(values) for values in kinds)), 12, 80))
    edges = np.linspace(both.min(), both.max() + 1e-9, bins + 1)
    for values, colour, name in zip(kinds, (GENUINE, IMPOSTOR), names, strict=True):
        heights = np.histogram(values, edges)[0] / max(len(values), 1) / (edges[1] - edges[0])
        axes.stairs(heights, edges, fill=True, color=colour, alpha=0.22, linewidth=0)
        axes.stairs(heights, edges, color=colour, linewidth=1.4, label=f"{name} ({len(values):,})")
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), label=f"threshold {threshold:.3f}")
    axes.margins(x=0.01)
    axes.set_ylim(0, 1.3 * axes.dataLim.y1)  # room for the names of the curves
    _lettered(axes, "upper left")
    return figure


def cmc(curves: Mapping[str, ArrayLike]) -> Figure:
    """Share of mated searches whose mate is among the first 1, 2, … candidates: one array (ranks,) a system."""
    figure, axes = _plot("rank", "mate found at this rank or before")
    ends = [np.asarray(values, np.float64) for values in curves.values()]
    for index, (name, found) in enumerate(zip(curves, ends, strict=True)):
        rank = np.arange(1, len(found) + 1)
        _curve(axes, rank, found, name, index, marker="o" if len(found) <= 30 else "")
    longest = max(len(found) for found in ends)
    if longest > 30:
        axes.set_xscale("log")
        axes.set_xlim(1, longest)
        axes.set_xticks([tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if tick <= longest])
        axes.minorticks_off()
    else:
        axes.set_xlim(0.5, longest + 0.5)
        axes.set_xticks(sorted({1, *range(5, longest + 1, 5)} if longest > 8 else range(1, longest + 1)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    low = _floor(min(float(found[0]) for found in ends))
    axes.set_ylim(low, 1.0 + 0.02 * (1 - low))
    _legend(axes, curves, "lower right")
    return figure


def open_set(curves: Curves, *, points: Sequence[tuple[float, float]] = ()) -> Figure:
    """FNIR over FPIR, both by their logarithm: searches that miss, against searches that find who is not there."""
    figure, axes = _plot("false positive identification rate", "false negative identification rate")
    low = _decade([x for x, _ in curves.values()])
    least = _decade([y for _, y in curves.values()])
    for index, (name, (x, y)) in enumerate(curves.items()):
        fpir, fnir = _steps(x, y)
        inside = fpir >= low
        edge = fnir[~inside].min(initial=1.0)
        fpir, fnir = np.append(low, fpir[inside]), np.append(edge, fnir[inside])
        _curve(axes, *_thinned(fpir, np.maximum(fnir, least), log=True), name, index)
    for x, y in points:
        axes.plot(max(x, low), max(y, least), "o", color=INK, markersize=4.5, zorder=5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, 1)
    axes.set_ylim(least, 1.15)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if least > 0.05 and f"{value:e}"[0] in "235" else "")
    _legend(axes, curves, "lower left")
    return figure


def error_versus_discard(curves: Curves, *, limit: float = 0.5) -> Figure:
    """False non-match rate of what is left, over the share of comparisons discarded for poor quality.

    Parameters
    ----------
    curves
        Share discarded, rising, and the rate from there on, of each quality score.
    limit
        Right end of the axis.
    """
    figure, axes = _plot("share discarded, poorest first", "false non-match rate of the rest")
    top = 0.0
    for index, (name, (x, y)) in enumerate(curves.items()):
        share, rate = np.asarray(x, np.float64), np.asarray(y, np.float64)
        inside = share <= limit
        axes.step(
            share[inside], rate[inside], where="post", color=COLOURS[index % len(COLOURS)],
            linestyle=DASHES[index % len(DASHES)], linewidth=1.6, label=name,
        )  # fmt: skip
        if len(rate):
            top = max(top, float(rate[inside].max(initial=0)))
            # What it would be if only errors went, from the same start: no quality can do better.
            start = float(rate[0])
            if index == 0 and 0 < start < 1:
                ideal = np.linspace(0, min(start, limit), 50)
                axes.plot(ideal, (start - ideal) / (1 - ideal), color=SOFT, linewidth=0.9, linestyle=(0, (2, 3)))
    axes.set_xlim(0, limit)
    axes.set_ylim(0, top * 1.08 if top else 1)
    axes.xaxis.set_major_formatter(lambda value, _: _percent(value))
    axes.yaxis.set_major_formatter(lambda value, _: _percent(value))
    _legend(axes, curves, "best")
    return figure


def reliability(curves: Curves, *, counts: ArrayLike | None = None) -> Figure:
    """Share of genuine pairs over the probability that was given; on the diagonal, probabilities are true.

    Parameters
    ----------
    curves
        What was said, and what was so, of each system.
    counts
        Pairs behind each point of the first curve, drawn as the points' sizes.
    """
    figure, axes = _plot("probability given", "share that is the same person")
    axes.plot((0, 1), (0, 1), color=SOFT, linewidth=0.9, linestyle=(0, (2, 3)))
    for index, (name, (x, y)) in enumerate(curves.items()):
        _curve(axes, np.asarray(x), np.asarray(y), name, index, marker="" if index == 0 and counts is not None else "o")
        if index == 0 and counts is not None:
            sizes = np.asarray(counts, np.float64)
            axes.scatter(np.asarray(x), np.asarray(y), 12 + 60 * np.sqrt(sizes / sizes.max()), COLOURS[0], zorder=4)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    _legend(axes, curves, "upper left")
    return figure


def against_threshold(curves: Curves, *, threshold: float | None = None, label: str = "threshold") -> Figure:
    """Shares from 0 to 1 over a threshold: precision, recall and F of a clustering, say."""
    figure, axes = _plot(label, "share")
    for index, (name, (x, y)) in enumerate(curves.items()):
        _curve(axes, np.asarray(x), np.asarray(y), name, index)
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1.1, linestyle=(0, (5, 3)))
        axes.annotate(
            f"{threshold:.3f}", (threshold, 1.0), xytext=(4, 4), textcoords="offset points", color=INK, fontsize=8,
            annotation_clip=False,
        )  # fmt: skip
    axes.set_ylim(0, 1.02)
    axes.margins(x=0)
    _lettered(axes, "best")
    return figure


def sizes(counts: Mapping[str, ArrayLike], *, label: str = "pictures in a cluster") -> Figure:
    """How many clusters, or people, have how many pictures: sizes (m,) by name, both axes by their logarithm."""
    figure, axes = _plot(label, "how many have so many or more")
    for index, (name, values) in enumerate(counts.items()):
        size, many = np.unique(np.asarray(values), return_counts=True)
        _curve(axes, size, np.cumsum(many[::-1])[::-1], name, index, marker="o")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    _lettered(axes, "upper right")
    return figure


# ------------------------------------------------------------------------------------------- in and out


def save_plot(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a plot as SVG or PNG, by the ending; equal plots make equal files.

    Raises
    ------
    OptionError
        Another ending.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".svg", ".png"):
        raise OptionError("plots are written as .svg or .png", got=str(path), expected=".svg, .png")
    with _rules():
        made: dict[str, Any] = {"metadata": {"Date": None}} if suffix == ".svg" else {"dpi": DOTS}
        figure.savefig(path, facecolor="white", **made)


def svg_of(figure: Figure, *, label: str = "") -> str:
    """A plot as an SVG element for a page. Words and rules take the page's colours ``--ink``, ``--soft``, ``--line``.

    Ids are made unlike those of other plots on the page by the label, which is read out to those who cannot see it.
    """
    buffer = io.StringIO()
    with _rules():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    own = re.sub(r"\W+", "-", label.lower()) or "plot"
    text = re.sub(r'\bid="', f'id="{own}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{own}-", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)  # the page's own
    for colour, name in ((INK, "ink"), (SOFT, "soft"), (LINE, "line")):
        text = text.replace(colour, f"var(--{name},{colour})")
    # In the page the plot is as wide as its place; the size in points would hold it.
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    spoken = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{spoken}"', 1)


# ------------------------------------------------------------------------------------------- the common style


def need_matplotlib() -> None:
    """MissingExtra where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtra("matplotlib", extra="evaluate") from error


def _rules() -> Any:
    """matplotlib's settings for one drawing; nobody else's plots change."""
    need_matplotlib()
    import matplotlib

    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",  # words stay words: they can be searched, and the file is small
            "svg.hashsalt": "mien",
            "font.family": ["sans-serif"],
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 9,
            "mathtext.default": "regular",
        }
    )


def _plot(x: str, y: str) -> tuple[Figure, Axes]:
    with _rules():
        from matplotlib.figure import Figure

        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
    axes.set_xlabel(x, color=INK, fontsize=9)
    axes.set_ylabel(y, color=INK, fontsize=9)
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(SOFT)
        axes.spines[side].set_linewidth(0.8)
    axes.tick_params(which="both", colors=SOFT, labelsize=8, width=0.8)
    axes.grid(True, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _curve(axes: Axes, x: ArrayLike, y: ArrayLike, name: str, index: int, *, marker: str = "") -> None:
    axes.plot(
        np.asarray(x), np.asarray(y), label=name, color=COLOURS[index % len(COLOURS)],
        linestyle=DASHES[index % len(DASHES)], linewidth=1.7, marker=marker, markersize=4, solid_capstyle="round",
    )  # fmt: skip


def _legend(axes: Axes, curves: Mapping[str, Any], place: Any) -> None:
    """Names of the curves; one curve that says nothing needs none."""
    if len(curves) > 1 or any(curves):
        _lettered(axes, place)


def _lettered(axes: Axes, place: Any) -> None:
    legend = axes.legend(loc=place, frameon=False, fontsize=8, labelcolor=INK, handlelength=2.6)
    legend.set_zorder(6)


def _steps(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.asarray(x, np.float64), np.asarray(y, np.float64)


def _thinned(
    x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], *, log: bool = False
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """At most about `POINTS` points that lie evenly along both axes; the ends stay."""
    if len(x) <= POINTS:
        return x, y
    along = np.log(np.maximum(x, 1e-300)) if log else x
    travelled = np.zeros(len(x))
    for axis in (along, y):
        path = np.abs(np.diff(axis))
        if path.sum() > 0:
            travelled[1:] += np.cumsum(path) / path.sum()
    place = np.floor(travelled / travelled[-1] * (POINTS - 1)).astype(np.intp)
    keep = np.append(np.diff(place) > 0, True)
    keep[0] = True
    return x[keep], y[keep]


def _decade(columns: Sequence[ArrayLike]) -> float:
    """The power of ten at or below the least rate above zero; between 1e-9 and 0.1."""
    least = 1.0
    for column in columns:
        values = np.asarray(column, np.float64)
        least = min(least, float(values[values > 0].min(initial=1.0)))
    return float(min(0.1, max(1e-9, 10 ** np.floor(np.log10(least) + 1e-9))))


def _floor(share: float) -> float:
    """Where an axis of shares that fall as low as this begins: a little below, at a round number."""
    step = 0.1 if share < 0.9 else 0.02 if share < 0.98 else 0.005
    return float(max(0.0, np.floor((share - 0.2 * step) / step) * step))


def _percent(share: float) -> str:
    return f"{100 * share:g} %"
