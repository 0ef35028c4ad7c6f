"""The papers: one module each, named by its slug, read from top to bottom.

    from mien import papers

    papers.cards()               what there is of all forty: network, converter, verdicts of the claims
    papers.get("facenet")        the module of one paper: its networks, losses, weights
    papers.discover()            all modules that are there
    papers.paper("mos")          the facts of one, with `bibtex()`

As `mien.papers` it can also be called, like the verb of its name: ``mien.papers()`` is what ``mien papers`` shows.

A module belongs to a paper if it defines ``PAPER``; nothing else needs to be told of it. It also defines ``NETWORKS``,
a dict of `Network`; ``WEIGHTS``, a tuple of `mien.weights.Weights`; and ``convert_official(state_dict)`` where the
authors released a checkpoint. `planned` holds the cards of those that have no module yet.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from mien.errors import OptionError
from mien.papers.card import TASKS, Network, Paper, Task

if TYPE_CHECKING:
    from mien.papers.results import Row
    from mien.weights import Weights

__all__ = [
    "TASKS",
    "Card",
    "Network",
    "Paper",
    "Task",
    "cards",
    "discover",
    "get",
    "networks",
    "paper",
    "slugs",
    "weights",
]

PARTS = frozenset({"card", "planned", "results"})
"""Modules of this package that are no paper."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What there is of one paper.

    Parameters
    ----------
    paper
        Its facts.
    network
        "complete", or "planned" where it has no module yet.
    converter
        "yes": the authors' checkpoint can be turned into ours; "no released checkpoint"; or "planned".
    claim
        The verdicts of the latest runs in small size: "holds", "holds: 2, inconclusive: 1"; "planned" without a run.
    results
        The latest run of each claim, scale and data.
    """

    paper: Paper
    network: Literal["complete", "planned"]
    converter: Literal["yes", "no released checkpoint", "planned"]
    claim: str
    results: tuple[Row, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        states = {"network": self.network, "converter": self.converter, "claim": self.claim}
        return {**self.paper.to_dict(), **states, "results": [row.to_dict() for row in self.results]}


def slugs() -> tuple[str, ...]:
    """The papers that have a module, sorted; none of them is imported for it."""
    return tuple(sorted({m.name for m in pkgutil.iter_modules(__path__) if m.name not in PARTS and m.name[0] != "_"}))


def discover() -> dict[str, ModuleType]:
    """The module of every paper by its slug, sorted.

    Raises
    ------
    OptionError
        A module has no card, or the card of another paper.
    """
    return {slug: _module(slug) for slug in slugs()}


def get(slug: str) -> ModuleType:
    """The module of a paper.

    Raises
    ------
    OptionError
        There is no paper of that slug (the message names the nearest), or it is planned and has no module yet.
    """
    if slug in slugs():
        return _module(slug)
    raise OptionError(
        f"{paper(slug).title} is planned and has no code yet", got=slug, hint="`mien papers` shows the state of all"
    )


def paper(slug: str) -> Paper:
    """The facts of a paper, whether or not it has a module.

    Raises
    ------
    OptionError
        There is no paper of that slug; the message names the nearest.
    """
    from mien.papers.planned import PLANNED

    if slug in slugs():
        found: Paper = _module(slug).PAPER
        return found
    planned = {one.slug: one for one in PLANNED}
    if slug in planned:
        return planned[slug]
    known = sorted({*slugs(), *planned})
    near = difflib.get_close_matches(str(slug).replace("-", "_"), known, n=3, cutoff=0.5)
    if not near:
        raise OptionError.unknown("there is no paper of that slug", slug, known)
    raise OptionError(
        "there is no paper of that slug", got=slug, expected=", ".join(near), hint=f"did you mean {near[0]!r}?"
    )


def cards(*, task: Task | None = None, only: str | None = None, results: str | Path | None = None) -> tuple[Card, ...]:
    """What there is of every paper, sorted by slug.

    Parameters
    ----------
    task
        Only those of this wing.
    only
        Only the one of this slug.
    results
        The table of claims. Default: `mien.papers.results.default_path`.

    Raises
    ------
    OptionError
        There is no such task, or no paper of that slug; the message names the nearest.
    TableError
        The table of claims cannot be read.
    """
    from mien.papers.planned import PLANNED
    from mien.papers.results import latest, read

    if task is not None and task not in TASKS:
        raise OptionError.unknown("unknown task", task, TASKS)
    rows = latest(read(results))
    there = slugs()
    wanted = [only] if only is not None else sorted({*there, *(one.slug for one in PLANNED)})
    facts = {slug: paper(slug) for slug in wanted}
    return tuple(
        _card(one, _module(slug) if slug in there else None, [row for row in rows if row.slug == slug])
        for slug, one in facts.items()
        if task in (None, one.task)
    )


def networks(slug: str) -> dict[str, Network]:
    """The public networks of a paper by their names."""
    return dict(get(slug).NETWORKS)


def weights(slug: str) -> tuple[Weights, ...]:
    """The weights that a paper declares, by name."""
    declared = getattr(get(slug), "WEIGHTS", ())
    return tuple(sorted(declared.values() if isinstance(declared, dict) else declared, key=lambda one: one.name))


def _card(paper: Paper, module: ModuleType | None, rows: Iterable[Row]) -> Card:
    from mien.papers.results import summary

    rows = tuple(rows)
    verdicts = summary(row for row in rows if row.scale == "small") or summary(rows) or "planned"
    if module is None:
        return Card(paper=paper, network="planned", converter="planned", claim=verdicts, results=rows)
    converter: Literal["yes", "no released checkpoint"] = "no released checkpoint"
    if hasattr(module, "convert_official"):
        converter = "yes"
    return Card(paper=paper, network="complete", converter=converter, claim=verdicts, results=rows)


def _module(slug: str) -> ModuleType:
    module = importlib.import_module(f"{__name__}.{slug}")
    found = getattr(module, "PAPER", None)
    if not isinstance(found, Paper) or found.slug != slug:
        raise OptionError(
            f"mien.papers.{slug} is not the module of a paper",
            got=found.slug if isinstance(found, Paper) else found,
            expected=f"PAPER = Paper(slug={slug!r}, …)",
        )
    return module
