"""`Gallery`: people, their faces, and search among them, wherever they are kept.

    gallery = Gallery.open("g.db")                       a file: SQLite, with an index beside it
    gallery = Gallery.open("milvus://host:19530/faces")  a server, for more than fits a machine

What does not depend on the place is here: which people a search shows, the gates of an enrolment, thresholds and their
calibration. Everything takes and gives embeddings; pictures are the business of the verbs.
"""

from __future__ import annotations

import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mien.errors import ContractMismatch, OptionError
from mien.gallery import thresholds
from mien.gallery.records import (
    NOBODY,
    Added,
    AuditEntry,
    Batch,
    Contract,
    Deleted,
    Face,
    GalleryInfo,
    Match,
    Person,
    Refusal,
    RefusalReason,
    SearchCalibration,
    day,
    today,
    unit,
)
from mien.metrics.identification import USUAL_FPIRS, Searches

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from numpy.typing import ArrayLike, NDArray

    from mien.gallery.store import Rows

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int64]

SCORES = ("max", "template")
"""How a person of several faces is scored: the most similar face, or the quality-weighted mean of all of them."""

SAME_FACE = 0.985
"""Cosine from which on two embeddings are taken to be of one and the same picture, however it was saved."""

NEAREST = 16
"""Faces that are fetched for each person that is wanted, to begin with."""

FARTHEST = 16_384
"""Faces that are fetched at most: whoever has so many hides the people behind them from a search without threshold."""

QUERIES = 256
"""Searches that are made together."""

PROBES = 2000
"""Searches that a calibration makes."""


