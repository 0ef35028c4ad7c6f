"""The command line: the verbs, nothing else.

Every command is made from a verb's signature and docstring by `command`: positional parameters become
arguments, keyword-only ones options of the same name and default, their help the docstring's "Parameters".
Verbs do not print; what they return is shown here, as tables for people or with ``--json`` as JSON and
nothing else on stdout.

Exit codes: 0 done, 1 an error, 2 wrong usage, 3 done, but some pictures could not be read (they are listed at
the end).
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import math
import os
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from mien.errors import MienError, OptionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mien.data.formats import SetReport
    from mien.faces import Faces, Failure
    from mien.verbs.calibrate import Calibration
    from mien.verbs.cluster import Album
    from mien.verbs.enroll import Enrolment
    from mien.verbs.reproduce import Reproduced
    from mien.verbs.search import Found
    from mien.verbs.verify import Verdict

OK, FAILED, USAGE, PARTLY = 0, 1, 2, 3

COMMANDS: dict[str, tuple[str, ...]] = {
    "Look at faces": ("analyze", "detect", "align", "embed"),
    "Compare": ("verify", "calibrate", "evaluate", "probe"),
    "Audit": ("audit",),
    "People": ("enroll", "search", "people", "cluster", "gallery"),
    "Networks": ("weights", "train", "export"),
    "Papers": ("papers", "reproduce"),
    "Face sets": ("data", "curate", "generate"),
    "This machine": ("doctor", "demo"),
}
"""Panels of ``mien --help`` and the verbs in them. A module `mien.verbs.X` holds the function X; or, for a
group of commands, a dict `COMMANDS` from name to function. A verb's module is imported when the verb is used."""

SHORT = {"out": "-o", "recursive": "-r", "device": "-d"}
"""Options that bear a letter too, wherever they occur."""


# ------------------------------------------------------------------------------------------- from verb to command


@dataclass(frozen=True)
class Documented:
    """A docstring's first paragraph and the help of each parameter."""

    summary: str
    parameters: Mapping[str, str]


def read_docstring(function: Callable[..., Any]) -> Documented:
    """The summary and the "Parameters" of a numpy-style docstring, as running text."""
    lines = (inspect.getdoc(function) or "").splitlines()
    summary = _unmarked(_until_blank(lines))
    found: dict[str, list[str]] = {}
    inside, names = False, list[str]()
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if following.startswith("---") and set(following) == {"-"}:
            inside, names = line.strip() == "Parameters", []
        elif inside and line and not line.startswith((" ", "-")):
            names = [name.strip().lstrip("*") for name in line.split(":")[0].split(",")]
            found |= {name: [] for name in names}
        elif inside:
            for name in names:
                found[name].append(line.strip())
    return Documented(summary, {name: _unmarked(words) for name, words in found.items()})


def _unmarked(words: Iterable[str]) -> str:
    return " ".join(filter(None, words)).replace("`", "")


def _until_blank(lines: list[str]) -> list[str]:
    return lines[: lines.index("")] if "" in lines else lines


