"""The typed facts of a paper (`Paper`), and of each network it makes public (`Network`).

A paper's module writes both down; the index page, ``mien papers``, citations and the conformance suite are made from
them. This module does not import torch, so that cards can be read without it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlsplit

from mien.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor, nn

Task = Literal["recognition", "analysis", "detection", "generation", "security", "privacy", "audit", "data"]
"""The wing of the house a paper stands in.

recognition: who is it; analysis: what can be told of a face; detection: where is it; generation: made, restored,
translated, turned and swapped faces; security: spoofs, forgeries, evasion; privacy: leakage and protection; audit:
measurements of systems and people; data: sets that are built, cleaned, labelled and synthesised.
"""
TASKS: tuple[Task, ...] = get_args(Task)

Published = Literal["conference", "journal", "preprint"]


@dataclass(frozen=True, kw_only=True)
class Paper:
    """The card of a paper.

    Parameters
    ----------
    slug
        Name of its four files: lower case, with underscores.
    title
        As printed.
    authors
        In the order of the title page, given name first; empty where they are not known for sure.
    venue
        Short name of where it appeared: "CVPR", "IEEE TIP", "arXiv".
    year
        Of the publication.
    arxiv
        Identifier ("1503.03832"), if it is there.
    code
        Address of the code that the authors released, if they did.
    code_licence
        Licence of that code: SPDX identifier, or its title; None where it states none.
    task
        The wing it stands in.
    verb
        How a person reaches it: ``"mien embed --weights facenet-…"``.
    doi
        Digital object identifier ("10.1109/…"), if known.
    published
        "conference", "journal" or "preprint"; decides the kind of the BibTeX entry.
    """

    slug: str
    title: str
    authors: tuple[str, ...]
    venue: str
    year: int
    arxiv: str | None
    code: str | None
    code_licence: str | None
    task: Task
    verb: str
    doi: str | None = None
    published: Published = "conference"

    def __post_init__(self) -> None:
        def refuse(what: str, got: object, expected: object) -> None:
            raise OptionError(f"The card of paper {self.slug!r} is wrong: {what}", got=got, expected=expected)

        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", self.slug):
            refuse("the slug", self.slug, "lower-case words joined by underscores, as in tp_gan")
        for name in ("title", "venue"):
            if (value := getattr(self, name)) != value.strip() or not value:
                refuse(f"the {name}", value, "a text without blanks around it")
        if type(self.authors) is not tuple or not all(a and a == a.strip() and "," not in a for a in self.authors):
            refuse("the authors", self.authors, "a tuple of names, given name first")
        if not 1960 <= self.year <= 2100:
            refuse("the year", self.year, "four digits")
        if self.arxiv is not None and not re.fullmatch(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}", self.arxiv):
            refuse("the arXiv identifier", self.arxiv, "such as 1503.03832, without a version")
        if self.code is not None and (urlsplit(self.code).scheme != "https" or not urlsplit(self.code).netloc):
            refuse("the address of the code", self.code, "https://…")
        if self.code is None and self.code_licence is not None:
            refuse("a licence of code that is not there", self.code_licence, None)
        if self.code_licence is not None and not self.code_licence.strip():
            refuse(
                "the licence of the code", self.code_licence, "an SPDX identifier or a title; None if none is stated"
            )
        if self.task not in TASKS:
            refuse("the task", self.task, TASKS)
        if not re.fullmatch(r"mien [a-z]+( .*\S)?", self.verb):
            refuse("the verb", self.verb, "a command, such as mien embed --weights NAME")
        if self.doi is not None and not re.fullmatch(r"10\.\d{4,9}/\S+", self.doi):
            refuse("the DOI", self.doi, "10.…/…, without https://doi.org/")
        if self.published not in get_args(Published):
            refuse("the kind of publication", self.published, get_args(Published))

    @property
    def url(self) -> str | None:
        """Where it can be read: its DOI if there is one, else arXiv."""
        if self.doi is not None:
            return f"https://doi.org/{self.doi}"
        return None if self.arxiv is None else f"https://arxiv.org/abs/{self.arxiv}"

    def bibtex(self) -> str:
        """A BibTeX entry under the slug; what is not known is left out."""
        kind, place = {
            "conference": ("inproceedings", "booktitle"),
            "journal": ("article", "journal"),
            "preprint": ("misc", "howpublished"),
        }[self.published]
        lines = {
            "title": f"{{{_latex(self.title)}}}",  # a second pair of braces keeps the capitals
            "author": " and ".join(map(_latex, self.authors)),
            place: _latex(self.venue),
            "year": str(self.year),
            "doi": self.doi or "",
            "eprint": self.arxiv or "",
            "archiveprefix": "arXiv" if self.arxiv else "",
            "url": self.url or "",
        }
        body = ",\n".join(f"  {name} = {{{value}}}" for name, value in lines.items() if value)
        return f"@{kind}{{{self.slug},\n{body}\n}}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.__dict__, "authors": list(self.authors), "url": self.url}


@dataclass(frozen=True, kw_only=True)
class Network:
    """One public network of a paper, as the conformance suite and the index see it.

    Parameters
    ----------
    build
        Its builder, with keyword-only arguments; without any it builds the network in the paper's size.
    small
        Arguments with which it builds the same network small enough for a test of a second.
    inputs
        Gives example inputs, a tuple of tensors with ``n`` rows each, for a batch of ``n``, fit for the small network.
        The first rows of a larger batch need not be those of a smaller one.
    export
        Whether it can be exported to ONNX.
    """

    build: Callable[..., nn.Module]
    small: Mapping[str, Any] = field(hash=False)
    inputs: Callable[[int], tuple[Tensor, ...]]
    export: bool = True

    def __post_init__(self) -> None:
        parameters = inspect.signature(self.build).parameters
        wrong = [p.name for p in parameters.values() if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
        if wrong:
            raise OptionError(
                f"The builder {self.build!r} takes arguments by place", got=wrong, expected="keyword-only"
            )
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        unknown = [] if open_ended else sorted(set(self.small) - set(parameters))
        if unknown:
            raise OptionError(f"The builder {self.build!r} does not take these", got=unknown, expected=list(parameters))
        object.__setattr__(self, "small", MappingProxyType(dict(self.small)))

    def parameters(self) -> int:
        """Number of trainable parameters in the paper's size; nothing is allocated for them."""
        import torch

        with torch.device("meta"):
            network = self.build()
        return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _latex(text: str) -> str:
    return re.sub(r"([&%$#_])", r"\\\1", text)
