"""``probe fit``: a linear machine on frozen features, and how well it tells each label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mien.errors import OptionError
from mien.verbs import _output
from mien.verbs._pipeline import Progress
from mien.verbs.evaluate._common import Evaluation, today
from mien.verbs.probe._pictures import crop_of, network_of, pictures, told
from mien.verbs.probe._table import ProbedLabel, mean, read

__all__ = ["Probed", "ProbedLabel", "fit"]


@dataclass(frozen=True, kw_only=True)
class Probed(Evaluation):
    """A trained probe and how good it is on pictures that it was not trained on.

    Parameters
    ----------
    network, layer, dim
        What the features are of, and how many numbers they have.
    metric
        "mean average precision" or "mean class accuracy".
    value, chance
        That, and what scores without a meaning would give.
    c
        The machine's C; `tried` has the cross-validated figure of each candidate.
    representations
        Of each picture.
    trained, tested
        Pictures.
    faceless
        Pictures in which no face was found; they are left out.
    labels
        Each label's own figure.
    out
        The file of the probe, trained on the training pictures only.
    """

    network: str
    layer: str
    dim: int
    metric: str
    value: float
    chance: float
    c: float
    tried: dict[str, float]
    representations: int
    trained: int
    tested: int
    faceless: int
    labels: tuple[ProbedLabel, ...]
    out: str = ""


def fit(
    path: str,
    *,
    labels: str,
    columns: Sequence[str] = (),
    task: str = "auto",
    network: str | None = None,
    weights: str | None = None,
    pretrained: bool = False,
    random: bool = False,
    side: int | None = None,
    layer: str | None = None,
    pool: str = "mean",
    rectify: bool | None = None,
    crop: str = "auto",
    margin: float = 1.5,
    jitter: str = "none",
    angle: float = 10.0,
    power: float | None = None,
    c: Sequence[float] = (0.02, 0.2, 2.0, 20.0),
    folds: int = 5,
    held: float = 0.3,
    seed: int = 0,
    choose: str = "largest",
    device: str = "auto",
    batch_size: int = 8,
    out: str | None = None,
    progress: Progress | None = None,
) -> Probed:
    """Trains a linear machine on a frozen network's features, and says how well it tells each label of new pictures.

    Parameters
    ----------
    path
        Folder that the table's file names are relative to.
    labels
        CSV file with a column "file" and one column a label: 1 and 0 (or -1) for attributes, empty where nobody knows;
        or one column of names for classes. A column "split" with "train" and "test" decides what is judged, a column
        "person" keeps people together, and xmin, ymin, xmax, ymax are a box.
    columns
        Columns that are labels. Default: all others.
    task
        "attributes" (one against all), "classes" (one against one), or "auto": by what is in the columns.
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
    layer
        Name of a layer, as ``mien probe layers`` lists them. Default: the embedding; of other networks fc1, or what
        goes into the last linear layer.
    pool
        What becomes of maps: "mean", "max", "grid" (3 x 3 means), "flatten", or "first" (token).
    rectify
        Whether features are cut off at 0, as after a ReLU. Default: of fc1 and fc2 only.
    crop
        What of a picture is looked at: "photo", all of it, squashed; "face", the aligned face in it; "box", the
        table's box. Default: the face where the weights are of aligned faces; else the box, where there is one.
    margin
        How many times as long as the box's the sides of the crop are.
    jitter
        "none"; "paper", sixteen representations of a picture; or "gentle", ten that keep the whole face in sight.
    angle
        Of the turned ones, degrees.
    power
        Of the signed power of the features. Default: 2 with "paper", otherwise 1, which is none.
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
        File that receives the probe: `.safetensors`.
    progress
        Called as ``progress(done, total, what)`` after every batch.

    Returns
    -------
    Probed
        Figures of the pictures that were kept out, overall and by label.

    Raises
    ------
    TableError, MediaNotFound
        The table is not there, or is not one of labels.
    OptionError, UnknownWeights, CheckpointError
        There is no such network, layer or choice.
    MissingExtra
        scikit-learn or timm is not installed.
    """
    from mien.papers import cnn_off_the_shelf as paper

    if out is not None and Path(out).suffix != ".safetensors":
        raise OptionError("probes are written as safetensors", got=out, expected="a name ending in .safetensors")
    table = read(path, labels, columns, task, held, seed)
    source = network_of(network, weights, pretrained, random, side, seed, device)
    views = paper.views_of(jitter, angle)
    recipe = paper.recipe_of(
        source, layer=layer, pool=pool, rectify=rectify, views=views,
        crop=crop_of(crop, source, table.boxes is not None),
        power=(2.0 if jitter == "paper" else 1.0) if power is None else power, margin=margin,
    )  # fmt: skip
    seen = pictures(
        [str(file) for file in table.files], recipe, source, table.boxes, choose, device, batch_size, progress
    )
    table = table.take(seen.rows)
    x = recipe.features(source, seen.crops, batch=batch_size * len(views), progress=told(progress, "features"))
    train, test = ~table.test, table.test
    table.check()
    found = paper.fitted(
        x[train], table.truth[train], names=table.names, known=None if table.known is None else table.known[train],
        groups=table.groups(train), cs=tuple(c), folds=folds, seed=seed,
    )  # fmt: skip
    probe = paper.Probe(recipe, found.classifier, found.c)
    known = None if table.known is None else table.known[test]
    each = paper.figures(found.classifier, x[test], table.truth[test], known)
    if out is not None:
        _output.folder(Path(out).parent)
        probe.save(out)
    rows = table.rows(each)
    return Probed(
        measured_on=Path(labels).name, date=today(), failures=seen.failures, network=source.name, layer=recipe.layer,
        dim=x.shape[2], metric=table.metric,
        value=paper.mean_figure(found.classifier, x[test], table.truth[test], known),
        chance=mean([row.chance for row in rows if np.isfinite(row.figure)]), c=found.c,
        tried={f"{key:g}": value for key, value in found.tried.items()}, representations=len(views),
        trained=int(train.sum()), tested=int(test.sum()), faceless=seen.faceless, labels=rows, out=out or "",
    )  # fmt: skip
