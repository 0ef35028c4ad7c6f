"""The documentation is true: generated blocks, links, commands, Python names and options, the table of contents."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import inspect
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
import yaml

import mien
from mien.cli import build
from mien.weights import Figure, InputContract, Operating, Weights

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    """``scripts/pages.py`` as a module."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / "scripts" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pages"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# --- Generated blocks ------------------------------------------------------------------------------------------------


def test_generated_blocks_are_what_the_code_says(pages: Any) -> None:
    assert pages.outdated() == [], "run: python scripts/pages.py"


def test_figures_are_those_of_the_bundled_files(pages: Any) -> None:
    assert pages.stale_figures() == [], "run: python scripts/measure.py"


def test_a_changed_block_is_noticed_and_rewritten(pages: Any, tmp_path: Path) -> None:
    for name in pages.PAGES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    readme = tmp_path / "README.md"
    whole = readme.read_text("utf-8")
    readme.write_text(whole.replace("`mien analyze`", "`mien analyse`"), "utf-8")
    assert pages.outdated(tmp_path) == ["README.md"]
    assert pages.outdated(tmp_path, rewrite=True) == ["README.md"]
    assert pages.outdated(tmp_path) == []
    assert readme.read_text("utf-8") == whole
    readme.write_text(whole.replace("<!-- verbs:end -->", ""), "utf-8")
    with pytest.raises(SystemExit, match="verbs:begin"):
        pages.outdated(tmp_path)


def declared(**more: Any) -> Weights:
    return Weights(
        name="some-embedder", task="embedding", sha256="0" * 64, size=2_500_000, licence="Apache-2.0", source="a test",
        build="a.b:c", input=InputContract(size=112), file="some-embedder.safetensors", **more,
    )  # fmt: skip


def figure(metric: str, value: float, **more: Any) -> Figure:
    return Figure(metric=metric, value=value, data="a set", protocol="with care", date="2026-01-02", unit="%", **more)


def test_a_section_shows_what_is_declared(pages: Any) -> None:
    weights = declared(
        command="mien train embedder steps=5",
        figures=(
            figure("accuracy", 95.123, low=94.5, high=95.75, n=3000),
            figure("FNMR with 0% discarded, quality by norm", 12.0),
            figure("FNMR with 20% discarded, quality by norm", 7.5),
            figure("face found", 99.0, group="all", n=60),
            figure("face found", 98.5, group="race: Black", n=30),
            figure("face found", 99.5, group="race: White", n=30),
            figure("face found", 97.0, group="age: 20-29", n=20),
        ),
        calibration=(Operating(fmr=1e-3, threshold=0.4321, low=0.4, high=0.45, fnmr=0.05, data="some pairs"),),
        macs=250_000_000,
        macs_input=(1, 3, 480, 640),
        parameters=1234567,
    )
    text = pages.weights_section(weights)
    for wanted in (
        "2.50 MB",
        "1,234,567",
        "250 million MACs at 640 x 480 px",
        "mien train embedder steps=5",
        "| accuracy | **95.12 %** | 94.50 to 95.75 | a set | 3,000 | 1 |",
        "1. With care. 2026-01-02.",
        "| 0.001 | 0.4321 | 0.4000 to 0.4500 | 5.00 % |",
        "Measured on some pairs",
        "| quality by | FNMR, 0 % discarded | FNMR, 20 % discarded |",
        "| norm | 12.00 % | 7.50 % |",
        "| race | face found |",
        "| Black | 98.50 % |",
        "| **all** | 99.00 % |",
        "| age | face found |",
    ):
        assert wanted in text, f"{wanted!r} is not in:\n{text}"
    assert text.count("face found: a set; with care") == 1, "one protocol is told once, however many groups there are"


def test_differences_of_the_ablation_are_to_the_first_setting(pages: Any, tmp_path: Path) -> None:
    path = tmp_path / "ablation.csv"
    path.write_text(
        "setting,seed,steps,batch,accuracy,auc,seconds,date\n"
        "reference,0,450,128,0.9000,0.9600,60,2026-01-02\n"
        "no mirroring,0,450,128,0.8755,0.9400,60,2026-01-02\n"
        "reference,1,450,128,0.9100,0.9700,60,2026-01-03\n"
    )
    head, _, *rows, _, about = pages.ablation(path).splitlines()
    assert head == "| setting | accuracy | AUC | difference |"
    assert rows == [
        "| reference | 90.50 % (90.00 to 91.00) | 96.50 % |  |",
        "| no mirroring | 87.55 % | 94.00 % | -2.95 |",
    ]
    assert about == "450 steps of 128 pictures, 2 seeds a setting, 2026-01-02 to 2026-01-03."
    assert "Not measured" in pages.ablation(tmp_path / "none.csv")


def test_cells_cannot_break_a_table(pages: Any) -> None:
    assert pages.table(("a",), [("x | y\nz",)]).splitlines()[-1] == "| x \\| y z |"


# --- Links -----------------------------------------------------------------------------------------------------------


