"""The public API is a file under test, and every verb keeps the rules of a verb.

`public_api.txt` holds every public name with its signature, a parameter a line. What disappears or changes
there breaks somebody's program, so it fails here until the file says so too:

    python tests/test_public_api.py --update
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer

import mien
from mien import cli
from mien.errors import describe

SNAPSHOT = Path(__file__).with_name("public_api.txt")
UPDATE = "python tests/test_public_api.py --update"
PACKAGES = (
    "mien",
    "mien.errors",
    "mien.faces",
    "mien.media",
    "mien.geometry",
    "mien.metrics",
    "mien.papers",
    "mien.weights",
)
"""Packages that people import from. The others are for those who read them."""

Verb = Callable[..., Any]


# ------------------------------------------------------------------------------------------- the snapshot


def described(name: str, thing: Any) -> Iterator[str]:
    """The lines that hold what can be relied on of one public thing."""
    if isinstance(thing, types.ModuleType) and not callable(thing):
        yield f"{name} is a module"
        if thing.__name__ not in PACKAGES and hasattr(thing, "__all__"):
            for part in thing.__all__:
                yield from described(f"{name}.{part}", getattr(thing, part))
    elif inspect.isclass(thing):
        yield from class_lines(name, thing)
    elif inspect.isroutine(thing) or isinstance(thing, types.ModuleType):
        yield from signature_lines(name, inspect.signature(thing))
    else:
        kind = "type" if typing.get_origin(thing) is not None else type(thing).__name__
        yield f"{name}: {kind}"  # a constant; its value may change


def class_lines(name: str, kind: type) -> Iterator[str]:
    bases = ", ".join(base.__name__ for base in kind.__bases__ if base is not object)
    yield f"{name} is a class({bases})"
    if issubclass(kind, enum.Enum):
        yield from (f"{name}.{member.name} = {member.value!r}" for member in kind)
        return
    if kind.__init__ is not object.__init__ and not issubclass(kind, Mapping):
        own = kind.__init__ if not issubclass(kind, BaseException) or "__init__" in vars(kind) else None
        if own is not None:
            yield from signature_lines(f"{name}()", inspect.signature(kind), returns=False)
    fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    for part, value in sorted(vars(kind).items()):
        if part.startswith("_") or part in fields or inspect.isclass(value):
            continue
        value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if inspect.isfunction(value):
            yield from signature_lines(f"{name}.{part}", inspect.signature(value))
        else:
            yield f"{name}.{part}"  # a property, a column, a constant, a slot


def signature_lines(name: str, signature: inspect.Signature, *, returns: bool = True) -> Iterator[str]:
    yield f"{name} -> {spelled(signature.return_annotation)}" if returns else name
    marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        keyword = "keyword " if parameter.kind is inspect.Parameter.KEYWORD_ONLY else ""
        default = "" if parameter.default is inspect.Parameter.empty else f" = {default_of(parameter.default)}"
        text = f"{marks.get(parameter.kind, '')}{parameter.name}: {spelled(parameter.annotation)}{default}"
        yield f"{name} | {keyword}{text}"


def spelled(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return "?"
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def default_of(value: Any) -> str:
    if type(value).__name__ == "_HAS_DEFAULT_FACTORY_CLASS":
        return "…"
    # An array by its shape, and a long table by its beginning: one line each.
    text = describe(value) if hasattr(value, "dtype") else repr(value)
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return text if len(text) <= 80 else f"{text[:79]}…"


@functools.cache
def api() -> tuple[str, ...]:
    packages = {name: importlib.import_module(name) for name in PACKAGES}
    lines: list[str] = []
    for package, module in packages.items():
        for name in module.__all__:
            thing = getattr(module, name)
            homes = [home for home in PACKAGES[1:] if thing is getattr(packages[home], name, None)]
            if package == "mien" and homes:
                lines.append(f"mien.{name} is {homes[0]}.{name}")  # and described there
            else:
                lines += described(f"{package}.{name}", thing)
    return tuple(lines)


def recorded() -> list[str]:
    assert SNAPSHOT.exists(), f"there is no {SNAPSHOT.name}; make it with: {UPDATE}"
    return [line for line in SNAPSHOT.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def test_nothing_public_disappears_or_changes() -> None:
    gone = [line for line in recorded() if line not in set(api())]
    assert not gone, (
        f"{len(gone)} lines of {SNAPSHOT.name} are no longer true:\n  "
        + "\n  ".join(gone)
        + "\nPrograms that use them break. If nobody can be meant by that, bring them back; if it must be, run\n  "
        + f"{UPDATE}\nand write a line into CHANGELOG.md that says what to use instead."
    )


def test_new_public_names_are_recorded() -> None:
    new = [line for line in api() if line not in set(recorded())]
    assert not new, (
        f"public and not in {SNAPSHOT.name}:\n  "
        + "\n  ".join(new)
        + f"\nA name there is a promise. If it is meant, run\n  {UPDATE}\nand write a line into CHANGELOG.md."
    )


def test_the_snapshot_says_nothing_about_this_machine() -> None:
    text = SNAPSHOT.read_text(encoding="utf-8")
    assert not re.search(r"0x[0-9a-f]{6}|/home/|/root/|/tmp/", text)
    assert len(recorded()) == len(set(recorded()))


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_exact_and_sorted(package: str) -> None:
    module = importlib.import_module(package)
    # Constants, classes, functions: as ruff sorts them; in `mien` itself there are no constants.
    kinds = [(0 if n.isupper() else 1 if n[0].isupper() else 2, n) for n in module.__all__ if n != "__version__"]
    assert kinds == sorted(kinds)
    for name in module.__all__:
        assert hasattr(module, name), name


# ------------------------------------------------------------------------------------------- the rules of verbs


@functools.cache
def verbs() -> dict[str, Verb]:
    """Every verb by the words of its command."""
    found: dict[str, Verb] = {}
    for names in cli.COMMANDS.values():
        for name in names:
            module = importlib.import_module(f"mien.verbs.{name}")
            if callable(verb := getattr(module, name, None)):
                found[name] = verb
            else:
                found |= {f"{name} {part}": function for part, function in module.COMMANDS.items()}
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "verb" in metafunc.fixturenames:
        metafunc.parametrize("verb", verbs().values(), ids=verbs())


SUBJECTS = {"source", "a", "b", "pairs", "recipe", "name", "slug", "slugs", "path", "target", "file"}
"""What a verb works on, and so may be given by place."""

SAME = {
    "backend": "torch",
    "batch_size": 8,
    "choose": "largest",
    "detector": "mien-detector",
    "device": "auto",
    "embedder": "mien-embedder",
    "every_s": None,
    "landmarks": "mien-landmarks",
    "recursive": False,
    "seed": 0,
    "size": 640,
}
"""Options that mean the same in every verb, so that they have the same default in every verb."""


def sections(verb: Verb) -> dict[str, list[str]]:
    """The lines of each section of a numpy-style docstring; "" is what comes before the first."""
    found: dict[str, list[str]] = {"": []}
    lines = (inspect.getdoc(verb) or "").splitlines()
    name = ""
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if following.startswith("---") and set(following) == {"-"}:
            name = line.strip()
            assert name not in found, f"two sections {name}"
            found[name] = []
        elif not (line.startswith("---") and set(line) == {"-"}):
            found[name].append(line)
    return found


def test_options_are_given_by_name(verb: Verb) -> None:
    for parameter in inspect.signature(verb).parameters.values():
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            assert parameter.name in SUBJECTS, f"{parameter.name} must be keyword-only"
            assert parameter.default in (inspect.Parameter.empty, None)
        else:
            assert parameter.kind is not inspect.Parameter.VAR_POSITIONAL


def test_every_parameter_is_typed_and_says_what_it_returns(verb: Verb) -> None:
    signature = inspect.signature(verb)
    assert signature.return_annotation not in (inspect.Signature.empty, "Any", "dict[str, Any]")
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        if parameter.name != "progress":
            hint = cli._hint(verb, parameter)
            assert not isinstance(hint, str), f"{parameter.name}: {hint} is known to type checkers only"


def test_the_docstring_says_all(verb: Verb) -> None:
    parts = sections(verb)
    # A command's help begins with this: one sentence or two, about what the verb does.
    summary = " ".join(parts[""]).strip()
    assert summary[:1].isupper()
    assert summary.endswith(".")
    assert parts.get("Returns"), "no section Returns"
    assert parts.get("Raises"), "no section Raises"
    wanted = [p.name for p in inspect.signature(verb).parameters.values()]
    given = [
        name.strip().lstrip("*")
        for line in parts.get("Parameters", [])
        if line and not line.startswith(" ")
        for name in line.split(":")[0].split(",")
    ]
    assert given == wanted, "Parameters names other parameters than the function has, or in another order"
    helps = cli.read_docstring(verb).parameters
    for name in wanted:
        assert helps[name].endswith((".", "…", "…)")), f"the help of {name} is no sentence: {helps[name]!r}"


def test_the_errors_it_names_exist(verb: Verb) -> None:
    raised = [name for line in sections(verb)["Raises"] if not line.startswith(" ") for name in line.split(",")]
    for name in filter(None, map(str.strip, raised)):
        assert name in mien.errors.__all__, f"{name} is not an error of mien"


def test_what_is_called_the_same_is_the_same(verb: Verb) -> None:
    for parameter in inspect.signature(verb).parameters.values():
        if parameter.name in SAME:
            assert parameter.default == SAME[parameter.name], parameter.name
            assert type(parameter.default) is type(SAME[parameter.name]), parameter.name


def test_what_is_called_the_same_has_one_type() -> None:
    spellings: dict[str, dict[str, list[str]]] = {}
    for words, verb in verbs().items():
        for parameter in inspect.signature(verb).parameters.values():
            text = str(parameter.annotation).replace(" | None", "").replace("str | os.PathLike[str]", "str")
            if parameter.name in SAME or parameter.name in ("progress", "images", "out", "weights", "threshold"):
                spellings.setdefault(parameter.name, {}).setdefault(text, []).append(words)
    assert not {name: uses for name, uses in spellings.items() if len(uses) > 1}


def test_the_command_has_the_options_of_the_function(verb: Verb) -> None:
    words = next(name for name, function in verbs().items() if function is verb).split()
    node: Any = typer.main.get_command(cli.build())
    for word in words:
        node = node.get_command(None, word)
        assert node is not None
    spoken = {param.name: param for param in node.params if param.name not in ("_json", "_debug", "help")}
    wanted = [p for p in inspect.signature(verb).parameters.values() if p.name != "progress"]
    assert set(spoken) == {p.name for p in wanted}
    for parameter in wanted:
        param = spoken[parameter.name]
        assert param.help.strip()
        assert "`" not in param.help
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            assert "--" + parameter.name.replace("_", "-") in param.opts
            assert param.param_type_name == "option"
        else:
            assert param.param_type_name == "argument"
    assert {"--json", "--debug"} <= {opt for param in node.params for opt in param.opts}


@pytest.mark.parametrize("name", [name for names in cli.COMMANDS.values() for name in names])
def test_every_command_is_there_in_python_too(name: str) -> None:
    assert name in mien.__all__
    there = getattr(mien, name)
    if name in verbs():
        assert inspect.signature(there) == inspect.signature(verbs()[name])
    elif name == "data":  # the package of formats, which the commands use
        assert {"check", "convert", "find", "read"} <= set(there.__all__)
    elif name == "gallery":  # the package of galleries, which the commands open
        assert {"Gallery", "export_gallery", "import_gallery"} <= set(there.__all__)
    elif name == "weights":  # the package of weights, which the commands show
        assert {"info", "get", "verify", "list_weights"} <= set(there.__all__)
    else:
        for words, verb in verbs().items():
            if words.startswith(f"{name} "):
                assert getattr(there, words.split()[1]) is verb


def test_verbs_do_not_print(verb: Verb) -> None:
    source = inspect.getsource(sys.modules[verb.__module__])
    assert not re.search(r"(?<![\w.])print\(", source)


# ------------------------------------------------------------------------------------------- python … --update


def update() -> str:
    before = set(recorded()) if SNAPSHOT.exists() else set()
    head = f"# Public names of mien, a parameter a line. Made by: {UPDATE}"
    SNAPSHOT.write_text("\n".join([head, "", *api(), ""]), encoding="utf-8")
    now = set(api())
    changes = [f"- {line}" for line in sorted(before - now)] + [f"+ {line}" for line in sorted(now - before)]
    return "\n".join(changes) or "nothing has changed"


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        raise SystemExit(f"usage: {UPDATE}")
    sys.stdout.write(update() + "\n")
