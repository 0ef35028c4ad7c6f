"""``evaluate identification``: is the right person found in a gallery, and nobody who is not there?"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mien import metrics
from mien.errors import OptionError, TableError
from mien.verbs import _output
from mien.verbs._pipeline import Plan, Progress
from mien.verbs.evaluate import _embedded, _report
from mien.verbs.evaluate._common import Evaluation, check_bootstrap, today

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOWHERE = np.iinfo(np.int32).max
"""Rank of a mate that no search can find, for want of a face on either side."""

DEPTH = 50
"""Ranks that CMC curves are given for."""


@dataclass(frozen=True)
class RankRate:
    """How often the mate is among the first candidates, of mated searches.

    Parameters
    ----------
    rank
        Among so many.
    rate, low, high
        The share, with its interval; over several galleries the mean, without one.
    """

    rank: int
    rate: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class MissedAtRate:
    """FNIR at a false positive identification rate.

    Parameters
    ----------
    fpir
        The rate that the threshold is for.
    threshold, threshold_low, threshold_high
        Cosine with its interval; over several galleries the mean, without one.
    fnir, fnir_low, fnir_high
        Share of mated searches whose mate is not the first candidate, or below the threshold.
    false_positives
        Non-mated searches that show a candidate.
    """

    fpir: float
    threshold: float
    fnir: float
    false_positives: int
    threshold_low: float | None = None
    threshold_high: float | None = None
    fnir_low: float | None = None
    fnir_high: float | None = None


@dataclass(frozen=True)
class GallerySearched:
    """What came of the searches in one gallery.

    Parameters
    ----------
    gallery
        Its name; "" where the table names none.
    people, templates
        Enrolled people, and their pictures or templates.
    not_enrolled
        People of the table without a face: searches for them are misses.
    mated, non_mated
        Searches for people who are in the table of the gallery, and for others.
    ranks, at_fpir
        Closed set, and open set.
    cmc
        Share found among the first 1, 2, … 50 candidates.
    """

    gallery: str
    people: int
    templates: int
    not_enrolled: int
    mated: int
    non_mated: int
    ranks: tuple[RankRate, ...]
    at_fpir: tuple[MissedAtRate, ...]
    cmc: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class IdentificationEvaluation(Evaluation):
    """How well people are found in a gallery.

    Parameters
    ----------
    contract
        Identity of the embeddings.
    pictures, faceless, unreadable
        Pictures that both tables name, those without a face, and those that cannot be read.
    searches, failed_searches
        Probes (pictures or templates), and those without a face. Such a one finds nobody: it is a miss for somebody who
        is enrolled, and no false positive for a stranger.
    templates
        Whether pictures were pooled to templates.
    ranks, at_fpir
        Over galleries; the open-set figures are empty without searches for strangers.
    galleries
        One by one.
    redrawn
        What intervals redraw.
    report
        The page that was written.
    """

    contract: str
    pictures: int
    faceless: int
    unreadable: int
    searches: int
    failed_searches: int
    templates: bool
    ranks: tuple[RankRate, ...]
    at_fpir: tuple[MissedAtRate, ...]
    galleries: tuple[GallerySearched, ...]
    redrawn: str = "people who are searched for"
    report: str = ""


def identification(
    *,
    gallery: str | os.PathLike[str],
    probes: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    embeddings: str | os.PathLike[str] | None = None,
    weigh: str = "equal",
    ranks: Iterable[int] = (1, 5, 10, 20),
    fpirs: Iterable[float] = (1e-1, 1e-2, 1e-3, 1e-4),
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
) -> IdentificationEvaluation:
    """Measures search in a gallery: rank rates of people who are in it, and open-set errors where others search too.

    Parameters
    ----------
    gallery
        CSV file with the columns file,identity and, if any, template,media,gallery. Pictures of one template are
        pooled; without templates a person counts by the best of the pictures. Names in the column gallery (G1 and G2
        in IJB-B and IJB-C) are searched apart and must not share people.
    probes
        CSV file with the columns file,identity and, if any, template,media. Whoever is not in the gallery is searched
        for as a stranger.
    images
        Folder that the file names are relative to. Default: the folder of the gallery's table.
    embeddings
        File of embeddings (`.npz` or `.parquet`, as ``mien embed --out`` writes it) that is read instead of the
        pictures.
    weigh
        How faces of a template are weighted: "equal", "quality", "score" (of the detector) or "norm" (length of
        embeddings that come from a file).
    ranks
        Numbers of candidates that the mate is looked for among.
    fpirs
        False positive identification rates at which FNIR is given; those too small for the number of searches with
        strangers are left out.
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
        Of the bootstrap, which redraws the people who are searched for.
    seed
        Of the bootstrap.
    out
        CSV file that receives every search: probe, identity, gallery, mated, rank and score of the mate, best other
        score.
    report
        HTML file that receives figures, plots and the protocol, all in one (extra ``evaluate``).
    plots
        Folder that receives the plots as SVG and PNG (extra ``evaluate``).
    progress
        Called as ``progress(done, total, what)`` after every batch.

    Returns
    -------
    IdentificationEvaluation

    Raises
    ------
    MediaNotFound, TableError
        A table cannot be used, there is no such folder, nobody can be enrolled, or no probe is in the gallery.
    """
    rates, depths = tuple(fpirs), tuple(sorted(set(ranks)))
    check_bootstrap(repeats, {f"a false positive identification rate ({rate:g})": rate for rate in rates})
    if not depths or depths[0] < 1:
        raise OptionError("ranks begin at 1", got=list(ranks), expected="such as 1,5,10")
    _report.check_drawable(report, plots)
    plan = Plan(
        detector=detector, landmarks=landmarks, embedder=weights, threshold=threshold, size=size, pad=pad,
        quality=_embedded.quality_of(weigh, embeddings), device=device, backend=backend, batch_size=batch_size,
    )  # fmt: skip
    folder = Path(gallery).parent if images is None else images
    exist = embeddings is None
    stored = _embedded.read_listed(gallery, folder, exist=exist, more=("gallery",))
    sought = _embedded.read_listed(probes, folder, exist=exist)
    names = tuple(dict.fromkeys([*stored.names, *sought.names]))
    file_of = dict(zip([*stored.names, *sought.names], [*stored.files, *sought.files], strict=True))
    embedded = _embedded.embed_pictures(
        names, [file_of[name] for name in names], plan, embeddings=embeddings, choose=choose, weigh=weigh,
        progress=progress,
    )  # fmt: skip
    place = {name: row for row, name in enumerate(names)}
    enrolled = _embedded.pool(_renumbered(stored, place), embedded)
    searching = _embedded.pool(_renumbered(sought, place), embedded)
    groups = stored.columns.get("gallery", np.full(len(stored), ""))[enrolled.first]

    searched: list[tuple[GallerySearched, metrics.Searches]] = []
    by_gallery = [groups == name for name in np.unique(groups)]
    metrics.check_disjoint_galleries([enrolled.identity[mine] for mine in by_gallery])
    for mine in by_gallery:
        name = str(groups[mine][0])
        found = _search(enrolled, mine, searching, name)
        searched.append((_searched(name, enrolled, mine, found, depths, rates, repeats, seed), found))
    if out is not None:
        _write(out, searching, sought, searched)
    each = [told for told, _ in searched]
    failures = embedded.failures
    result = IdentificationEvaluation(
        measured_on=f"{Path(gallery).name}, {Path(probes).name}",
        date=today(),
        failures=failures,
        contract=embedded.contract,
        pictures=embedded.pictures,
        faceless=embedded.faceless,
        unreadable=embedded.unreadable,
        searches=len(searching.names),
        failed_searches=int((~searching.there).sum()),
        templates=stored.pooled or sought.pooled,
        ranks=_mean_ranks(each),
        at_fpir=_mean_missed(each),
        galleries=tuple(each),
        report="" if report is None else str(report),
    )
    if report is not None or plots is not None:
        sources = (
            ("detector", detector),
            ("landmarks", landmarks),
            ("embedder", weights),
            ("size", size),
            ("pad", pad),
        )
        page = _page(
            result, [found for _, found in searched], _report.networks(embedded.contract, embeddings, sources), weigh,
            repeats,
        )  # fmt: skip
        _report.write(page, result, page=report, plots=plots)
    return result


def _renumbered(listed: _embedded.Listed, place: dict[str, int]) -> _embedded.Listed:
    """The table with its pictures numbered as in `place`."""
    at = np.array([place[name] for name in listed.names])
    return _embedded.Listed(
        listed.names, listed.files, at[listed.picture], listed.identity, listed.template, listed.media, listed.pooled,
        listed.columns,
    )  # fmt: skip


def _search(
    enrolled: _embedded.Pooled, mine: NDArray[np.bool_], searching: _embedded.Pooled, name: str
) -> metrics.Searches:
    """Searches of one gallery, those that could not be made too: without a face nobody is found."""
    usable = mine & enrolled.there
    if not usable.any():
        raise TableError("nobody can be enrolled", got=f"no face in gallery {name!r}", expected="a face at least")
    there = searching.there
    if not there.any():
        raise TableError("no search can be made", got="no probe shows a face", expected="a face at least")
    found = metrics.search(
        searching.vectors[there], searching.identity[there], enrolled.vectors[usable], enrolled.identity[usable]
    )
    mated = np.isin(searching.identity, enrolled.identity[mine])
    people = len(np.unique(enrolled.identity[mine]))
    rank = np.where(mated, NOWHERE, 0).astype(np.intp)
    score = np.full(len(mated), -np.inf, np.float32)
    best = score.copy()
    rank[there] = np.where(found.mated, found.rank, rank[there])
    score[there], best[there] = found.score, found.best
    return metrics.Searches(mated, rank, score, best, np.unique(searching.identity, return_inverse=True)[1], people)


def _searched(
    name: str,
    enrolled: _embedded.Pooled,
    mine: NDArray[np.bool_],
    found: metrics.Searches,
    depths: Sequence[int],
    rates: Sequence[float],
    repeats: int,
    seed: int,
) -> GallerySearched:
    if not found.mated.any():
        raise TableError(
            "no probe shows somebody who is in the gallery", got=f"{len(found):,} probes, {found.people:,} people",
            expected="the same spelling of identities in both tables",
        )  # fmt: skip
    rank_rates = []
    for depth in depths:
        told = found.rank_interval(depth, repeats=repeats, seed=seed)
        rank_rates.append(RankRate(depth, told.value, told.low, told.high))
    missed = []
    for rate in found.usable_fpirs(rates):
        point = found.at_fpir(rate, repeats=repeats, seed=seed)
        missed.append(
            MissedAtRate(
                rate, point.threshold.value, point.fnir.value, point.false_positives, point.threshold.low,
                point.threshold.high, point.fnir.low, point.fnir.high,
            )
        )  # fmt: skip
    present = np.unique(enrolled.identity[mine & enrolled.there])
    return GallerySearched(
        gallery=name,
        people=len(present),
        templates=int((mine & enrolled.there).sum()),
        not_enrolled=found.people - len(present),
        mated=int(found.mated.sum()),
        non_mated=int((~found.mated).sum()),
        ranks=tuple(rank_rates),
        at_fpir=tuple(missed),
        cmc=tuple(found.cmc(DEPTH).tolist()),
    )


def _mean_ranks(each: Sequence[GallerySearched]) -> tuple[RankRate, ...]:
    if len(each) == 1:
        return each[0].ranks
    columns = zip(*(told.ranks for told in each), strict=True)
    return tuple(RankRate(c[0].rank, metrics.mean_over_galleries([one.rate for one in c])) for c in columns)


def _mean_missed(each: Sequence[GallerySearched]) -> tuple[MissedAtRate, ...]:
    """At the rates that every gallery can measure."""
    if len(each) == 1:
        return each[0].at_fpir
    made = []
    for first in each[0].at_fpir:
        points = [point for told in each for point in told.at_fpir if point.fpir == first.fpir]
        if len(points) == len(each):
            made.append(
                MissedAtRate(
                    first.fpir, metrics.mean_over_galleries([p.threshold for p in points]),
                    metrics.mean_over_galleries([p.fnir for p in points]), sum(p.false_positives for p in points),
                )
            )  # fmt: skip
    return tuple(made)


def _write(
    path: str | os.PathLike[str],
    searching: _embedded.Pooled,
    sought: _embedded.Listed,
    searched: Sequence[tuple[GallerySearched, metrics.Searches]],
) -> None:
    """One row a search; scores are empty where there is none."""
    with _output.whole_file(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["gallery", "probe", "identity", "mated", "rank", "score", "best_other"])
        for told, found in searched:
            for row, name in enumerate(searching.names.tolist()):
                probe = name if sought.pooled else sought.names[sought.picture[searching.first[row]]]
                scores = [str(value) if np.isfinite(value) else "" for value in (found.score[row], found.best[row])]
                mated, there = bool(found.mated[row]), bool(searching.there[row])
                rank = str(found.rank[row]) if mated and there and np.isfinite(found.score[row]) else ""
                table.writerow([told.gallery, probe, searching.identity[row], int(mated), rank, *scores])


def _page(
    result: IdentificationEvaluation, found: Sequence[metrics.Searches], source: str, weigh: str, repeats: int
) -> _report.Report:
    from mien.media import plots

    percent, span = _report.percent, _report.span
    each = result.galleries
    names = [told.gallery or "" for told in each]
    first = result.ranks[0]
    interval = f", {span(first.low, first.high)}" if first.low is not None else ", mean over galleries"
    tiles = [(percent(first.rate), f"of mated searches have the mate at rank {first.rank}{interval}")]
    for point in (result.at_fpir[:1] + result.at_fpir[-1:]) if len(result.at_fpir) > 1 else result.at_fpir:
        interval = f", {span(point.fnir_low, point.fnir_high)}" if point.fnir_low is not None else ""
        tiles.append((percent(point.fnir), f"FNIR at an FPIR of {point.fpir:g}{interval}"))
    drawings = [
        _report.Plot(
            "cmc", "CMC", "Closed set: mated searches, no threshold.",
            plots.cmc({name: told.cmc for name, told in zip(names, each, strict=True)}),
        )
    ]  # fmt: skip
    open_sets = [(name, told, one) for name, told, one in zip(names, each, found, strict=True) if told.non_mated]
    if open_sets:
        curves = {name: one.dir_curve()[:2] for name, _, one in open_sets}
        marks = [(p.fpir, p.fnir) for _, told, _ in open_sets for p in told.at_fpir]
        drawings.append(
            _report.Plot(
                "open_set", "Open set", "The mate must be the first candidate and reach the threshold.",
                plots.open_set(curves, points=marks),
            )
        )  # fmt: skip
        one, told = open_sets[0][2], open_sets[0][1]
        mates, strangers = one.score[one.mated], one.best[~one.mated]
        level = told.at_fpir[-1] if told.at_fpir else None
        drawings.append(
            _report.Plot(
                "scores", "Scores",
                "Of the mates, and the best of each search for a stranger"
                + (f"; the threshold is that for an FPIR of {level.fpir:g}." if level else "."),
                plots.histogram(
                    mates[np.isfinite(mates)], strangers[np.isfinite(strangers)],
                    threshold=None if level is None else level.threshold, names=("mate", "best for a stranger"),
                ),
            )
        )  # fmt: skip
    several = len(each) > 1
    tables = [
        _report.Table(
            "Closed set", (*(("gallery",) if several else ()), "rank", "found", "95 % interval"),
            [
                (*((told.gallery,) if several else ()), r.rank, percent(r.rate), span(r.low, r.high))
                for told in each for r in told.ranks
            ] + [("mean", r.rank, percent(r.rate), "") for r in result.ranks if several],
        ),
        _report.Table(
            "Open set",
            (*(("gallery",) if several else ()), "FPIR", "threshold", "its interval", "FNIR", "95 % interval",
             "false positives"),
            [
                (
                    *((told.gallery,) if several else ()), f"{p.fpir:g}", _report.cosine(p.threshold),
                    f"{p.threshold_low:.4f} to {p.threshold_high:.4f}", percent(p.fnir), span(p.fnir_low, p.fnir_high),
                    p.false_positives,
                )
                for told in each for p in told.at_fpir
            ] + [
                ("mean", f"{p.fpir:g}", "", "", percent(p.fnir), "", p.false_positives)
                for p in result.at_fpir if several
            ],
            "Thresholds are set on these very searches. Rates with fewer than 30 false positives are rough.",
        ),
        _report.Table(
            "Galleries", ("gallery", "people", "templates" if result.templates else "pictures", "not enrolled",
                          "mated searches", "searches for strangers"),
            [(t.gallery or "all", t.people, t.templates, t.not_enrolled, t.mated, t.non_mated) for t in each],
        ),
    ]  # fmt: skip
    pooled = (
        "pictures of a template are pooled, media first, weighted: " + weigh
        if result.templates
        else ("pictures one by one; a person counts by the best of the enrolled pictures")
    )
    protocol = {
        "Searches": f"{result.searches:,}, {result.failed_searches:,} of them without a face; such a search finds "
        "nobody, which is a miss where the person is enrolled",
        "Pictures": _report.acquired(result.pictures, result.faceless, result.unreadable),
        "Templates": pooled,
        "Rank": "place of the mate among the people of the gallery by score; equal scores stand before the mate",
        "FPIR": "share of searches for strangers in which anybody reaches the threshold",
        "FNIR": "share of mated searches whose mate is not the first candidate or is below the threshold",
        "Intervals": f"95 % bootstrap, {repeats:,} repeats; redrawn are the people who are searched for, with all "
        "their searches; the gallery stays",
        "Embeddings": source,
        "Terms": "ISO/IEC 19795-1",
        "Date": result.date,
    }
    return _report.Report(
        title="Identification",
        lead=f"Is the right person found? {result.searches:,} searches, {result.measured_on}.",
        tiles=tiles, protocol=protocol, plots=drawings, tables=tables, command="mien evaluate identification",
    )  # fmt: skip
