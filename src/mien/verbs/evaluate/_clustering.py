"""``evaluate clustering``: are the pictures of a person together, and nobody else's with them?"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mien import metrics
from mien.errors import OptionError, TableError
from mien.faces import Failure
from mien.geometry.checks import choice
from mien.verbs import _output, _pairs
from mien.verbs._pipeline import Plan, Progress
from mien.verbs.calibrate import bundled_calibration
from mien.verbs.evaluate import _embedded, _report
from mien.verbs.evaluate._common import Evaluation, check_bootstrap, today

if TYPE_CHECKING:
    from numpy.typing import NDArray

METHODS = ("average", "connected")
"""Clusters are joined while their mean cosine reaches the threshold; or all pictures that a chain of pairs at or above
it connects are one cluster, which takes any number of pictures and runs away where there are many."""

MOST = 20_000
"""Pictures that "average" takes: it holds all distances, 1.6 GB of them."""

SWEEP = tuple(round(0.02 * step, 2) for step in range(51))
"""Thresholds of the curve."""

ROWS = 1024
"""Rows of a block of cosines."""


@dataclass(frozen=True)
class ClusteringCurve:
    """BCubed figures and numbers of clusters (51,) by threshold."""

    threshold: tuple[float, ...]
    f: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    clusters: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ClusteringEvaluation(Evaluation):
    """How well a set of pictures falls into people.

    Parameters
    ----------
    contract
        Identity of the embeddings; "" where the table gives the clusters.
    pictures, faceless, unreadable
        Pictures of the table, those without a face, and those that cannot be read. Each of them is a cluster alone.
    people, clusters
        How many there are, and how many were found.
    method, threshold, threshold_from
        How clusters were made, the cosine they were made at, and where it comes from.
    bcubed_precision, bcubed_recall, bcubed_f, bcubed_low, bcubed_high
        Means over pictures; F with its interval, people redrawn and clusters left as they are.
    pairwise_precision, pairwise_recall, pairwise_f
        Of pairs of pictures.
    nmi, ari
        Normalised mutual information, adjusted Rand index.
    curve
        BCubed figures by threshold; None where the table gives the clusters. The best of them is chosen with the
        answers in sight and no figure to report.
    report
        The page that was written.
    """

    contract: str
    pictures: int
    faceless: int
    unreadable: int
    people: int
    clusters: int
    method: str
    threshold: float | None
    threshold_from: str
    bcubed_precision: float
    bcubed_recall: float
    bcubed_f: float
    bcubed_low: float
    bcubed_high: float
    pairwise_precision: float
    pairwise_recall: float
    pairwise_f: float
    nmi: float
    ari: float
    curve: ClusteringCurve | None = None
    report: str = ""


def clustering(
    *,
    labels: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    embeddings: str | os.PathLike[str] | None = None,
    method: str = "average",
    cluster_threshold: float | None = None,
    fmr: float = 1e-3,
    choose: str = "largest",
    pad: float = 0.0,
    threshold: float | None = None,
    size: int = 640,
    weights: str = "mien-embedder",
    detector: str = "mien-detector",
    landmarks: str = "mien-landmarks",
    device: str = "auto",
    backend: str = "torch",
    batch_size: int = 8,
    repeats: int = 1000,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    plots: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> ClusteringEvaluation:
    """Measures how well pictures fall into people: BCubed and pairwise F, NMI and ARI (extra ``evaluate``).

    Parameters
    ----------
    labels
        CSV file with the columns file,identity. With a column cluster, these clusters are judged and no picture is
        looked at; -1 there marks pictures that are left over.
    images
        Folder that the file names are relative to. Default: the folder of the table.
    embeddings
        File of embeddings (`.npz` or `.parquet`, as ``mien embed --out`` writes it) that is read instead of the
        pictures.
    method
        "average": clusters are joined while their mean cosine reaches the threshold. "connected": pictures that a chain
        of pairs at or above it connects are one cluster.
    cluster_threshold
        Cosine for that. Default: the one calibrated for `fmr`.
    fmr
        False match rate whose threshold is taken.
    choose
        Which face counts where a picture shows several: "largest", "central" or "surest".
    pad
        Grey border that the detector sees around every picture, as a share of its long side.
    threshold
        Least score of a face, 0 to 1. Default: the one declared with the weights.
    size
        Long side in pixels at which pictures are looked at.
    weights
        Name of the embedder's weights.
    detector
        Name of the detector's weights.
    landmarks
        Name of the landmark network's weights.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    backend
        "torch" or "onnx" (extra ``onnx``).
    batch_size
        Pictures that are looked at together.
    repeats
        Of the bootstrap, which redraws people.
    seed
        Of the bootstrap.
    out
        CSV file that receives file, identity, cluster, and BCubed precision and recall of every picture.
    report
        HTML file that receives figures, plots and the protocol, all in one.
    plots
        Folder that receives the plots as SVG and PNG.
    progress
        Called as ``progress(done, total, what)`` after every batch.

    Returns
    -------
    ClusteringEvaluation

    Raises
    ------
    MediaNotFound, TableError
        The table cannot be used, or there is no such folder.
    OptionError
        No threshold is calibrated for these embeddings and none is given, or too many pictures for the method.
    """
    check_bootstrap(repeats, {"the false match rate": fmr})
    choice("method", method, METHODS)
    _report.check_drawable(report, plots)
    table = Path(labels)
    given = "cluster" in _pairs.header_of(table)
    plan = Plan(
        detector=detector, landmarks=landmarks, embedder=weights, threshold=threshold, size=size, pad=pad,
        device=device, backend=backend, batch_size=batch_size,
    )  # fmt: skip
    exist = embeddings is None and not given
    listed = _embedded.read_listed(table, images, exist=exist, more=("cluster",))
    if len(listed.names) < len(listed):
        raise TableError(f"a picture of {table.name} has several rows", expected="one row a picture")
    identities = listed.identity
    contract, level, source, curve = "", cluster_threshold, "the table", None
    faceless = unreadable = 0
    failures = tuple[Failure, ...]()
    if given:
        found = _clusters_of_table(listed.columns["cluster"])
        about = "clusters as the table has them"
    else:
        embedded = _embedded.embed_pictures(
            listed.names, listed.files, plan, embeddings=embeddings, choose=choose, progress=progress
        )
        contract, faceless, unreadable = embedded.contract, embedded.faceless, embedded.unreadable
        failures = embedded.failures
        source = "cluster_threshold"
        if level is None:
            level, source = _calibrated(weights, contract, fmr)
        tree = _Tree(embedded.embeddings[embedded.there], method, device)
        found = _spread(tree.cut(level), embedded.there)
        if tree.links is not None:
            curve = _curve(identities, [_spread(tree.cut(one), embedded.there) for one in SWEEP])
        sources = (
            ("detector", detector),
            ("landmarks", landmarks),
            ("embedder", weights),
            ("size", size),
            ("pad", pad),
        )
        about = _report.networks(contract, embeddings, sources)
    by_picture, by_pair = metrics.bcubed(identities, found), metrics.pairwise(identities, found)
    interval = metrics.bcubed_interval(identities, found, repeats=repeats, seed=seed)
    if out is not None:
        _write(out, listed, found)
    result = ClusteringEvaluation(
        measured_on=table.name,
        date=today(),
        failures=failures,
        contract=contract,
        pictures=len(listed),
        faceless=faceless,
        unreadable=unreadable,
        people=len(np.unique(identities)),
        clusters=len(np.unique(found)),
        method="table" if given else method,
        threshold=level,
        threshold_from=source,
        bcubed_precision=by_picture.precision,
        bcubed_recall=by_picture.recall,
        bcubed_f=by_picture.f,
        bcubed_low=interval.low,
        bcubed_high=interval.high,
        pairwise_precision=by_pair.precision,
        pairwise_recall=by_pair.recall,
        pairwise_f=by_pair.f,
        nmi=metrics.nmi(identities, found),
        ari=metrics.ari(identities, found),
        curve=curve,
        report="" if report is None else str(report),
    )
    if report is not None or plots is not None:
        _report.write(_page(result, identities, found, about, repeats), result, page=report, plots=plots)
    return result


def _calibrated(weights: str, contract: str, fmr: float) -> tuple[float, str]:
    """The threshold for a false match rate that comes with the embedder of these embeddings."""
    table = bundled_calibration(weights)
    if table.contract != contract:
        raise OptionError(
            "no threshold is known for these embeddings", got=f"contract {contract or 'unknown'}",
            expected=f"that of {weights}: {table.contract}", hint="give --cluster-threshold, or the right --weights",
        )  # fmt: skip
    return table.threshold_at(fmr), f"false match rate {fmr:g} on {table.set}"


def _clusters_of_table(column: NDArray[np.str_]) -> NDArray[np.intp]:
    """Numbers of the clusters (n,); "-1" and empty cells are pictures alone."""
    return metrics.singletons(np.where(column == "", "-1", column), "-1")


def _spread(clusters: NDArray[np.intp], there: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Clusters of all pictures: those without a face are alone."""
    found = np.full(len(there), -1, np.intp)
    found[there] = clusters
    return metrics.singletons(found)


