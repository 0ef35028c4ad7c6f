"""Pictures of an audit: heat on faces, masks, bars, trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


def overlay(
    face: NDArray[np.uint8], heat: NDArray[np.floating], mask: NDArray[np.bool_] | None = None, *, strength: float = 0.6
) -> NDArray[np.uint8]:
    """A grey face (H, W, 3) under a map (H, W) of 0 … 1 in colours, the outline of a mask in white."""
    import cv2

    grey = np.repeat(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2).astype(np.float32)
    level = np.rint(255 * np.clip(heat, 0, 1)).astype(np.uint8)
    colour = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB).astype(np.float32)
    share = strength * np.sqrt(np.clip(heat, 0, 1)).astype(np.float32)[..., None]
    shown = np.rint(grey * (1 - share) + colour * share).astype(np.uint8)
    if mask is not None:
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shown, outlines, -1, (255, 255, 255), 1, cv2.LINE_AA)
    return np.asarray(shown, np.uint8)


def grid(
    pictures: Mapping[tuple[str, str], NDArray[np.uint8]], rows: Sequence[str], columns: Sequence[str]
) -> Figure:  # fmt: skip
    """Pictures by (row, column), each half as large; what is not there stays empty."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.25 * len(columns) + 1.1, 1.5 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            place: Any = axes[i][j]
            place.set_xticks([])
            place.set_yticks([])
            place.spines[:].set_visible(False)
            if i == 0:
                place.set_title(column, fontsize=9)
            if j == 0:
                place.set_ylabel(row, fontsize=9)
            if (row, column) in pictures:
                place.imshow(pictures[row, column][::2, ::2], interpolation="bilinear")
    return figure


def bars(values: Mapping[str, Sequence[float]], names: Sequence[str], *, label: str) -> Figure:
    """Groups of bars, one group a name; the values of each kind by its name."""
    from matplotlib.figure import Figure

    from mien.media import plots

    figure = Figure(figsize=(max(5.2, 0.9 * len(names) + 1.4), 3.9), layout="constrained")
    axes = figure.add_subplot()
    at, width = np.arange(len(names)), 0.8 / len(values)
    for number, (kind, heights) in enumerate(values.items()):
        place = at + (number - (len(values) - 1) / 2) * width
        axes.bar(place, heights, width, color=plots.COLOURS[number % len(plots.COLOURS)], label=kind)
    axes.set_xticks(at, list(names), rotation=30 if len(names) > 4 else 0, ha="right" if len(names) > 4 else "center")
    axes.set_ylabel(label)
    axes.grid(axis="y", color=plots.LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, ncols=2)
    return figure


def trees(linkages: Mapping[str, NDArray[np.float64]], names: Sequence[str]) -> Figure:
    """A dendrogram for each expression: two models meet at 1 - the correlation of their maps."""
    from matplotlib.figure import Figure
    from scipy.cluster.hierarchy import dendrogram

    from mien.media import plots

    wide = min(3, len(linkages))
    high = -(-len(linkages) // wide)
    figure = Figure(figsize=(3.4 * wide, (0.25 * len(names) + 1.1) * high), layout="constrained")
    axes = figure.subplots(high, wide, squeeze=False).ravel()
    end = max(0.05, *(float(links[:, 2].max()) for links in linkages.values()))
    for place, (expression, links) in zip(axes, linkages.items(), strict=False):
        dendrogram(
            np.maximum(links, 0), labels=list(names), orientation="left", ax=place, color_threshold=0,
            above_threshold_color=plots.COLOURS[0], leaf_font_size=7,
        )  # fmt: skip
        place.set_title(expression, fontsize=9)
        place.set_xlim(1.05 * end, 0)
        place.tick_params(axis="x", labelsize=7)
        place.spines[["top", "left", "right"]].set_visible(False)
    for place in axes[len(linkages) :]:
        place.set_axis_off()
    return figure
