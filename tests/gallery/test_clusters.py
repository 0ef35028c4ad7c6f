"""Groups of faces: those of average linkage over all pairs, without the pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mien import metrics
from mien.errors import OptionError
from mien.gallery import clusters
from mien.gallery.clusters import cluster_faces, neighbour_pairs


def crowd(people: int, pictures: int, *, noise: float, seed: int = 0, dim: int = 32) -> tuple[Any, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(people, dim))
    who = np.repeat(np.arange(people), pictures)
    order = rng.permutation(len(who))
    return (middle[who] + noise * rng.normal(size=(len(who), dim)))[order], who[order]


def same_partition(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return bool(metrics.pairwise(a, b).f == 1)


@pytest.mark.parametrize("noise", [0.4, 0.9, 1.4])
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7])
def test_average_linkage_is_that_of_scipy(noise: float, threshold: float) -> None:
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist

    x, _ = crowd(25, 8, noise=noise)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    wanted = fcluster(linkage(pdist(unit, "sqeuclidean") / 2, "average"), 1 - threshold, "distance")
    assert same_partition(cluster_faces(x, threshold, neighbours=len(x)), wanted)


def test_connected_is_the_closure_of_pairs() -> None:
    x, _ = crowd(20, 6, noise=0.9)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    near = unit @ unit.T >= 0.6
    reach = near.copy()
    for _ in range(8):
        reach = reach @ reach
    wanted = [int(np.flatnonzero(row)[0]) for row in reach]
    assert same_partition(cluster_faces(x, 0.6, method="connected", neighbours=len(x)), np.array(wanted))


def test_numbers_fall_with_size() -> None:
    x = np.eye(4)[[3, 0, 1, 1, 2, 2, 2]] + 0.001
    assert cluster_faces(x, 0.9).tolist() == [2, 3, 1, 1, 0, 0, 0]


def test_nothing_and_one() -> None:
    assert cluster_faces(np.zeros((0, 8)), 0.5).tolist() == []
    assert cluster_faces(np.ones((1, 8)), 0.5).tolist() == [0]


def test_an_index_finds_the_same_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = crowd(60, 10, noise=0.6)
    unit = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    left, right, cosines = neighbour_pairs(unit, 0.5, 20)
    assert (left < right).all()
    np.testing.assert_allclose(cosines, np.einsum("nd,nd->n", unit[left], unit[right]), atol=1e-5)
    monkeypatch.setattr(clusters, "EXACT", 10)
    by_index = neighbour_pairs(unit, 0.5, 20)
    exact, found = ({*zip(a.tolist(), b.tolist(), strict=True)} for a, b in ((left, right), by_index[:2]))
    assert len(exact & found) > 0.97 * len(exact)
    assert same_partition(cluster_faces(x, 0.5, neighbours=20), cluster_faces(x, 0.5, neighbours=60))


def test_people_are_found() -> None:
    x, who = crowd(100, 7, noise=0.5)
    assert metrics.bcubed(who, cluster_faces(x, 0.55)).f > 0.99


@pytest.mark.parametrize("options", [{"method": "single"}, {"threshold": 2.0}])
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        cluster_faces(np.eye(3), **{"threshold": 0.5, **options})


@pytest.mark.slow
def test_a_hundred_thousand_faces() -> None:
    x, who = crowd(10_000, 10, noise=0.55, dim=64)
    assert metrics.bcubed(who, cluster_faces(x, 0.5)).f > 0.98