def command(verb: Callable[..., Any]) -> Callable[..., None]:
    """A function for typer that takes what `verb` takes, plus ``--json`` and ``--debug``."""
    documented = read_docstring(verb)
    parameters, convert = [], {}
    for parameter in inspect.signature(verb).parameters.values():
        if parameter.name == "progress":
            continue
        option, conversion = _option(parameter, _hint(verb, parameter), documented.parameters.get(parameter.name, ""))
        parameters.append(option)
        convert[parameter.name] = conversion
    # Arguments first, so that `inspect.Signature` accepts those without a default.
    parameters.sort(key=lambda p: p.default is not inspect.Parameter.empty)
    for name, text in (
        ("json", "Print the result as JSON, and nothing else."),
        ("debug", "Show where an error comes from."),
    ):
        annotation = Annotated[bool, typer.Option(f"--{name}", help=text)]
        parameters.append(
            inspect.Parameter(f"_{name}", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        )

    def run(**given: Any) -> None:
        as_json, debug = given.pop("_json"), given.pop("_debug")
        with _told(as_json=as_json, debug=debug):
            positional, named = _arguments(verb, {name: convert[name](value) for name, value in given.items()})
            with _progress(verb) as (console, more), _heard(console):
                result = verb(*positional, **named, **more)
            show(result, as_json=as_json)
            failures = getattr(result, "failures", ())
        if failures:
            raise typer.Exit(PARTLY)
        if getattr(result, "ok", True) is False:
            raise typer.Exit(FAILED)

    run.__name__ = verb.__name__
    run.__doc__ = documented.summary
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _hint(verb: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The parameter's type; its text where names are only known to type checkers.

    Each on its own, so that one name that only type checkers know does not cost the types of the others.
    """
    alone = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        return typing.get_type_hints(alone, globalns=verb.__globals__)[parameter.name]
    except NameError:
        return parameter.annotation


def _option(parameter: inspect.Parameter, hint: Any, text: str) -> tuple[inspect.Parameter, Callable[[Any], Any]]:
    """A typer parameter for a verb's, and what turns the given text into the verb's value."""
    name, default = parameter.name, parameter.default
    kind, conversion = _kind(hint, default)
    # typer takes what stands here at its value, so these are types made at run time: Any to a type checker.
    optional: Any = kind | None
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        info = typer.Argument(metavar="KEY=VALUE", help=text, show_default=False)
        return _typed(name, Annotated[list[str] | None, info], None), _key_values
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
        text = _for_terminal(text)
        if name == "source":
            info = typer.Argument(metavar="SOURCE", help=text, show_default=False)
            return _typed(name, Annotated[list[str], info]), _one_or_many
        if name == "slugs":
            info = typer.Argument(metavar="SLUG", help=text, show_default=False)
            return _typed(name, Annotated[list[str] | None, info], None), _same
        if default is inspect.Parameter.empty:
            info = typer.Argument(metavar=name.upper(), help=text, show_default=False)
            return _typed(name, Annotated[kind, info]), conversion
        info = typer.Argument(metavar=name.upper(), help=text, show_default=False)
        return _typed(name, Annotated[optional, info], default), conversion
    flag = "--" + name.replace("_", "-")
    letter = [SHORT[name]] if name in SHORT else []
    if kind is bool:
        # Without an opposite there would be no way to say no to what is on, or undecided, by itself.
        declared = [flag, *letter] if default is False else [f"{flag}/--no-{flag[2:]}"]
        info = typer.Option(*declared, help=text, show_default=default is not None)
        return _typed(name, Annotated[optional if default is None else bool, info], default), conversion
    if isinstance(default, list | tuple | set | frozenset):
        default = ",".join(f"{item:g}" if isinstance(item, float) else str(item) for item in default)
    info = typer.Option(
        flag,
        *letter,
        help=text,
        metavar=None if conversion is _same else "A,B,…",
        show_default=default not in (None, "", inspect.Parameter.empty),
    )
    return _typed(name, Annotated[optional if default is None else kind, info], default), conversion


def _typed(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _kind(hint: Any, default: Any) -> tuple[type, Callable[[Any], Any]]:
    """The plain type a terminal can give for a verb's type, and the way from there."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in arguments if a is not type(None)]
        plain = [a for a in inner if a in (bool, int, float, str)]
        return _kind(str if str in plain else plain[0] if plain else inner[0], default)
    if origin is Literal:
        return type(arguments[0]), _same
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return str, _list_of(arguments[0] if arguments else str)
    if hint in (bool, int, float, str):
        return hint, _same
    if type(default) in (bool, int, float):
        return type(default), _same
    return str, _same


def _same(value: Any) -> Any:
    return value


def _one_or_many(value: list[str]) -> str | list[str]:
    return value[0] if len(value) == 1 else value


def _list_of(kind: Any) -> Callable[[Any], Any]:
    def convert(value: str | None) -> list[Any] | None:
        if value is None:
            return None
        try:
            return [kind(part) if kind in (int, float, str) else part for part in value.split(",") if part.strip()]
        except ValueError:
            raise OptionError("a list is given with commas", got=value, expected="such as 0.01,0.001") from None

    return convert


def _key_values(pairs: list[str] | None) -> dict[str, str]:
    values = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise OptionError("options of a recipe are given as key=value", got=pair, hint="such as steps=1000")
        values[key] = value
    return values


def _for_terminal(text: str) -> str:
    """Help without what only Python callers can give."""
    return re.sub(r"[;:,]? (?:in Python also [^.]*|path, array, [^.]*)", "", text).strip() or text


def _arguments(verb: Callable[..., Any], given: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Values for the positional and for the named parameters of `verb`."""
    positional, named = list[Any](), dict[str, Any]()
    for parameter in inspect.signature(verb).parameters.values():
        if parameter.name not in given:
            continue
        value = given[parameter.name]
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            named[parameter.name] = value
        else:
            positional.append(value)
    return positional, named


# ------------------------------------------------------------------------------------------- around a verb


@contextmanager
def _told(*, as_json: bool, debug: bool) -> Iterator[None]:
    """Errors as a small panel (or as JSON) and exit code 1."""
    try:
        yield
    except MienError as error:
        if debug:
            traceback.print_exc()
        if as_json:
            print(json.dumps({"error": error.to_dict()}, indent=2, default=str))
        else:
            _stderr().print(error_panel(error))
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        _stderr().print("[dim]stopped[/dim]")
        raise typer.Exit(130) from None


@contextmanager
def _progress(verb: Callable[..., Any]) -> Iterator[tuple[Console, dict[str, Any]]]:
    """The console of stderr, and the verb's `progress` option as a bar on it, if it has one and somebody watches."""
    console = _stderr()
    if "progress" not in inspect.signature(verb).parameters or not console.is_terminal:
        yield console, {}
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=None)

        def advance(done: float, total: float | None = None, what: str = "") -> None:
            bars.update(task, description=what, completed=done, total=total)

        yield console, {"progress": advance}


class _Lines(logging.Handler):
    """Log records as lines of a console, above its progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(Text(record.getMessage(), "dim"), soft_wrap=True)


@contextmanager
def _heard(console: Console) -> Iterator[None]:
    """What the package logs (a training run its resolved recipe, say) on stderr while a verb runs."""
    logger, lines = logging.getLogger("mien"), _Lines(console)
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)


def _stdout() -> Console:
    return _console()


def _stderr() -> Console:
    return _console(stderr=True)


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 1000  # a name that is cut in two at column 80 is not found by grep
    return console


# ------------------------------------------------------------------------------------------- results


def show(result: Any, *, as_json: bool = False, console: Console | None = None) -> None:
    """Prints what a verb returned."""
    if as_json:
        print(_json(result))
        return
    console = console or _stdout()
    if result is not None:
        console.print(rendered(result))
    failures = getattr(result, "failures", ())
    if failures:
        _stderr().print(failure_table(failures))


def _json(result: Any) -> str:
    if hasattr(result, "to_json"):
        return str(result.to_json())
    return json.dumps(_plain(result), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    """What JSON has words for; NaN and infinity, for which it has none, become null."""
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # an array or a number of numpy or torch
        return _plain(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def rendered(result: Any) -> RenderableType:
    """A result as something rich can print."""
    from mien.data.formats import Report
    from mien.faces import Faces
    from mien.verbs.calibrate import Calibration
    from mien.verbs.cluster import Album
    from mien.verbs.enroll import Enrolment
    from mien.verbs.reproduce import Reproduced
    from mien.verbs.search import Found
    from mien.verbs.verify import Verdict

    if isinstance(result, str | Path):
        return Text(str(result))
    if isinstance(result, Faces):
        return faces_table(result)
    if isinstance(result, Verdict):
        return verdict_panel(result)
    if isinstance(result, Calibration):
        return calibration_table(result)
    if isinstance(result, Reproduced):
        return reproduced_table(result)
    if isinstance(result, Enrolment):
        return enrolment_table(result)
    if isinstance(result, Found):
        return found_table(result)
    if isinstance(result, Album):
        return album_table(result)
    if isinstance(result, Report):
        return Group(*(part for one in result.sets for part in (set_report(one), Text())))
    return anything(_plain(result))


def faces_table(faces: Faces, *, most: int = 60) -> RenderableType:
    """One row a face, with the columns that are there, and a line that sums up."""
    from mien.faces import EXPRESSIONS

    found = f"{_count(len(faces), 'face')} in {_count(len(faces.images), 'picture')}"
    if not len(faces):
        return Text(found, "yellow")
    columns = set(faces.columns)
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("picture", overflow="fold")
    needs = {
        "box": "boxes", "score": "scores", "yaw": "pose", "pitch": "pose", "roll": "pose", "quality": "quality",
        "looks": "age", "shows": "expressions", "embedding": "embeddings",
    }  # fmt: skip
    for name, needed in needs.items():
        if needed in columns:
            table.add_column(name, justify="left" if name in ("box", "shows", "embedding") else "right", no_wrap=True)
    last = -1
    for row in range(min(len(faces), most)):
        index = int(faces.image[row])
        info = faces.images[index]
        where = info.source if info.time_s is None else f"{info.source} {info.time_s:.2f} s"
        cells: list[RenderableType] = [Text(where) if index != last else Text("″", "dim")]
        last = index
        if "boxes" in columns:
            x0, y0, x1, y1 = faces.boxes[row]
            cells.append(f"{x1 - x0:.0f} × {y1 - y0:.0f} at {x0:.0f}, {y0:.0f}")
        if "scores" in columns:
            cells.append(f"{faces.scores[row]:.2f}")
        if "pose" in columns:
            cells += [f"{angle:+.0f}°" for angle in faces.pose[row]]
        if "quality" in columns:
            cells.append(_graded(float(faces.quality[row])))
        if "age" in columns:
            cells.append(f"{faces.age[row]:.0f} [dim]years[/dim]")
        if "expressions" in columns:
            best = int(faces.expressions[row].argmax())
            cells.append(f"{EXPRESSIONS[best]} [dim]{100 * faces.expressions[row, best]:.0f} %[/dim]")
        if "embeddings" in columns:
            start = " ".join(f"{value:+.2f}" for value in faces.embeddings[row][:3])
            cells.append(f"[dim]{start} … ({faces.embeddings.shape[1]})[/dim]")
        table.add_row(*cells)
    left = len(faces) - most
    tail = f", {left} more not shown (--json or --csv gives all)" if left > 0 else ""
    return Group(table, Text(f"\n{found}{tail}", "bold"))


def verdict_panel(verdict: Verdict) -> RenderableType:
    """The verdict large, then how it came about."""
    style, word = {
        True: ("green", "same person"),
        False: ("red", "different people"),
        None: ("yellow", "cannot judge"),
    }[verdict.same]
    scale = Table.grid(padding=(0, 2))
    scale.add_column(style="dim")
    scale.add_column()
    if verdict.similarity is not None:
        scale.add_row("similarity", f"{verdict.similarity:.3f}")
    interval = ""
    if verdict.threshold_low is not None and verdict.threshold_high is not None:
        interval = f"  [dim]95 % interval {verdict.threshold_low:.3f} to {verdict.threshold_high:.3f}[/dim]"
    scale.add_row("threshold", f"{verdict.threshold:.3f}{interval}")
    if verdict.fmr is not None:
        measured = _escaped(f"measured on {verdict.measured_on}")
        scale.add_row("false match rate", f"{verdict.fmr:g}  [dim]{measured}[/dim]")
    for name, chosen in (("a", verdict.a), ("b", verdict.b)):
        seen = "no face" if chosen.index is None else _count(chosen.faces, "face")
        quality = "" if chosen.quality is None else f", quality {_graded(chosen.quality)}"
        scale.add_row(f"picture {name}", f"{_escaped(chosen.source)}: {seen}{quality}")
    for remark in verdict.remarks:
        scale.add_row(Text("blocks" if remark.blocks else "note", "yellow"), remark.text)
    body = Group(Text(verdict.explanation), Text(), scale)
    return Panel(
        body,
        title=f"[bold {style}]{word}[/]",
        title_align="left",
        border_style=style,
        expand=False,
        padding=(1, 2),
    )


def calibration_table(table: Calibration) -> RenderableType:
    """Thresholds by false match rate."""
    rows = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("FMR", "threshold", "95 % interval", "FNMR"):
        rows.add_column(name, justify="right")
    for p in table.points:
        interval = "" if p.low is None or p.high is None else f"{p.low:.3f} … {p.high:.3f}"
        rows.add_row(f"{p.fmr:g}", f"{p.threshold:.4f}", interval, "" if p.fnmr is None else f"{p.fnmr:.2%}")
    about = f"\n{table.same:,} same and {table.different:,} different pairs of {table.set}, {table.date}"
    return Group(rows, Text(about, "dim"), Text(f"for embeddings of {table.contract}", "dim"))


def enrolment_table(result: Enrolment, *, most: int = 60) -> RenderableType:
    """What is in the gallery now, and the pictures that were refused, with reasons."""
    parts: list[RenderableType] = []
    if result.refused:
        table = Table(box=None, header_style="dim", pad_edge=False)
        table.add_column("refused", overflow="fold")
        table.add_column("for", overflow="fold")
        table.add_column("kind", style="yellow", no_wrap=True)
        table.add_column("why", overflow="fold")
        for one in result.refused[:most]:
            table.add_row(Text(one.source), Text(one.person), one.reason.replace("_", " "), Text(one.text))
        left = len(result.refused) - most
        parts += [table, Text(f"{left:,} more not shown (--json gives all)\n" if left > 0 else "", "dim")]
    people = len({face.person for face in result.faces})
    new = f", {result.new_people:,} of them new" if result.new_people else ""
    who = f" of {people:,} {'person' if people == 1 else 'people'}{new}" if people else ""
    parts.append(Text(f"{_count(result.enrolled, 'face')}{who} enrolled in {result.gallery}", "bold"))
    rest = {"enrolled before": result.already, "refused": len(result.refused), "unreadable": len(result.failures)}
    told = ", ".join(f"{count:,} {what}" for what, count in rest.items() if count)
    parts.append(Text(f"{_count(result.pictures, 'picture')}{': ' if told else ''}{told}", "dim"))
    return Group(*parts)


def found_table(result: Found, *, most: int = 60) -> RenderableType:
    """A row a face: who it is, how similar, and what comes near."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("picture", "face", "person", "similarity", "like", "others"):
        table.add_column(name, justify="right" if name in ("face", "similarity") else "left", overflow="fold")
    last: tuple[str, float | None] | None = None
    for face in result.faces[:most]:
        where = (face.source, face.time_s)
        text = face.source if face.time_s is None else f"{face.source} {face.time_s:.2f} s"
        others = face.matches[1:] if face.person is not None else face.matches
        table.add_row(
            Text("″", "dim") if where == last else Text(text),
            str(face.face),
            Text(face.person, "bold green") if face.person is not None else Text(face.remark or "nobody", "yellow"),
            f"{face.matches[0].similarity:.3f}" if face.person is not None else "",
            Text(face.matches[0].source, "dim") if face.person is not None else "",
            Text(", ".join(f"{match.person} {match.similarity:.3f}" for match in others), "dim"),
        )
        last = where
    level = result.threshold
    rate = "" if level.fpir is None else f", which {level.fpir:.3g} of searches for strangers reach"
    beyond = ", beyond what was measured" if level.extrapolated else ""
    searched = f"{_count(result.enrolled, 'face')} searched"
    about = f"shown from {level.threshold:.3f} on{rate} ({level.origin}{beyond}); {searched}"
    left = len(result.faces) - most
    parts: list[RenderableType] = [table] if result.faces else [Text("no face was found", "yellow")]
    parts += [Text(f"{left:,} more not shown (--json gives all)", "dim")] if left > 0 else []
    parts += [Text(f"no face in {source}", "yellow") for source in result.faceless[:most] if result.faces]
    return Group(*parts, Text(f"\n{about}", "dim"))


def album_table(album: Album, *, most: int = 30) -> RenderableType:
    """A row a person, and where the album is."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("person", "faces", "pictures", "best picture"):
        table.add_column(name, justify="right" if name in ("faces", "pictures") else "left", overflow="fold")
    for person in album.people[:most]:
        table.add_row(
            Text(person.name, "green" if person.known else ""), str(len(person.faces)), str(person.pictures),
            Text(person.faces[0].source, "dim"),
        )  # fmt: skip
    left = len(album.people) - most
    total = f"{_count(album.faces, 'face')} in {_count(album.pictures, 'picture')}: {len(album.people):,} people"
    rest = f", {len(album.alone):,} alone, {len(album.poor):,} not compared"
    parts: list[RenderableType] = [table] if album.people else []
    parts += [Text(f"{left:,} more not shown (--json gives all)", "dim")] if left > 0 else []
    parts.append(Text(f"\n{total}{rest}", "bold"))
    if album.out:
        parts.append(Text(f"open {Path(album.out) / 'index.html'}"))
    return Group(*parts)


def reproduced_table(result: Reproduced) -> RenderableType:
    """A row a claim with its verdict, what each says, and the claims that could not be run."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("claim", "metric", "baseline", "idea", "difference", "spread", "needed", "verdict"):
        numeric = name in ("baseline", "idea", "difference", "spread", "needed")
        table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    style = {"holds": "bold green", "does not hold": "bold red", "inconclusive": "bold yellow"}
    about: list[RenderableType] = []
    for outcome in result.outcomes:
        row, claim = outcome.row, outcome.claim
        table.add_row(
            Text(f"{row.slug}/{row.claim}"),
            Text(f"{row.metric} {'↑' if claim.better == 'higher' else '↓'}"),
            f"{row.baseline:.4g}",
            f"{row.idea:.4g}",
            f"{row.difference:+.4g}",
            f"{row.spread:.2g}",
            f"> {claim.margin:g}",
            Text(row.verdict, style[row.verdict]),
        )
        ran = f"{row.scale} scale, {row.data}, {_count(len(row.seeds), 'seed')}, {row.seconds:.0f} s"
        bounds = f"95 % bounds of the difference {outcome.low:+.4g} and {outcome.high:+.4g}"
        about += [Text(f"\n{claim.says}"), Text(f"{ran}; {bounds}", "dim")]
    parts: list[RenderableType] = [table, *about, Text(f"\nadded to {result.table}", "dim")] if result.outcomes else []
    parts += [Text.assemble("\n", (one.claim, "bold red"), f" could not be run: {one.error}") for one in result.failed]
    return Group(*parts)


def set_report(one: SetReport) -> RenderableType:
    """What a set is, what is in it, and a table of what is broken."""
    state = "[green]whole[/]" if one.ok else f"[red]{_count(sum(one.found.values()), 'problem')}[/]"
    about = _plain(one.counts) if one.counts is not None else {}
    about = {key: item for key, item in about.items() if item}
    for key in ("sizes", "pairs", "more"):
        if key in about:
            about[key] = ", ".join(f"{name} ({count:,})" for name, count in about[key].items())
    about |= {key: " x ".join(map(str, about[key])) for key in ("smallest", "largest") if key in about}
    head = Text.from_markup(f"[bold]{one.format}[/] {_escaped(one.path)}: {state}")
    about["decoded"] = one.decoded
    if one.ok:
        return Group(head, anything(about))
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("kind", style="red", no_wrap=True)
    table.add_column("where", overflow="fold")
    table.add_column("what", overflow="fold")
    for problem in one.problems:
        table.add_row(problem.kind.replace("_", " "), Text(problem.where), Text(problem.what))
    found = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in one.found.items())
    shown = len(one.problems)
    tail = "" if shown == sum(one.found.values()) else f"; {shown} shown, --most gives more"
    return Group(head, anything(about), Text(), table, Text(f"{found}{tail}", "bold"))


def anything(value: Any, *, depth: int = 0) -> RenderableType:
    """Plain values: a mapping as two columns, a list of mappings as a table, everything else as text."""
    if isinstance(value, Mapping):
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for key, item in value.items():
            if item not in (None, "", [], {}, ()) and key != "failures":
                grid.add_row(str(key).replace("_", " "), anything(item, depth=depth + 1))
        return grid
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        names = [name for name in value[0] if all(not isinstance(item.get(name), dict | list) for item in value)]
        table = Table(box=None, header_style="dim", pad_edge=False)
        for name in names:
            numeric = all(isinstance(item.get(name), int | float) for item in value)
            table.add_column(name.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
        for item in value:
            table.add_row(*(_cell(item.get(name)) for name in names))
        return table
    if isinstance(value, list):
        if not value:
            return Text("nothing", "dim")
        if len(value) == 2 and all(isinstance(item, float) for item in value):
            return Text(f"{_cell(value[0])} … {_cell(value[1])}")
        return Text(", ".join(_cell(item) for item in value[:8]) + (f" … ({len(value)})" if len(value) > 8 else ""))
    return Text(_cell(value))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def error_panel(error: MienError) -> Panel:
    """What, got, expected, do: one line each."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    details = error.to_dict()
    for key, label in (("got", "got"), ("expected", "expected"), ("hint", "do this")):
        if details.get(key) not in (None, ""):
            grid.add_row(label, Text(str(details[key]), "bold" if key == "hint" else ""))
    what = Text(error.what[:1].upper() + error.what[1:])
    body = Group(what, Text(), grid) if grid.row_count else what
    title = f"[bold red]{error.code.replace('_', ' ')}[/]"
    return Panel(body, title=title, title_align="left", border_style="red", expand=False, padding=(0, 1))


def failure_table(failures: Iterable[Failure]) -> RenderableType:
    """The pictures that could not be read, and why."""
    rows = list(failures)
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("picture", overflow="fold")
    table.add_column("kind", style="red", no_wrap=True)
    table.add_column("why", overflow="fold")
    for failure in rows:
        table.add_row(Text(failure.source), failure.code.replace("_", " "), Text(failure.error))
    return Group(Text(f"\n{_count(len(rows), 'picture')} could not be read", "bold red"), table)


def _graded(value: float) -> str:
    style = "green" if value >= 0.6 else "yellow" if value >= 0.3 else "red"
    return f"[{style}]{100 * value:.0f}[/] [dim]of 100[/dim]"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


# ------------------------------------------------------------------------------------------- the program


def _version(asked: bool) -> None:
    if asked:
        from mien import __version__

        print(f"mien {__version__}")
        raise typer.Exit


class Verbs(TyperGroup):
    """The program's commands, each made when it is asked for.

    ``mien doctor`` so starts without the other verbs, and goes on working when one of them is broken.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for names in COMMANDS.values() for name in names]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        known = self.list_commands(ctx)
        # A name that nobody knows is answered with the nearest, for which typer wants to see all of them.
        for name in [cmd_name] if cmd_name in known else known:
            if name not in self.commands:
                self.commands[name] = made(name)
        return self.commands.get(cmd_name)


def made(name: str) -> Any:
    """The command of a verb, or its group of commands."""
    module = importlib.import_module(f"mien.verbs.{name}")
    panel = next(panel for panel, names in COMMANDS.items() if name in names)
    verb = getattr(module, name, None)
    if callable(verb):
        app = _app()
        app.command(name, rich_help_panel=panel)(command(verb))
        return typer.main.get_command(app)
    about = (module.__doc__ or "").partition("\n\n")[0].partition(": ")[2]
    app = _app(name=name, no_args_is_help=True, help=about[:1].upper() + about[1:])
    app.callback()(lambda: None)  # a group, even if it has one command only
    for part, function in module.COMMANDS.items():
        app.command(part)(command(function))
    group = typer.main.get_command(app)
    group.rich_help_panel = panel  # type: ignore[attr-defined]
    return group


def _app(*, completion: bool = False, **more: Any) -> typer.Typer:
    return typer.Typer(
        add_completion=completion,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **more,
    )


def build() -> typer.Typer:
    """The whole command line."""
    app = _app(name="mien", cls=Verbs, completion=True, no_args_is_help=True)

    @app.callback(help="Find, align, read, recognise and verify faces: offline, with weights you may use.")
    def root(
        version: Annotated[
            bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
        ] = False,
    ) -> None: ...

    return app


def main() -> None:
    """The console script ``mien``."""
    for stream in (sys.stdout, sys.stderr):
        # A pipe in an 8-bit locale must not turn a degree sign into a crash.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    build()(prog_name="mien")


if __name__ == "__main__":
    main()