def links(text: str) -> Iterator[str]:
    """Targets of links and pictures outside of code."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`", "", text)
    yield from re.findall(r"!?\[[^\]]*\]\(([^)\s]+)", text)


def anchors(text: str) -> set[str]:
    """What the headings of a page are called in links, as GitHub and the site make it."""
    found = re.findall(r"^#+ +(.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    text = page.read_text("utf-8")
    for target in links(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(there.read_text("utf-8")), f"{name} links to {target}, which has no such heading"


# --- Commands --------------------------------------------------------------------------------------------------------


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """(language, code) of every fenced block, also of indented ones."""
    for match in re.finditer(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", text, flags=re.DOTALL | re.MULTILINE):
        indent, language, code = match.groups()
        yield language, "\n".join(line.removeprefix(indent) for line in code.splitlines())


def commands() -> list[tuple[str, str]]:
    """(page, line) of every ``mien …`` line of the documentation, continued lines joined."""
    found = []
    for page, name in zip(PAGES, NAMES, strict=True):
        for _, code in blocks(page.read_text("utf-8")):
            lines = code.replace("\\\n", " ").splitlines()
            # A synopsis is no command.
            found += [(name, line.strip()) for line in lines if line.startswith("mien ") and "[options]" not in line]
    return found


def test_there_are_commands_to_check() -> None:
    assert len(commands()) > 15


@pytest.fixture(scope="module")
def program() -> Any:
    return typer.main.get_command(build())


def complaint(program: Any, line: str) -> str | None:
    """What is wrong with a command line: an unknown command, option or argument, or a value of the wrong type.

    Nothing is run. Of typer's classes, which are its own or click's by its version, only what both have is used.
    """
    words = [word for word in shlex.split(line, comments=True) if word not in ("…", "...")][1:]
    command, name = program, "mien"
    while hasattr(command, "list_commands") and words and not words[0].startswith("-"):
        context = command.make_context(name, [], resilient_parsing=True)
        found = command.get_command(context, words[0])
        if found is None:
            near = difflib.get_close_matches(words[0], command.list_commands(context), 1)
            return f"{name} has no command {words[0]!r}; near: {near}"
        command, name, words = found, words[0], words[1:]
    try:
        command.make_context(name, list(words))
    except typer.Exit:  # --help, --version
        return None
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return str(error.format_message())
    return None


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_are_understood(program: Any, page: str, line: str) -> None:
    assert complaint(program, line) is None, f"{page}: {line}"


@pytest.mark.parametrize(
    "line",
    [
        "mien analyse a.jpg",
        "mien weights lst",
        "mien detect a.jpg --recursiv",
        "mien verify a.jpg",
        "mien embed a.jpg --size x",
    ],
)
def test_wrong_commands_would_be_noticed(program: Any, line: str) -> None:
    assert complaint(program, line)


# --- Python ----------------------------------------------------------------------------------------------------------


def snippets() -> list[tuple[str, str]]:
    found = []
    for page, name in zip(PAGES, NAMES, strict=True):
        found += [(name, code) for language, code in blocks(page.read_text("utf-8")) if language == "python"]
    return found


@pytest.mark.parametrize(("page", "code"), snippets())
def test_python_names_and_options_exist(page: str, code: str) -> None:
    """What follows ``mien.`` is there, and functions take the options that they are given."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and (path := dotted(node)) is not None:
            resolve(page, path)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mien":
            for alias in node.names:
                resolve(page, [*(node.module or "").split("."), alias.name])
        if isinstance(node, ast.Call) and (path := dotted(node.func)) is not None:
            called = resolve(page, path)
            if inspect.isfunction(called):
                wanted = [keyword.arg for keyword in node.keywords if keyword.arg is not None]
                signature = inspect.signature(called)
                if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values()):
                    assert set(wanted) <= set(signature.parameters), f"{page}: {'.'.join(path)}({', '.join(wanted)})"


def dotted(node: ast.expr) -> list[str] | None:
    """``["mien", "weights", "info"]`` of an expression that begins with ``mien``."""
    words: list[str] = []
    while isinstance(node, ast.Attribute):
        words.insert(0, node.attr)
        node = node.value
    return ["mien", *words] if isinstance(node, ast.Name) and node.id == "mien" and words else None


def resolve(page: str, path: list[str]) -> Any:
    value: Any = mien
    for number, word in enumerate(path[1:], 1):
        if not hasattr(value, word) and inspect.ismodule(value):
            name = ".".join(path[: number + 1])
            assert importlib.util.find_spec(name) is not None, f"{page}: there is no {name}"
            value = importlib.import_module(name)
            continue
        assert hasattr(value, word), f"{page}: there is no {'.'.join(path[: number + 1])}"
        value = getattr(value, word)
    return value


# --- The site --------------------------------------------------------------------------------------------------------


class Loader(yaml.SafeLoader):
    """Takes the tags for Python names, which only the site's own plugins can resolve, as text."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda _, suffix, node: suffix)


def leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from leaves(part)


def test_every_page_is_in_the_table_of_contents() -> None:
    config = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), Loader)
    listed = list(leaves(config["nav"]))
    there = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert set(listed) == there
    assert len(listed) == len(set(listed)), "a page is listed twice"
    assert config["strict"] is True


@pytest.mark.parametrize("name", NAMES)
def test_pages_name_no_place_of_anybodys_machine(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    assert not re.findall(r"(?<![\w.])/(?:home|root|work|tmp|Users|mnt)/\w+", text)
