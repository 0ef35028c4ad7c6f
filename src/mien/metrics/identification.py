"""One-to-many search: is the right person found, and is nobody found who is not there?

Names and definitions of ISO/IEC 19795-1. A search with somebody who is in the gallery is *mated*, one with a stranger
is *non-mated*. A search returns candidates, best score first, and those with ``score >= threshold`` are shown.

* FNIR, false negative identification rate: mated searches whose mate is not among the first `rank` candidates, or
  scores below the threshold. TPIR, DIR (detection and identification rate) in papers, is 1 - FNIR.
* FPIR, false positive identification rate: non-mated searches that show any candidate.
* CMC, cumulative match characteristic: 1 - FNIR by rank, without a threshold (closed set).

A person who is enrolled several times scores the best of it, and counts as one candidate. Equal scores count against
the mate, so that a network that gives everything the same score finds nobody.

Intervals redraw the people who are searched for, with all their searches, since searches for one person are alike; the
gallery stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import ShapeError, ValueRangeError
from mien.geometry.checks import Bools, Double, Ints, floats, labels, number, same_length
from mien.metrics.bootstrap import Interval, bootstrap, counts, percentile_interval
from mien.metrics.streaming import unit_rows
from mien.metrics.verification import _accepted, _needed

SEARCH_SCORES = 8_000_000
"""Scores that are held at a time: 32 MB."""

USUAL_FPIRS = (1e-1, 1e-2, 1e-3, 1e-4)
"""The false positive identification rates that FNIR is given at, as far as the non-mated searches reach."""


@dataclass(frozen=True, slots=True)
class OpenSetPoint:
    """A threshold of an open-set search, and the errors it makes.

    Parameters
    ----------
    fpir
        The false positive identification rate that was asked for.
    rank
        The mate must be among so many candidates.
    threshold, fnir
        With their intervals.
    measured_fpir, false_positives
        Non-mated searches that show a candidate.
    """

    fpir: float
    rank: int
    threshold: Interval
    fnir: Interval
    measured_fpir: float
    false_positives: int


@dataclass(frozen=True, slots=True)
class Searches:
    """What came of all searches: everything that the figures below are made from.

    Parameters
    ----------
    mated : (p,)
        Whether the person is in the gallery.
    rank : (p,)
        Place of the mate among the candidates, from 1; 0 for non-mated searches.
    score : (p,)
        Of the mate; -inf for non-mated searches.
    best : (p,)
        The highest score of anybody else (of anybody, for non-mated searches); -inf where there is nobody else.
    person : (p,)
        Who was searched for, as numbers: what intervals redraw.
    people
        People in the gallery.
    """

    mated: Bools
    rank: Ints
    score: NDArray[np.float32]
    best: NDArray[np.float32]
    person: Ints
    people: int

    def __len__(self) -> int:
        return len(self.mated)

    def cmc(self, ranks: int = 50) -> Double:
        """Share (ranks,) of mated searches whose mate is among the first 1, 2, … candidates.

        Raises
        ------
        ValueRangeError
            There is no mated search.
        """
        self._need(self.mated, "mated")
        depth = min(ranks, self.people)
        found = np.bincount(self.rank[self.mated].clip(max=depth + 1), minlength=depth + 2)
        return np.asarray(np.cumsum(found[1 : depth + 1]) / self.mated.sum())

    def rank_interval(self, rank: int = 1, *, repeats: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
        """The share of mated searches whose mate is among the first `rank` candidates, people redrawn."""
        self._need(self.mated, "mated")
        hit = (self.rank[self.mated] <= rank).astype(np.float64)

        def share(drawn: NDArray[Any]) -> Double:
            with np.errstate(invalid="ignore"):
                return np.asarray(drawn @ hit / drawn.sum(1))

        return bootstrap(share, len(hit), people=self.person[self.mated], repeats=repeats, level=level, seed=seed)

    def threshold_at_fpir(self, fpir: float) -> float:
        """The lowest threshold, as float32, at which at most this share of non-mated searches shows a candidate.

        Raises
        ------
        ValueRangeError
            Fewer non-mated searches than ``1 / fpir``, which could not contain one that does.
        """
        strangers = self.best[~self.mated]
        allowed = self._allowed(fpir)
        if allowed == len(strangers):
            # Everything is shown; who has no face, and so no score, cannot be.
            every = np.concatenate([strangers, self.score[self.mated]])
            return float(every[np.isfinite(every)].min(initial=1.0))
        refused = np.partition(strangers, len(strangers) - 1 - allowed)[len(strangers) - 1 - allowed]
        return float(np.nextafter(refused, np.float32(np.inf)))

    def fnir_at(self, threshold: float, rank: int = 1) -> float:
        """FNIR at a threshold and a rank."""
        self._need(self.mated, "mated")
        return float(self._missed(rank, threshold)[self.mated].mean())

    def fpir_at(self, threshold: float) -> float:
        """FPIR at a threshold."""
        self._need(~self.mated, "non-mated")
        return float((self.best[~self.mated] >= threshold).mean())

    def dir_curve(self, rank: int = 1) -> tuple[Double, Double, Double]:
        """FPIR (m,), rising from 0, with FNIR (m,) there and the thresholds (m,), falling from infinity."""
        self._need(self.mated, "mated")
        self._need(~self.mated, "non-mated")
        every = int((~self.mated).sum())
        strangers = np.sort(self.best[~self.mated])[::-1]
        # Searches without a face show nobody at any threshold, and so FPIR may end below 1.
        strangers = strangers[np.isfinite(strangers)]
        # A mate behind the rank is missed at every threshold.
        found = np.sort(np.where(self.rank <= rank, self.score, -np.inf)[self.mated])
        ends = np.flatnonzero(np.append(strangers[1:] != strangers[:-1], True)) if len(strangers) else np.zeros(0, int)
        thresholds = strangers[ends]
        fpir = np.concatenate([[0.0], (ends + 1) / every])
        # Just above the best stranger nobody is shown, and that is the best FNIR without a false positive.
        start = np.searchsorted(found, strangers[0] if len(strangers) else -2, "right") / len(found)
        fnir = np.concatenate([[start], np.searchsorted(found, thresholds, "left") / len(found)])
        return fpir, fnir, np.concatenate([[np.inf], thresholds.astype(np.float64)])

    def at_fpir(
        self, fpir: float, rank: int = 1, *, repeats: int = 1000, level: float = 0.95, seed: int = 0
    ) -> OpenSetPoint:
        """FNIR at a false positive identification rate, people redrawn; errors as `threshold_at_fpir`."""
        self._need(self.mated, "mated")
        threshold = self.threshold_at_fpir(fpir)
        showing = int((self.best[~self.mated] >= threshold).sum())
        strangers, mates = np.flatnonzero(~self.mated), np.flatnonzero(self.mated)
        falling = strangers[np.argsort(-self.best[strangers], kind="stable")]
        refused = np.append(np.nextafter(self.best[falling], np.float32(np.inf)), self.threshold_at_fpir(1))
        # A mate behind the rank is missed at every threshold.
        usable = np.where(self.rank[mates] <= rank, self.score[mates], -np.inf)
        rising = np.argsort(usable, kind="stable")
        thresholds, fnirs = [], []
        for drawn in counts(len(self), people=self.person, repeats=repeats, seed=seed):
            shown = np.cumsum(drawn[:, falling], axis=1)
            levels = refused[(shown <= (shown[:, -1] * fpir * (1 + 1e-12))[:, None]).sum(1)]
            missed = np.pad(np.cumsum(drawn[:, mates[rising]], axis=1), ((0, 0), (1, 0)))
            below = np.searchsorted(usable[rising], levels, "left")
            undefined = shown[:, -1] == 0
            with np.errstate(invalid="ignore"):
                share = missed[np.arange(len(drawn)), below] / missed[:, -1]
            thresholds.append(np.where(undefined, np.nan, levels))
            fnirs.append(np.where(undefined, np.nan, share))
        return OpenSetPoint(
            fpir=float(fpir),
            rank=rank,
            threshold=percentile_interval(threshold, np.concatenate(thresholds), level=level),
            fnir=percentile_interval(self.fnir_at(threshold, rank), np.concatenate(fnirs), level=level),
            measured_fpir=showing / len(strangers),
            false_positives=showing,
        )

    def usable_fpirs(self, fpirs: Sequence[float] = USUAL_FPIRS) -> tuple[float, ...]:
        """Those of `fpirs` that the non-mated searches can measure, falling."""
        strangers = int((~self.mated).sum())
        return tuple(sorted((f for f in set(fpirs) if _accepted(strangers, f) >= 1), reverse=True))

    def _missed(self, rank: int, threshold: float) -> Bools:
        return (self.rank > rank) | (self.score < np.float32(threshold))

    def _allowed(self, fpir: float) -> int:
        fpir = number("fpir", fpir, 0, 1, open_low=True)
        self._need(~self.mated, "non-mated")
        strangers = int((~self.mated).sum())
        allowed = _accepted(strangers, fpir)
        if allowed < 1:
            raise ValueRangeError(
                f"too few non-mated searches to measure a false positive identification rate of {fpir:g}",
                got=f"{strangers:,}",
                expected=f"at least {_needed(1, fpir):,}, better {_needed(30, fpir):,} for a rate within 30 %",
                hint=f"search with more people who are not in the gallery, or ask for at least 1/{strangers}",
            )
        return allowed

    def _need(self, some: Bools, kind: str) -> None:
        if not some.any():
            raise ValueRangeError(
                f"there is no {kind} search",
                got=f"{int(self.mated.sum())} mated and {int((~self.mated).sum())} non-mated searches",
                hint="search with people who are in the gallery and with people who are not",
            )


def search(
    probes: ArrayLike,
    probe_identities: ArrayLike,
    gallery: ArrayLike,
    gallery_identities: ArrayLike,
    *,
    device: str = "cpu",
) -> Searches:
    """Searches a gallery with every probe; memory does not grow with their product.

    Parameters
    ----------
    probes : (p, d)
        Faces or pooled templates that are searched with; of any length above zero.
    probe_identities : (p,)
        Who they are. Whoever is not in the gallery makes a non-mated search.
    gallery : (g, d)
        Who can be found; several rows of a person count by the best of them.
    gallery_identities : (g,)
        Who they are.
    device
        "cpu" or "cuda", for the products.

    Raises
    ------
    ShapeError, DtypeError, ValueRangeError
        Arrays that do not fit together, rows without a direction, or no row at all.
    """
    import torch

    rows, stored = floats("probes", probes, "p d"), floats("gallery", gallery, "g d")
    if rows.shape[1] != stored.shape[1]:
        raise ShapeError("probes and gallery have embeddings of different length", got=(rows.shape, stored.shape))
    if not len(rows) or not len(stored):
        raise ValueRangeError("there is nothing to search", got=f"{len(rows)} probes, {len(stored)} in the gallery")
    who, whose = np.asarray(probe_identities), np.asarray(gallery_identities)
    same_length(probes=rows, probe_identities=who)
    same_length(gallery=stored, gallery_identities=whose)
    names, codes = labels("identities", np.concatenate([who, whose]), "n")
    own, enrolled = codes[: len(who)], codes[len(who) :]
    order = np.argsort(enrolled, kind="stable")
    people, starts = np.unique(enrolled[order], return_index=True)
    column = np.full(len(names), -1)
    column[people] = np.arange(len(people))
    mate = column[own]

    left = torch.from_numpy(unit_rows("probes", rows)).to(device)
    right = torch.from_numpy(unit_rows("gallery", stored)[order]).to(device).T
    alone = len(people) == len(enrolled)
    rank, score = np.zeros(len(rows), np.intp), np.full(len(rows), -np.inf, np.float32)
    best = np.full(len(rows), -np.inf, np.float32)
    step = max(1, SEARCH_SCORES // len(stored))
    for start in range(0, len(rows), step):
        part = slice(start, min(start + step, len(rows)))
        scores = (left[part] @ right).clamp_(-1, 1).cpu().numpy()
        if not alone:
            scores = np.maximum.reduceat(scores, starts, axis=1)
        known = np.flatnonzero(mate[part] >= 0)
        at = mate[part][known]
        mine = scores[known, at]
        # Equal ones stand before the mate; the mate itself is one of them.
        rank[start + known] = (scores[known] >= mine[:, None]).sum(1)
        score[start + known] = mine
        scores[known, at] = -np.inf
        best[part] = scores.max(1)
    return Searches(mate >= 0, rank, score, best, own, len(people))


def mean_over_galleries(values: Sequence[float]) -> float:
    """The mean of a figure over galleries, as IJB-B and IJB-C give one figure for G1 and G2; NaN for none."""
    return float(np.mean(values)) if len(values) and not any(math.isnan(v) for v in values) else math.nan