class Gallery(ABC):
    """People and their faces. `open` gives one; a ``with`` block closes it.

    Attributes
    ----------
    address
        Where it is.
    id
        Its own number, which no other gallery has.
    contract
        What its embeddings are; others are refused.
    """

    address: str
    id: str
    contract: Contract
    audit_searches: bool

    @staticmethod
    def open(
        address: str | os.PathLike[str],
        *,
        contract: Contract | None = None,
        create: bool = False,
        dtype: str = "float32",
        audit_searches: bool = True,
        read_only: bool = False,
        who: str | None = None,
    ) -> Gallery:
        """The gallery at an address.

        Parameters
        ----------
        address
            A file, ``milvus://[token@]host:port[/database]``, or ``milvus:///path/file.db`` for Milvus Lite (extra
            ``scale``).
        contract
            What embeddings are going to be handed in; needed to make a gallery, checked if there is one.
        create
            Make it if it is not there.
        dtype
            How a new gallery keeps embeddings: "float32", or "float16" for half the size.
        audit_searches
            For a new gallery: whether searches are written to its log.
        read_only
            Never write to it. Searches are not logged then.
        who
            For the log. Default: account and machine.

        Raises
        ------
        GalleryNotFound
            There is none and `create` is not set.
        ContractMismatch
            Its embeddings are of other weights.
        GalleryError
            There is something else, or a newer version's.
        MissingExtra
            The address needs a package that is not installed.
        """
        text = os.fspath(address)
        options: dict[str, Any] = {
            "contract": contract, "create": create, "dtype": dtype, "audit_searches": audit_searches,
            "read_only": read_only, "who": who,
        }  # fmt: skip
        if text.startswith("milvus://"):
            from mien.gallery.milvus import MilvusGallery

            return MilvusGallery(text, **options)
        scheme, colon, _ = text.partition("://")
        if colon:
            raise OptionError.unknown("no gallery has such an address", f"{scheme}://", ("milvus://", "a file"))
        from mien.gallery.local import LocalGallery

        return LocalGallery(text, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Gallery({self.address!r}, {self.contract.id})"

    # ------------------------------------------------------------------------------------------- what places do

    @abstractmethod
    def close(self) -> None:
        """Lets go of files and connections. Nothing that was acknowledged waits for it."""

    @abstractmethod
    def add(self, batch: Batch, *, run: str | None = None, note: str = "", action: str = "enrol") -> Added:
        """Enrols faces. What is given back is kept: on the disk, and found by the next search of any process.

        A picture that a person has already is left out, so that doing it again does no harm. Nothing is judged:
        `judge` does that.

        Parameters
        ----------
        batch
            Who, and the embeddings.
        run
            The same for all batches of one enrolment, for the log.
        note
            For the log.
        action
            For the log: "enrol" or "import".

        Raises
        ------
        ContractMismatch
            Embeddings of another length.
        """

    @abstractmethod
    def known(self, hashes: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Of pictures, by the hash of their bytes: whose faces from them are enrolled."""

    @abstractmethod
    def _nearest(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        """Similarities (q, k), falling, and numbers (q, k) of the nearest faces; -1 where there are fewer."""

    @abstractmethod
    def _rows(self, ids: Sequence[int]) -> Rows:
        """Faces by number; those that are gone or past their date are left out."""

    @abstractmethod
    def _rows_of_people(self, person_ids: Sequence[int]) -> Rows:
        """All faces of people that are not past their date."""

    @abstractmethod
    def _log(self, action: str, *, count: int = 0, note: str = "") -> None:
        """A line of the log about something that changes nothing."""

    @abstractmethod
    def people(self, *, match: str | None = None, after: int = 0, most: int | None = None) -> tuple[Person, ...]:
        """People by number: those with `match` in their names, at most `most` after number `after`."""

    @abstractmethod
    def person(self, name: str) -> Person:
        """Somebody by name, or by number as "#17". UnknownPerson, with the nearest names, for nobody."""

    @abstractmethod
    def faces(self, name: str | None = None, *, after: int = 0, most: int | None = None) -> tuple[Face, ...]:
        """Faces and where they come from, by number: of one person, or of all. UnknownPerson for nobody."""

    @abstractmethod
    def crop(self, face_id: int) -> bytes | None:
        """The aligned face as JPEG, if it is kept."""

    @abstractmethod
    def rename(self, name: str, target: str, *, note: str = "") -> int:
        """Calls somebody otherwise; the number stays. UnknownPerson; OptionError if the name is taken."""

    @abstractmethod
    def merge(self, name: str, target: str, *, note: str = "") -> int:
        """Makes all faces of `name` faces of `target`; how many. The earlier of both retention dates holds.

        Where both have a face of the same picture, that of `target` stays. UnknownPerson; OptionError for one and the
        same person.
        """

    @abstractmethod
    def delete(self, names: Sequence[str], *, note: str = "") -> Deleted:
        """Deletes people with all that is theirs: it is overwritten in every file.

        Parameters
        ----------
        names
            Names, or numbers as "#17". All must be there, or nothing is deleted.
        note
            For the log.
        """

    @abstractmethod
    def delete_faces(self, name: str, ids: Sequence[int], *, note: str = "") -> Deleted:
        """Deletes some faces of a person, who stays. OptionError for a face that is not theirs."""

    @abstractmethod
    def retain(self, name: str, until: str | None, *, note: str = "") -> int:
        """Sets the last day on which somebody may be kept ("YYYY-MM-DD"), or takes it away (None)."""

    @abstractmethod
    def expire(self, *, on: str | None = None, note: str = "") -> Deleted:
        """Deletes everybody and every face whose last day lies before `on` (default: today, UTC), and people who have
        no face left by that."""

    @abstractmethod
    def vacuum(self, *, note: str = "") -> bool:
        """Makes files as small as they can be, and leaves nothing deleted in them; whether that could be done."""

    @abstractmethod
    def audit(
        self, *, most: int | None = None, action: str | None = None, since: str | None = None
    ) -> tuple[AuditEntry, ...]:
        """The log, the latest first: of one kind, from a day or time on, at most so many lines."""

    @abstractmethod
    def info(self) -> GalleryInfo:
        """What it is and how much is in it."""

    @abstractmethod
    def export_rows(self) -> Iterator[list[tuple[Face, Floats, bytes | None, tuple[int, int] | None]]]:
        """Everything, some thousand faces at a time: the face, embedding, crop, and size of the picture."""

    @abstractmethod
    def _calibration(self) -> SearchCalibration | None: ...

    @abstractmethod
    def _set_calibration(self, calibration: SearchCalibration) -> None: ...

    @abstractmethod
    def __len__(self) -> int:
        """Number of faces."""

    # ------------------------------------------------------------------------------------------- search

    def check(self, contract: str | Contract | None) -> None:
        """ContractMismatch unless embeddings are what the gallery holds.

        Parameters
        ----------
        contract
            Of the weights, or its id as in `Faces.contract`. None is refused: nobody knows then what they are.
        """
        if contract is None:
            raise ContractMismatch("the embeddings bear no contract", expected=self.contract.id)
        other = contract if isinstance(contract, Contract) else Contract(id=contract, dim=self.contract.dim)
        self.contract.check(other)

    def search(
        self,
        embeddings: ArrayLike,
        *,
        k: int = 5,
        threshold: float = -1.0,
        score: str = "max",
        note: str = "",
        log: bool = True,
    ) -> list[tuple[Match, ...]]:
        """Who is most like each of the given faces.

        Similarities are computed from the stored embeddings, whatever the index rounds.

        Parameters
        ----------
        embeddings : (q, d)
            Of any length above zero.
        k
            Most people for each.
        threshold
            Nobody less similar is shown; `threshold_at` tells which.
        score
            "max": by the most similar face. "template": by the quality-weighted mean of all faces of a person, for the
            people of the most similar faces. A template is made when it is asked for, from faces of a few people only,
            so that nothing stored can be out of date.
        note
            The purpose, for the log.
        log
            Write a line into the log, if the gallery keeps one of searches.

        Returns
        -------
        list of q tuples of Match
            Most similar first.

        Raises
        ------
        ContractMismatch
            Embeddings of another length.
        ShapeError, ValueRangeError, OptionError
            No rows, a row without direction, an unknown score, k below 1.
        """
        if score not in SCORES:
            raise OptionError.unknown("unknown score", score, SCORES)
        if k < 1:
            raise OptionError("at least one person must be wanted", got=k, expected="k of 1 or more")
        queries = unit(embeddings)
        self._check_dim(queries)
        if log and len(queries):
            self._log("search", count=len(queries), note=note)
        found: list[tuple[Match, ...]] = []
        for start in range(0, len(queries), QUERIES):
            part = queries[start : start + QUERIES]
            if score == "max":
                found += self._by_best_face(part, k, threshold)
            else:
                found += self._by_template(part, k, threshold)
        return found

    def _check_dim(self, queries: Floats) -> None:
        if queries.shape[1] != self.contract.dim:
            raise ContractMismatch("embeddings of another length", got=queries.shape[1], expected=self.contract.dim)

    def _by_best_face(self, queries: Floats, k: int, threshold: float) -> list[tuple[Match, ...]]:
        """People by their most similar faces. Somebody with many faces may fill all places: then more are fetched."""
        found: list[tuple[Match, ...]] = [()] * len(queries)
        left = np.arange(len(queries))
        wanted = NEAREST + 2 * k
        while len(left):
            scores, ids = self._nearest(queries[left], wanted)
            rows = self._rows(np.unique(ids[ids >= 0]).tolist())
            unfilled = []
            at = _places(rows.ids, ids)
            for line, query in enumerate(left):
                places = at[line][at[line] >= 0]
                matches = _best_of_each(queries[query], rows, places, k)
                # The last place says how similar the rest can be at most; a hundredth is more than codes round.
                full = ids.shape[1] == wanted and ids[line, -1] != NOBODY
                if len(matches) < k and full and scores[line, -1] >= threshold - 0.02 and wanted < FARTHEST:
                    unfilled.append(query)
                else:
                    found[query] = tuple(match for match in matches if match.similarity >= threshold)
            left = np.array(unfilled, np.intp)
            wanted = min(4 * wanted, FARTHEST)
        return found

    def _by_template(self, queries: Floats, k: int, threshold: float) -> list[tuple[Match, ...]]:
        # The mean of a person's faces may be nearer than each of them, so nobody is dropped by the threshold before.
        near = self._by_best_face(queries, 4 * k, -1.0)
        numbers = sorted({match.person_id for matches in near for match in matches})
        rows = self._rows_of_people(numbers)
        owners, templates = pooled(rows)
        place = {int(owner): row for row, owner in enumerate(owners)}
        found = []
        for query, matches in zip(queries, near, strict=True):
            scored = [
                Match(
                    person=match.person, person_id=match.person_id, face_id=match.face_id, source=match.source,
                    similarity=float(np.clip(templates[place[match.person_id]] @ query, -1, 1)),
                )
                for match in matches
                if match.person_id in place
            ]  # fmt: skip
            scored.sort(key=lambda match: (-match.similarity, match.person_id))
            found.append(tuple(match for match in scored[:k] if match.similarity >= threshold))
        return found

    # ------------------------------------------------------------------------------------------- gates

    def judge(
        self, people: Sequence[str], embeddings: ArrayLike, *, sources: Sequence[str] = (),
        same_face: float | None = SAME_FACE, conflict: float | None = None,
    ) -> list[Refusal | None]:  # fmt: skip
        """Which faces should not be enrolled, compared with the gallery and with each other in the order given.

        Parameters
        ----------
        people
            (n,) names they are meant for.
        embeddings : (n, d)
            Of any length above zero.
        sources
            (n,) for the refusals.
        same_face
            Cosine from which on a face is the same picture again: of the same person it adds nothing, of another it is
            an error. None: do not ask.
        conflict
            Cosine from which on a face must not be more like somebody else than like its own person. None: do not ask.

        Returns
        -------
        list of n
            None for those that may be enrolled.
        """
        rows = unit(embeddings)
        self._check_dim(rows)
        names = list(people)
        told = list(sources) or [""] * len(names)
        refused: list[Refusal | None] = [None] * len(names)
        if (same_face is None and conflict is None) or not names:
            return refused
        limit = min(level for level in (same_face, conflict) if level is not None)
        scores, ids = self._nearest(rows, NEAREST)
        stored = self._rows(np.unique(ids[ids >= 0]).tolist())
        at = _places(stored.ids, ids)
        among = rows @ rows.T
        accepted: list[int] = []
        for row, name in enumerate(names):
            candidates: list[tuple[float, str, str]] = []
            if scores.shape[1] and scores[row, 0] >= limit - 0.02:
                places = at[row][at[row] >= 0]
                cosines = stored.embeddings[places] @ rows[row]
                candidates += [
                    (float(cosine), str(stored.names[place]), str(stored.sources[place]))
                    for cosine, place in zip(cosines, places, strict=True)
                ]
            candidates += [(float(among[row, one]), names[one], told[one]) for one in accepted]
            refused[row] = _judged(name, told[row], candidates, same_face, conflict)
            if refused[row] is None:
                accepted.append(row)
        return refused

    # ------------------------------------------------------------------------------------------- thresholds

    def threshold_at(self, fpir: float = 0.01, *, score: str = "max") -> thresholds.SearchThreshold:
        """The threshold at which this share of searches for strangers shows anybody.

        From the calibration of this gallery, if there is one for `score` (`calibrate`), carried to its size of today;
        otherwise estimated from that of the embedder. See `mien.gallery.thresholds`.

        Raises
        ------
        OptionError
            The embedder comes without a calibration, or the rate is none.
        """
        kept = self._calibration()
        if kept is not None and kept.score == score:
            return thresholds.measured(fpir, len(self), kept)
        from mien.errors import UnknownWeights
        from mien.weights import info

        try:
            points = info(self.contract.weights).calibration
        except UnknownWeights:
            points = ()
        return thresholds.estimated(fpir, len(self), points)

    def calibrate(
        self, *, fpirs: Sequence[float] = USUAL_FPIRS, score: str = "max", most: int = PROBES, seed: int = 0
    ) -> SearchCalibration:
        """Measures thresholds by searching for people of the gallery as if they were not in it, and keeps them.

        Each search is made twice: without the person, for whom nobody should be shown; and, if there is another picture
        of the person, with the others, for whom the person should be shown first.

        Parameters
        ----------
        fpirs
            Rates; those too small for the number of searches are left out.
        score
            As in `search`.
        most
            Searches, spread over people.
        seed
            Which faces are searched with.

        Raises
        ------
        GalleryError
            Too few people for any of the rates.
        """
        if score not in SCORES:
            raise OptionError.unknown("unknown score", score, SCORES)
        searches = self._searches(score, most, seed)
        kept = thresholds.calibration_of(searches, score=score, faces=len(self), fpirs=fpirs, seed=seed)
        self._set_calibration(kept)
        return kept

    def _searches(self, score: str, most: int, seed: int) -> Searches:
        rng = np.random.default_rng(seed)
        everybody = self.people()
        numbers = np.array([person.id for person in everybody if person.faces], np.int64)
        chosen = rng.permutation(numbers)[:most]
        each = int(np.clip(most // max(1, len(chosen)), 1, 5))
        mated, score_of, best_of, person_of = [], [], [], []
        for start in range(0, len(chosen), QUERIES):
            own = self._rows_of_people(chosen[start : start + QUERIES].tolist())
            for_whom = {int(number): np.flatnonzero(own.person_ids == number) for number in np.unique(own.person_ids)}
            probes = np.concatenate(
                [rng.permutation(places)[:each] for places in for_whom.values()] or [np.zeros(0, np.intp)]
            )
            others = self._best_others(own, probes, score)
            for probe, other in zip(probes, others, strict=True):
                rest = for_whom[int(own.person_ids[probe])]
                rest = rest[rest != probe]
                mine = _person_score(own, rest, own.embeddings[probe], score)
                # One search without the person, and one with the person's other pictures.
                for known, value in ((False, -np.inf), *(((True, mine),) if len(rest) else ())):
                    mated.append(known)
                    score_of.append(value)
                    best_of.append(other)
                    person_of.append(int(own.person_ids[probe]))
        known_mates = np.array(mated, np.bool_)
        mates, best = np.array(score_of, np.float32), np.array(best_of, np.float32)
        rank = np.where(known_mates, np.where(mates > best, 1, 2), 0).astype(np.intp)
        person = np.unique(np.array(person_of, np.int64), return_inverse=True)[1].astype(np.intp)
        return Searches(known_mates, rank, mates, best, person.reshape(-1), len(numbers))

    def _best_others(self, own: Rows, probes: Ints, score: str) -> list[float]:
        """For each probe the score of the most similar person who is somebody else."""
        if not len(probes):
            return []
        best = []
        # One more than the probe's own person is enough for "max", a few for templates.
        near = self.search(own.embeddings[probes], k=2 if score == "max" else 6, score=score, log=False)
        for probe, matches in zip(probes, near, strict=True):
            number = int(own.person_ids[probe])
            best.append(max((m.similarity for m in matches if m.person_id != number), default=-np.inf))
        return best


# ------------------------------------------------------------------------------------------- pieces


def pooled(rows: Rows) -> tuple[Ints, Floats]:
    """Numbers of people (p,) and the quality-weighted means (p, d) of their faces, at length one.

    A face of quality 0 still counts a little: somebody may have no other. People whose faces cancel out, which does not
    happen to faces, have the first of them.
    """
    owners, code = np.unique(rows.person_ids, return_inverse=True)
    weights = np.maximum(rows.qualities, 0.01)[:, None]
    sums = np.zeros((len(owners), rows.embeddings.shape[1]), np.float64)
    np.add.at(sums, code.reshape(-1), rows.embeddings * weights)
    lengths = np.linalg.norm(sums, axis=1)
    for owner in np.flatnonzero(lengths < 1e-9):
        sums[owner] = rows.embeddings[int(np.argmax(code == owner))]
        lengths[owner] = 1
    return owners.astype(np.int64), np.asarray(sums / lengths[:, None], np.float32)


def _person_score(rows: Rows, places: NDArray[Any], query: Floats, score: str) -> float:
    """Score of a person who has the faces at `places`; -inf for none."""
    if not len(places):
        return -np.inf
    if score == "max":
        return float((rows.embeddings[places] @ query).max())
    weights = np.maximum(rows.qualities[places], 0.01)
    mean = (rows.embeddings[places] * weights[:, None]).sum(0)
    return float(mean @ query / max(float(np.linalg.norm(mean)), 1e-9))


def _places(sorted_or_not: Ints, ids: Ints) -> NDArray[np.intp]:
    """Row of each of `ids` among the given numbers; -1 where it is not there."""
    if not len(sorted_or_not):
        return np.full(ids.shape, -1, np.intp)
    order = np.argsort(sorted_or_not)
    at = np.searchsorted(sorted_or_not, ids, sorter=order).clip(max=len(order) - 1)
    place = order[at]
    return np.where(sorted_or_not[place] == ids, place, -1)


def _best_of_each(query: Floats, rows: Rows, places: NDArray[np.intp], k: int) -> list[Match]:
    """The best face of each of the first `k` people among the faces at `places`."""
    cosines = np.clip(rows.embeddings[places] @ query, -1, 1)
    order = np.lexsort((rows.ids[places], -cosines))
    people = rows.person_ids[places][order]
    first = np.sort(np.unique(people, return_index=True)[1])[:k]
    return [
        Match(
            person=str(rows.names[place]), person_id=int(rows.person_ids[place]), face_id=int(rows.ids[place]),
            source=str(rows.sources[place]), similarity=float(cosine),
        )
        for place, cosine in zip(places[order][first], cosines[order][first], strict=True)
    ]  # fmt: skip


def _judged(
    name: str, source: str, candidates: Sequence[tuple[float, str, str]], same_face: float | None,
    conflict: float | None,
) -> Refusal | None:  # fmt: skip
    """What speaks against a face, given (cosine, person, picture) of the most similar ones."""
    own = max((one for one in candidates if one[1] == name), default=None)
    other = max((one for one in candidates if one[1] != name), default=None)

    def refusal(reason: RefusalReason, text: str, value: float, limit: float) -> Refusal:
        return Refusal(source=source, person=name, reason=reason, text=text, value=round(value, 4), limit=limit)

    if same_face is not None and other is not None and other[0] >= same_face and (own is None or own[0] <= other[0]):
        text = f"this very face is enrolled as {other[1]}" + (f" ({other[2]})" if other[2] else "")
        return refusal(RefusalReason.LOOKS_LIKE_OTHER, text, other[0], same_face)
    if same_face is not None and own is not None and own[0] >= same_face:
        text = "this very face is enrolled already" + (f" ({own[2]})" if own[2] else "")
        return refusal(RefusalReason.SAME_FACE, text, own[0], same_face)
    if conflict is not None and other is not None and other[0] >= conflict and (own is None or own[0] < other[0]):
        return refusal(RefusalReason.LOOKS_LIKE_OTHER, f"is more like {other[1]}", other[0], conflict)
    return None


def new_run() -> str:
    """What all lines of one call in the log have in common."""
    return uuid.uuid4().hex[:16]


def last_day(on: str | None) -> str:
    """`on` as a date; today if it is None."""
    return day(on) or today()
