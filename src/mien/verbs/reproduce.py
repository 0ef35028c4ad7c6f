"""``reproduce``: the central claim of a paper as an experiment, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.papers.results import Scale
from mien.verbs._pipeline import Progress

if TYPE_CHECKING:
    from mien.claims.harness import Claim, Outcome
    from mien.errors import MienError


@dataclass(frozen=True)
class Failed:
    """A claim that could not be run, and why."""

    claim: str
    code: str
    error: str
    hint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Reproduced:
    """What came of the claims.

    Parameters
    ----------
    outcomes
        One for each claim that was run, with the row that was added to the table.
    failed
        Those of several that could not be run.
    table
        The file that the rows were added to.
    """

    outcomes: tuple[Outcome, ...]
    failed: tuple[Failed, ...]
    table: Path

    @property
    def ok(self) -> bool:
        """Whether every claim could be run, whatever its verdict."""
        return not self.failed

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: ok, claims, failed, table."""
        return {
            "ok": self.ok,
            "claims": [outcome.to_dict() for outcome in self.outcomes],
            "failed": [failed.to_dict() for failed in self.failed],
            "table": str(self.table),
        }


def reproduce(
    slugs: str | Sequence[str] | None = None,
    *,
    claim: str | None = None,
    scale: Scale = "small",
    data: str | None = None,
    data_root: str | None = None,
    device: str = "auto",
    out: str | None = None,
    results: str | None = None,
    progress: Progress | None = None,
) -> Reproduced:
    """Runs the claims of papers: baseline against idea on the same data, budget and seeds, and a computed verdict.

    Each claim adds a row to the table of results once all its seeds are there. A seed that is done is kept, so a run
    that was interrupted goes on where it stopped. A verdict of "does not hold" is a result and no failure.

    Parameters
    ----------
    slugs
        The papers. Default: all that have claims.
    claim
        Only the claim of this name.
    scale
        "small" (minutes on two cores) or "paper" (the paper's own size, for those who have the data and the GPUs).
    data
        What to run on: one of the names that the claim knows. Default: the first of them, which is "heads", the
        rendered heads, wherever they will do. Without `slugs`, claims that do not know it are left out.
    data_root
        Folder with one sub-folder a set. Default: MIEN_DATA.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    out
        Folder for the seeds that are done and whatever the experiments write. Default: claims in MIEN_HOME, where
        only the seeds' results stay.
    results
        The table that gets the rows. Default: results/claims.csv of the checkout, or of the current folder.
    progress
        Called as ``progress(done, 100, what)``: how many per cent of all seeds of all claims are done.

    Returns
    -------
    Reproduced
        Baseline, idea, difference, spread and verdict of each claim. With several, those that could not be run are
        in it with the reason.

    Raises
    ------
    OptionError
        A paper without claims, or no claim of that name, or no such scale, or a claim that cannot run on that data.
    TableError
        The table has other columns, or cannot be written.
    ValueRangeError
        A single claim gave a number that is not finite.
    MienError
        Whatever else stops a single claim: data that is not there, a device that is not there.
    """
    from mien.claims import harness
    from mien.errors import MienError
    from mien.papers.results import append, default_path, read

    chosen = _chosen(slugs, claim=claim, scale=scale, data=data)
    table = Path(results) if results is not None else default_path()
    read(table)  # a table that cannot be added to is told of now, not after the work
    outcomes, failed = list[harness.Outcome](), list[Failed]()
    for number, one in enumerate(chosen):

        def told(done: float, total: float | None = None, what: str = "", number: int = number) -> None:
            if progress is not None:
                progress(round(100 * (number + (done / total if total else 0.0)) / len(chosen)), 100, what)

        try:
            outcome = harness.run(
                one, scale=scale, data=data, data_root=data_root, device=device, out=out, progress=told
            )
        except MienError as error:
            if len(chosen) == 1:
                raise
            failed.append(_failed(one, error))
        else:
            append([outcome.row], table)  # now: what comes after may take hours, and be stopped
            outcomes.append(outcome)
    return Reproduced(tuple(outcomes), tuple(failed), table)


def _chosen(slugs: str | Sequence[str] | None, *, claim: str | None, scale: Scale, data: str | None) -> list[Claim]:
    """The claims that are meant; OptionError if there are none, or one that was named cannot be run."""
    from mien.claims import harness
    from mien.errors import OptionError

    named = [slugs] if isinstance(slugs, str) else list(slugs or ())
    found = [one for slug in dict.fromkeys(named or harness.slugs()) for one in harness.claims_of(slug)]
    if claim is not None:
        if all(one.name != claim for one in found):
            raise OptionError.unknown("no such claim", claim, sorted({one.name for one in found}))
        found = [one for one in found if one.name == claim]
    if data is not None and not named:
        found = [one for one in found if data in one.data_of(scale)]
    if not found:
        raise OptionError("there is no claim to run", got=data, hint="`mien papers` shows which papers have claims")
    return found


def _failed(claim: Claim, error: MienError) -> Failed:
    return Failed(f"{claim.slug}/{claim.name}", error.code, str(error), error.hint)
