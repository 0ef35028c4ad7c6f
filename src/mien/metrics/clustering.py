"""Clustering: are the pictures of a person together, and nobody else's with them?

* Pairwise: of every two pictures in one cluster, how many are of one person (precision); of every two of one person,
  how many are in one cluster (recall). Large clusters weigh by the square of their size.
* BCubed (Bagga and Baldwin, 1998): for each picture, the share of its cluster that shows its person (precision), and
  the share of its person's pictures that is in its cluster (recall), then the mean over pictures. F is the harmonic
  mean, as face clustering is commonly judged (Otto, Wang, Jain, PAMI 40(2), 2018).
* NMI and ARI: information that clusters and people share, and agreement of pairs beyond chance (scikit-learn).

Everything takes a person and a cluster for each of n pictures, as names or numbers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import MissingExtra, ValueRangeError
from mien.geometry.checks import Double, Ints, labels, same_length
from mien.metrics.bootstrap import Interval, bootstrap


@dataclass(frozen=True, slots=True)
class PrecisionRecall:
    """Precision, recall, and their harmonic mean, all 0 to 1. Precision of no pair is 1, and so is recall."""

    precision: float
    recall: float
    f: float

    def to_dict(self) -> dict[str, float]:
        """The fields, for JSON."""
        return asdict(self)


def pairwise(identities: ArrayLike, clusters: ArrayLike) -> PrecisionRecall:
    """Precision, recall and F of pairs of pictures. Exact in integers, without listing the pairs."""
    table = _contingency(identities, clusters)
    together = _pairs(table.cells).sum()
    return _rates(_share(together, _pairs(table.clusters).sum()), _share(together, _pairs(table.people).sum()))


def bcubed(identities: ArrayLike, clusters: ArrayLike) -> PrecisionRecall:
    """BCubed precision, recall and F: means over pictures."""
    precision, recall = bcubed_of_each(identities, clusters)
    return _rates(float(precision.mean()), float(recall.mean()))


def bcubed_of_each(identities: ArrayLike, clusters: ArrayLike) -> tuple[Double, Double]:
    """BCubed precision (n,) and recall (n,) of each picture; the least show which pictures lie wrong."""
    table = _contingency(identities, clusters)
    together = table.cells[table.cell]
    return together / table.clusters[table.cluster], together / table.people[table.person]


def bcubed_interval(
    identities: ArrayLike,
    clusters: ArrayLike,
    *,
    repeats: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """BCubed F with its bootstrap interval, people redrawn with all their pictures.

    The clusters stay what they are: the interval tells how the figure depends on who happened to be in the set, not
    how the clustering would have come out among others.
    """
    precision, recall = bcubed_of_each(identities, clusters)

    def statistic(drawn: NDArray[Any]) -> Double:
        with np.errstate(invalid="ignore"):
            p, r = drawn @ precision / drawn.sum(1), drawn @ recall / drawn.sum(1)
        return np.asarray(2 * p * r / (p + r))

    return bootstrap(statistic, len(precision), people=np.asarray(identities), repeats=repeats, level=level, seed=seed)


def nmi(identities: ArrayLike, clusters: ArrayLike) -> float:
    """Normalised mutual information, 0 to 1, by the arithmetic mean of the entropies (extra ``evaluate``)."""
    table = _contingency(identities, clusters)
    return float(_sklearn().normalized_mutual_info_score(table.person, table.cluster))


def ari(identities: ArrayLike, clusters: ArrayLike) -> float:
    """Adjusted Rand index: 1 for the same partition, about 0 for chance (extra ``evaluate``)."""
    table = _contingency(identities, clusters)
    return float(_sklearn().adjusted_rand_score(table.person, table.cluster))


def singletons(clusters: ArrayLike, noise: Any = -1) -> Ints:
    """Clusters (n,) as numbers, with every picture that a method left over (label `noise`) alone in one of its own.

    DBSCAN and its kin mark what they leave over by -1; taken as a cluster, it would be the worst of all.
    """
    given = np.asarray(clusters)
    names, codes = labels("clusters", given, "n")
    left = given == noise
    codes = codes.copy()
    codes[left] = len(names) + np.arange(int(left.sum()))
    return codes


@dataclass(frozen=True, slots=True)
class _Contingency:
    """Numbers of person, cluster and cell of each picture (n,), and the sizes of all three."""

    person: Ints
    cluster: Ints
    cell: Ints
    people: Ints
    clusters: Ints
    cells: Ints


def _contingency(identities: ArrayLike, clusters: ArrayLike) -> _Contingency:
    """The cells that are not empty, at most n, whatever the number of people and clusters."""
    people, person = labels("identities", identities, "n")
    groups, cluster = labels("clusters", clusters, "n")
    same_length(identities=person, clusters=cluster)
    if not len(person):
        raise ValueRangeError("there is nothing to judge", got="0 pictures", expected="at least 1")
    keys, cell = np.unique(person * len(groups) + cluster, return_inverse=True)
    return _Contingency(
        person, cluster, cell.reshape(-1).astype(np.intp),
        np.bincount(person, minlength=len(people)), np.bincount(cluster, minlength=len(groups)),
        np.bincount(cell.reshape(-1), minlength=len(keys)),
    )  # fmt: skip


def _pairs(sizes: Ints) -> Ints:
    return sizes * (sizes - 1) // 2


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else 1.0


def _rates(precision: float, recall: float) -> PrecisionRecall:
    total = precision + recall
    return PrecisionRecall(precision, recall, 2 * precision * recall / total if total else 0.0)


def _sklearn() -> Any:
    try:
        from sklearn import metrics
    except ImportError as error:
        raise MissingExtra("scikit-learn", extra="evaluate") from error
    return metrics
