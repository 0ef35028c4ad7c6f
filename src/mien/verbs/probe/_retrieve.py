"""``probe retrieve``: pictures of the same thing among others, patch by patch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.errors import TableError
from mien.geometry.checks import choice
from mien.verbs import _pairs
from mien.verbs._pipeline import Progress
from mien.verbs.evaluate._common import Evaluation, today
from mien.verbs.probe._pictures import crop_of, network_of, pictures, told
from mien.verbs.probe._table import YES, boxes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Retrieved(Evaluation):
    """How well pictures of the same thing are found among others.

    Parameters
    ----------
    network, layer, search
        What was compared, and how.
    dim
        Whitened dimensions; 0 for features as they are.
    queries, references
        How many.
    mean_average_precision
        Of all queries; a query that is among the references is left out of its own ranking.
    recall_at_4
        Share of (at most four) relevant references among the first four, the query itself among them where it is one.
    """

    network: str
    layer: str
    search: str
    dim: int
    queries: int
    references: int
    faceless: int
    mean_average_precision: float
    recall_at_4: float


def retrieve(
    path: str,
    *,
    labels: str,
    search: str = "spatial",
    query_levels: int = 3,
    reference_levels: int = 4,
    dim: int = 500,
    power: float = 2.0,
    network: str | None = None,
    weights: str | None = None,
    pretrained: bool = False,
    random: bool = False,
    side: int | None = None,
    layer: str | None = None,
    pool: str = "mean",
    rectify: bool | None = None,
    crop: str = "auto",
    margin: float = 1.0,
    seed: int = 0,
    choose: str = "largest",
    device: str = "auto",
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Retrieved:
    """Measures how well pictures of the same thing are found among others, patch by patch of a frozen network.

    Parameters
    ----------
    path
        Folder that the table's file names are relative to.
    labels
        CSV file with the columns file,label. With a column "query", those with 1 there are searched for among the
        others; without, every picture among all.
    search
        "spatial", sub-patches on growing grids; "jitter", sixteen representations on both sides; or "none".
    query_levels
        Grids of the queries: 3 are 14 patches.
    reference_levels
        Grids of the references: 4 are 30 patches.
    dim
        Dimensions that are kept and whitened, learnt from the references; 0 compares features as they are.
    power
        Of the signed power after that.
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
        Name of a layer, as ``mien probe layers`` lists them.
    pool
        What becomes of maps: "mean", "max", "grid" (3 x 3 means), "flatten", or "first" (token).
    rectify
        Whether features are cut off at 0, as after a ReLU. Default: of fc1 and fc2 only.
    crop
        "photo", "face" or "box", as of ``mien probe fit``.
    margin
        How many times as long as the box's the sides of the crop are.
    seed
        Of a random network.
    choose
        Which face counts where a picture shows several: "largest", "central" or "surest".
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    batch_size
        Pictures that are looked at together.
    progress
        Called as ``progress(done, total, what)`` after every batch.

    Returns
    -------
    Retrieved
        Mean average precision, and recall at 4.

    Raises
    ------
    TableError, MediaNotFound
        The table is not there; or a query has no relevant picture.
    OptionError, UnknownWeights, CheckpointError
        There is no such network, layer or choice.
    ValueRangeError
        There are too few references to whiten so many dimensions.
    """
    from mien.papers import cnn_off_the_shelf as paper

    choice("search", search, ("spatial", "jitter", "none"))
    rows = _pairs.read_table(labels, ("file", "label"))
    files = [str(Path(path) / row["file"].strip()) for row in rows]
    names = _pairs.column(rows, "label")
    asked = "query" in rows[0]
    query = np.isin(np.char.lower(_pairs.column(rows, "query")), list(YES)) if asked else np.ones(len(rows), bool)
    boxes = boxes_of(rows, Path(labels).name)
    source = network_of(network, weights, pretrained, random, side, seed, device)
    recipe = paper.recipe_of(
        source, layer=layer, pool=pool, rectify=rectify, crop=crop_of(crop, source, boxes is not None), margin=margin
    )
    seen = pictures(files, recipe, source, boxes, choose, device, batch_size, progress)
    names, query = names[seen.rows], query[seen.rows]
    reference = ~query if asked else query
    if not query.any() or not reference.any():
        raise TableError("there must be queries and references", got=f"{int(query.sum())} and {int(reference.sum())}")
    views = {
        "spatial": (paper.patches(query_levels), paper.patches(reference_levels)),
        "jitter": (paper.paper_views(), paper.paper_views()),
        "none": ((paper.ORIGINAL,), (paper.ORIGINAL,)),
    }[search]

    def features(which: NDArray[np.bool_], some: Any) -> NDArray[np.float32]:
        return paper.described(
            source, seen.crops[which], [recipe.layer], views=some, pool=pool, rectify=recipe.rectify,
            batch=batch_size * len(some), progress=told(progress, "features"),
        )[recipe.layer]  # fmt: skip

    right = features(reference, views[1])
    left = right if not asked and views[0] == views[1] else features(query, views[0])
    space = paper.fit_space(right, dim=dim, power=power) if dim else paper.unit
    gaps = paper.distances(space(left), space(right))
    relevant = names[query][:, None] == names[reference]
    same = np.eye(len(names), dtype=bool) if not asked else np.zeros_like(relevant)
    alone = ~(relevant & ~same).any(1)
    if alone.any():
        raise TableError(
            "a query has no relevant picture", got=f"{int(alone.sum())}, the first of label {names[query][alone][0]}",
            hint="leave pictures without a second one out, or mark them as references by a column query",
        )  # fmt: skip
    return Retrieved(
        measured_on=Path(labels).name, date=today(), failures=seen.failures, network=source.name, layer=recipe.layer,
        search=search, dim=dim, queries=int(query.sum()), references=int(reference.sum()), faceless=seen.faceless,
        mean_average_precision=paper.mean_average_precision(gaps, relevant, ignored=same),
        recall_at_4=paper.recall_at(gaps, relevant),
    )  # fmt: skip