class _Tree:
    """A clustering that can be cut at any threshold, where it holds all distances; otherwise made anew at each."""

    def __init__(self, vectors: NDArray[np.float32], method: str, device: str) -> None:
        self.vectors, self.links = vectors, None
        if len(vectors) > MOST:
            if method == "average":
                raise OptionError(
                    "too many pictures for average linkage, which holds all distances",
                    got=f"{len(vectors):,}", expected=f"at most {MOST:,}", hint="take --method connected",
                )  # fmt: skip
            return
        if len(vectors) > 1:
            from scipy.cluster.hierarchy import linkage
            from scipy.spatial.distance import pdist

            apart = np.maximum(pdist(vectors.astype(np.float64), "sqeuclidean") / 2, 0)  # 1 - cosine of unit vectors
            self.links = linkage(apart, "average" if method == "average" else "single")

    def cut(self, threshold: float) -> NDArray[np.intp]:
        """Cluster (n,) of each vector."""
        if len(self.vectors) < 2:
            return np.zeros(len(self.vectors), np.intp)
        if self.links is None:
            return _connected(self.vectors, threshold)
        from scipy.cluster.hierarchy import fcluster

        # A pair at the threshold itself is joined, as a pair at it is called the same.
        return np.asarray(fcluster(self.links, 1 - threshold + 1e-9, "distance"), np.intp)


