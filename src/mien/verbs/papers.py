"""``papers``: which papers there are, how far each has come, and what its claims were found to be worth."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mien.papers.card import Task

if TYPE_CHECKING:
    from mien.papers import Card


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line about a paper; `network`, `converter` and `claim` as in `mien.papers.Card`."""

    slug: str
    title: str
    venue: str
    year: int
    task: Task
    network: str
    converter: str
    claim: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Described:
    """Everything about one paper.

    Parameters
    ----------
    card
        Its facts, its state, and the latest runs of its claims.
    bibtex
        To cite it.
    networks
        Name, builder, trainable parameters in the paper's size, and whether it can be exported to ONNX.
    weights
        Name, licence, whether that is permissive, size in MB (10^6 bytes), and whether the file is on this disk.
    claims
        Name, statement, metric, better direction, margin, data and seeds.
    """

    card: Card
    bibtex: str
    networks: tuple[dict[str, Any], ...] = ()
    weights: tuple[dict[str, Any], ...] = ()
    claims: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the card's, bibtex, networks, weights, claims, results."""
        card = self.card.to_dict()
        results = card.pop("results")
        parts = {name: list(getattr(self, name)) for name in ("networks", "weights", "claims")}
        return {**card, "bibtex": self.bibtex, **parts, "results": results}


def papers(
    slug: str | None = None, *, task: Task | None = None, results: str | None = None
) -> list[Listed] | Described:
    """Lists the papers and how far each has come; with a slug, shows one: card, citation, networks, weights, claims.

    In Python, `mien.papers` is the package of papers and can be called like this verb: ``mien.papers("facenet")``.

    Parameters
    ----------
    slug
        The paper to show. Default: all are listed.
    task
        Only papers of this wing: "recognition", "analysis", "detection", "generation", "security", "privacy",
        "audit" or "data".
    results
        The table of claims. Default: results/claims.csv of the checkout, or of the current folder.

    Returns
    -------
    list of Listed, or Described
        Sorted by slug; or everything about the one paper.

    Raises
    ------
    OptionError
        There is no such paper or no such task; or both were given.
    TableError
        The table of claims cannot be read.
    """
    from mien.errors import OptionError
    from mien.papers import cards

    if slug is not None and task is not None:
        raise OptionError("a paper and a task were given", got=(slug, task), hint="leave one of them out")
    found = cards(task=task, only=slug, results=results)
    return _described(found[0]) if slug is not None else [_listed(card) for card in found]


def _listed(card: Card) -> Listed:
    paper = card.paper
    return Listed(
        slug=paper.slug, title=paper.title, venue=paper.venue, year=paper.year, task=paper.task,
        network=card.network, converter=card.converter, claim=card.claim,
    )  # fmt: skip


def _described(card: Card) -> Described:
    bibtex = card.paper.bibtex()
    if card.network == "planned":
        return Described(card=card, bibtex=bibtex)
    from mien.claims import harness
    from mien.papers import networks, weights
    from mien.weights import state

    slug = card.paper.slug
    return Described(
        card=card,
        bibtex=bibtex,
        networks=tuple(
            {
                "name": name,
                "builder": f"{network.build.__module__}.{network.build.__qualname__}",
                "parameters": network.parameters(),
                "onnx": network.export,
            }
            for name, network in networks(slug).items()
        ),
        weights=tuple(
            {
                "name": one.name,
                "licence": one.licence,
                "permissive": one.permissive,
                "size_mb": round(one.size / 1e6, 2),
                "state": state(one),
            }
            for one in weights(slug)
        ),
        claims=tuple(claim.to_dict() for claim in (harness.claims_of(slug) if slug in harness.slugs() else ())),
    )
