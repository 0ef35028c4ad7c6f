"""``probe layers`` and ``probe curve``: what a network consists of, and which layer carries what."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mien.errors import OptionError, TableError
from mien.verbs._pipeline import Progress
from mien.verbs.evaluate._common import Evaluation, today
from mien.verbs.probe._pictures import crop_of, network_of, pictures, told
from mien.verbs.probe._table import mean, read


@dataclass(frozen=True)
class LayerRow:
    """A layer: its name, kind of module, and the shape of what it gives for one picture."""

    name: str
    kind: str
    shape: str
    numbers: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(self.__dict__)


@dataclass(frozen=True, kw_only=True)
class Curve(Evaluation):
    """How well each layer tells the labels.

    Parameters
    ----------
    network, metric, chance
        As of `Probed`.
    trained, tested, faceless
        Pictures.
    layers
        A row a layer: its name, kind, numbers, C, the mean figure, and that of each label.
    plot
        The picture that was drawn.
    """

    network: str
    metric: str
    chance: float
    trained: int
    tested: int
    faceless: int
    layers: tuple[dict[str, Any], ...]
    plot: str = ""


def layers(
    *,
    network: str | None = None,
    weights: str | None = None,
    side: int | None = None,
) -> list[LayerRow]:
    """Lists the layers of a network by name, in the order in which they run, with the shape of what each gives.

    Parameters
    ----------
    network
        timm:MODEL (extra ``backbones``), torchvision:MODEL, or module:builder of mien. Default: mien's own weights.
    weights
        Name of mien's weights. Default: mien-embedder.
    side
        Side of the network's input in pixels. Default: what it was made for.

    Returns
    -------
    list of LayerRow
        The whole network, "output", last; its numbers do not matter and are not loaded for a `network`.

    Raises
    ------
    OptionError, UnknownWeights
        There is no such network, or it does not take such an input.
    MissingExtra
        timm is not installed.
    """
    from mien.papers import cnn_off_the_shelf as paper

    source = network_of(network, weights if network is None else None, False, network is not None, side, 0, "cpu")
    return [
        LayerRow(one.name, one.kind, " x ".join(map(str, one.shape)), int(np.prod(one.shape)))
        for one in paper.layers(source)
    ]


def curve(
    path: str,
    *,
    labels: str,
    columns: Sequence[str] = (),
    task: str = "auto",
    only: Sequence[str] = (),
    network: str | None = None,
    weights: str | None = None,
    pretrained: bool = False,
    random: bool = False,
    side: int | None = None,
    pool: str = "mean",
    crop: str = "auto",
    margin: float = 1.5,
    c: Sequence[float] = (0.2, 2.0, 20.0),
    folds: int = 3,
    held: float = 0.3,
    seed: int = 0,
    choose: str = "largest",
    device: str = "auto",
    batch_size: int = 8,
    out: str | None = None,
    progress: Progress | None = None,
) -> Curve:
    """Probes layer after layer of a network: which of them carries what.

    Parameters
    ----------
    path
        Folder that the table's file names are relative to.
    labels
        CSV file, as of ``mien probe fit``; every label of every picture must be known.
    columns
        Columns that are labels. Default: all others.
    task
        "attributes" (one against all), "classes" (one against one), or "auto": by what is in the columns.
    only
        Names of layers. Default: all.
    network
        timm:MODEL (extra ``backbones``), torchvision:MODEL, or module:builder of mien. Default: mien's own weights.
    weights
        Name of mien's weights; beside `network` the file of its state dict. Default: mien-embedder.
    pretrained
        Let timm or torchvision download weights for `network`.
    random
        Take random numbers for the network: a baseline.
    side
        Side of the network's input in pixels. Default: what it was made for.
    pool
        What becomes of maps: "mean", "max", "grid" (3 x 3 means), "flatten", or "first" (token).
    crop
        "photo", "face" or "box", as of ``mien probe fit``.
    margin
        How many times as long as the box's the sides of the crop are.
    c
        Candidates for the machine's C, of which a cross-validation chooses.
    folds
        Of that cross-validation.
    held
        Share of the pictures (of the people, where these are known) that are judged, where the table does not say.
    seed
        Of that choice and of the folds.
    choose
        Which face counts where a picture shows several: "largest", "central" or "surest".
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    batch_size
        Pictures that are looked at together.
    out
        Plot that is drawn: `.svg` or `.png`.
    progress
        Called as ``progress(done, total, what)`` after every batch.

    Returns
    -------
    Curve
        A row a layer.

    Raises
    ------
    TableError, MediaNotFound
        The table is not there, or is not one of labels.
    OptionError, UnknownWeights, CheckpointError
        There is no such network, layer or choice.
    MissingExtra
        scikit-learn, matplotlib or timm is not installed.
    """
    from mien.papers import cnn_off_the_shelf as paper

    if out is not None and Path(out).suffix not in (".svg", ".png"):
        raise OptionError("plots are written as .svg or .png", got=out, expected=".svg, .png")
    table = read(path, labels, columns, task, held, seed)
    if table.known is not None and not table.known.all():
        raise TableError("a curve needs every label of every picture", got=f"{int((~table.known).sum())} unknown ones")
    source = network_of(network, weights, pretrained, random, side, seed, device)
    recipe = paper.recipe_of(source, pool=pool, crop=crop_of(crop, source, table.boxes is not None), margin=margin)
    seen = pictures(
        [str(file) for file in table.files], recipe, source, table.boxes, choose, device, batch_size, progress
    )
    table = table.take(seen.rows)
    table.check()
    points = paper.layer_curve(
        source, seen.crops, table.truth, test=table.test, names=table.names, only=list(only) or None, pool=pool,
        groups=table.people, cs=tuple(c), folds=folds, batch=batch_size, seed=seed,
        progress=told(progress, "features"),
    )  # fmt: skip
    if out is not None:
        draw_curve(points, table.names, out, metric=table.metric)
    rows = [{"layer": p.layer, "kind": p.kind, "numbers": p.dim, "c": p.c, "mean": p.mean, **p.figures} for p in points]
    chance = mean([row.chance for row in table.rows(points[0].figures)]) if points else float("nan")
    return Curve(
        measured_on=Path(labels).name, date=today(), failures=seen.failures, network=source.name, metric=table.metric,
        chance=chance, trained=int((~table.test).sum()), tested=int(table.test.sum()), faceless=seen.faceless,
        layers=tuple(rows), plot=out or "",
    )  # fmt: skip


def draw_curve(points: Sequence[Any], names: Sequence[str], path: str | os.PathLike[str], *, metric: str) -> None:
    """Draws how well each layer tells each label: `points` of `layer_curve`, the first layer at the left.

    Raises
    ------
    MissingExtra
        matplotlib is not installed.
    OptionError
        The ending is neither .svg nor .png.
    """
    from mien.media import plots

    plots.need_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(5.2, 0.28 * len(points) + 1.5), 4.2), layout="constrained")
    axes = figure.add_subplot()
    at = np.arange(len(points))
    for number, name in enumerate(names):
        axes.plot(
            at, [point.figures[name] for point in points], color=plots.COLOURS[number % len(plots.COLOURS)],
            linestyle=plots.DASHES[number % len(plots.DASHES)], linewidth=1.4, marker="o", markersize=3, label=name,
        )  # fmt: skip
    axes.plot(at, [point.mean for point in points], color=plots.INK, linewidth=2.4, label="mean")
    axes.set_xticks(at, [point.layer for point in points], rotation=60, ha="right", fontsize=7)
    axes.set_ylabel(metric.removeprefix("mean "))
    axes.grid(color=plots.LINE, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, ncols=2)
    plots.save_plot(figure, path)