def _connected(vectors: NDArray[np.float32], threshold: float) -> NDArray[np.intp]:
    """Components (n,) of the graph of pairs at or above the threshold; cosines are made and dropped by blocks."""
    import torch
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows = torch.from_numpy(np.ascontiguousarray(vectors))
    left, right = [], []
    for start in range(0, len(rows), ROWS):
        near = torch.nonzero(rows[start : start + ROWS] @ rows[start:].T >= threshold).numpy() + start
        left.append(near[:, 0])
        right.append(near[:, 1])
    ends = np.concatenate(left), np.concatenate(right)
    graph = coo_matrix((np.ones(len(ends[0]), np.bool_), ends), shape=(len(rows), len(rows)))
    return np.asarray(connected_components(graph, directed=False)[1], np.intp)


def _curve(identities: NDArray[np.str_], clusters: list[NDArray[np.intp]]) -> ClusteringCurve:
    told = [metrics.bcubed(identities, found) for found in clusters]
    return ClusteringCurve(
        SWEEP,
        tuple(one.f for one in told),
        tuple(one.precision for one in told),
        tuple(one.recall for one in told),
        tuple(len(np.unique(found)) for found in clusters),
    )


def _write(path: str | os.PathLike[str], listed: _embedded.Listed, clusters: NDArray[np.intp]) -> None:
    precision, recall = metrics.bcubed_of_each(listed.identity, clusters)
    with _output.whole_file(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file", "identity", "cluster", "precision", "recall"])
        for row, picture in enumerate(listed.picture):
            shares = f"{precision[row]:.4f}", f"{recall[row]:.4f}"
            table.writerow([listed.names[picture], listed.identity[row], clusters[row], *shares])


def _page(
    result: ClusteringEvaluation,
    identities: NDArray[np.str_],
    clusters: NDArray[np.intp],
    source: str,
    repeats: int,
) -> _report.Report:
    from mien.media import plots

    percent = _report.percent
    tiles = [
        (percent(result.bcubed_f), f"BCubed F, {_report.span(result.bcubed_low, result.bcubed_high)}"),
        (percent(result.pairwise_f), "pairwise F"),
        (f"{result.clusters:,}", f"clusters of {result.people:,} people, {result.pictures:,} pictures"),
    ]
    drawings = list[_report.Plot]()
    if result.curve is not None:
        at = result.curve.threshold
        shares = {"F": result.curve.f, "precision": result.curve.precision, "recall": result.curve.recall}
        drawings.append(
            _report.Plot(
                "threshold", "BCubed by threshold",
                "The dashed line is the threshold that was taken; the best one is known only to who knows the answers.",
                plots.against_threshold(
                    {name: (at, share) for name, share in shares.items()}, threshold=result.threshold, label="cosine"
                ),
            )
        )  # fmt: skip
    drawings.append(
        _report.Plot(
            "sizes", "Sizes", "How many people, and how many clusters, have so many pictures or more.",
            plots.sizes(
                {
                    "people": np.unique(identities, return_counts=True)[1],
                    "clusters": np.unique(clusters, return_counts=True)[1],
                }
            ),
        )
    )  # fmt: skip
    tables = [
        _report.Table(
            "Figures", ("figure", "precision", "recall", "F"),
            [
                ("BCubed", percent(result.bcubed_precision), percent(result.bcubed_recall), percent(result.bcubed_f)),
                (
                    "pairwise", percent(result.pairwise_precision), percent(result.pairwise_recall),
                    percent(result.pairwise_f),
                ),
            ],
            f"Normalised mutual information {result.nmi:.4f}, adjusted Rand index {result.ari:.4f}.",
        )
    ]  # fmt: skip
    how = {
        "average": "average linkage: clusters are joined while their mean cosine reaches the threshold",
        "connected": "pictures that a chain of pairs at or above the threshold connects are one cluster",
        "table": "as the table has them",
    }[result.method]
    protocol = {
        "Clusters": how,
        "Threshold": "" if result.threshold is None else f"{result.threshold:.4f}, {result.threshold_from}",
        "Pictures": _report.acquired(result.pictures, result.faceless, result.unreadable)
        + "; each without a face is a cluster alone",
        "BCubed": "for each picture the share of its cluster that shows its person, and the share of its person's "
        "pictures in its cluster; means over pictures (Bagga and Baldwin, 1998)",
        "Intervals": f"95 % bootstrap, {repeats:,} repeats; redrawn are people with their pictures, clusters stay",
        "Embeddings": source,
        "Date": result.date,
    }
    return _report.Report(
        title="Clustering",
        lead=f"Are the pictures of a person together? {result.pictures:,} pictures of {result.measured_on}.",
        tiles=tiles, protocol=protocol, plots=drawings, tables=tables,
        command=f"mien evaluate clustering --labels {result.measured_on}",
    )  # fmt: skip
