"""What every paper keeps, whoever wrote it. A new paper is found by itself; nothing here needs to be edited for it.

Each rule is a function ``check_…`` that fails with the reason. The tests run it over all papers, and then over made-up
networks and papers that break it, so that a rule which nothing can break would be noticed.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
import typer.main
from torch import Tensor, nn

from mien import papers
from mien.claims import harness
from mien.cli import build
from mien.errors import MienError
from mien.papers import Network, Paper
from mien.papers.results import Row, read

ROOT = Path(__file__).parents[2]
PAPERS = papers.discover()
NETWORKS = [(slug, name) for slug, module in PAPERS.items() for name in getattr(module, "NETWORKS", {})]

TOLERANCE = 1e-4
"""Largest difference between two ways to the same output, in units of its largest value (of 1, where that is less)."""


# --- Networks --------------------------------------------------------------------------------------------------------


def made(network: Network, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return network.build(**network.small)


def example(network: Network, n: int) -> tuple[Tensor, ...]:
    torch.manual_seed(n)
    inputs = network.inputs(n)
    assert isinstance(inputs, tuple), "inputs(n) is a tuple of tensors"
    assert all(isinstance(one, Tensor) and len(one) == n for one in inputs), f"inputs({n}) have {n} rows each"
    return inputs


def leaves(output: Any) -> list[Tensor]:
    """The tensors of an output, however it is packed."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [leaf for value in output.values() for leaf in leaves(value)]
    if isinstance(output, list | tuple):
        return [leaf for value in output for leaf in leaves(value)]
    if is_dataclass(output):
        return [leaf for field in fields(output) for leaf in leaves(getattr(output, field.name))]
    assert output is None, f"an output holds a {type(output).__name__}"
    return []


def close(got: Tensor, want: Tensor, why: str) -> None:
    assert got.shape == want.shape, f"{why}: shape {tuple(got.shape)}, not {tuple(want.shape)}"
    gap = (got.double() - want.double()).abs().max().item() if want.numel() else 0.0
    assert gap <= TOLERANCE * max(1.0, want.double().abs().max().item() if want.numel() else 1.0), f"{why}: {gap:.2g}"


def check_builds(network: Network) -> None:
    """In small size, and in the paper's, for which no memory is taken."""
    assert isinstance(made(network), nn.Module)
    count = sum(parameter.numel() for parameter in made(network).parameters() if parameter.requires_grad)
    assert 0 < count <= 5_000_000, f"the small network has {count:,} parameters"
    assert network.parameters() >= count, "the paper's size is smaller than the small one"


def check_forward(network: Network) -> None:
    """Every output has a row for every row that went in, and only finite numbers."""
    module = made(network).eval()
    for n in (1, 2):
        with torch.no_grad():
            outputs = leaves(module(*example(network, n)))
        assert outputs, "no output"
        for number, output in enumerate(outputs):
            assert output.ndim > 0, f"output {number} is a single number"
            assert len(output) == n, f"output {number} has {len(output)} rows for {n}"
            assert torch.isfinite(output).all(), f"output {number} is not finite"


def check_backward(network: Network) -> None:
    """Every trainable parameter gets a gradient, in training mode."""
    module = made(network).train()
    outputs = [output for output in leaves(module(*example(network, 4))) if output.is_floating_point()]
    assert outputs, "no output that has a gradient"
    torch.manual_seed(1)  # random weights: a plain sum is constant for what is normalised
    torch.stack([(output * torch.randn_like(output)).sum() for output in outputs]).sum().backward()
    given = {name: one.grad for name, one in module.named_parameters() if one.requires_grad}
    without = [name for name, grad in given.items() if grad is None]
    assert not without, f"no gradient reaches {without[:5]}"
    assert all(torch.isfinite(grad).all() for grad in given.values()), "a gradient is not finite"
    assert any(grad.abs().max() > 0 for grad in given.values()), "all gradients are zero"


def check_batch(network: Network) -> None:
    """A row's output does not depend on its neighbours, and comes out the same a second time."""
    module = made(network).eval()
    inputs = example(network, 3)
    with torch.no_grad():
        whole = leaves(module(*inputs))
        for output, again in zip(whole, leaves(module(*inputs)), strict=True):
            close(again, output, "a second call gives something else")
        for row in range(3):
            alone = leaves(module(*(one[row : row + 1] for one in inputs)))
            for output, single in zip(whole, alone, strict=True):
                close(single, output[row : row + 1], f"row {row} alone gives something else than among others")


def check_state(network: Network) -> None:
    """Through a safetensors file into another instance, strictly, and out comes the same."""
    first, second = made(network, 0).eval(), made(network, 1).eval()
    state = {name: tensor.contiguous() for name, tensor in first.state_dict().items()}
    data = safetensors.torch.save(state)
    second.load_state_dict(safetensors.torch.load(data), strict=True)
    inputs = example(network, 2)
    with torch.no_grad():
        for got, want in zip(leaves(second(*inputs)), leaves(first(*inputs)), strict=True):
            assert torch.equal(got, want), "what makes the output is not all in the state"


def check_export(network: Network, folder: Path) -> None:
    """ONNX by onnxruntime gives the same, for batches of other sizes than the exported one."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="the extra onnx is not installed")
    import onnxruntime

    module = made(network).eval()
    batch = torch.export.Dim("batch")
    inputs = example(network, 2)
    file = folder / "network.onnx"
    with torch.no_grad():
        program = torch.onnx.export(
            module, inputs, dynamo=True, opset_version=18, dynamic_shapes=tuple({0: batch} for _ in inputs),
            external_data=False, verbose=False,
        )  # fmt: skip
    assert program is not None
    program.save(str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert not any(isinstance(one.shape[0], int) for one in session.get_inputs()), "the size of the batch is baked in"
    names = [one.name for one in session.get_inputs()]
    assert len(names) == len(inputs), "an input has no part in the output"
    for n in (1, 3):
        inputs = example(network, n)
        got = session.run(None, {name: one.numpy() for name, one in zip(names, inputs, strict=True)})
        with torch.no_grad():
            want = leaves(module(*inputs))
        for one, other in zip(got, want, strict=True):
            close(torch.from_numpy(one), other, f"ONNX with {n} rows differs")


CHECKS: tuple[Callable[[Network], None], ...] = (check_builds, check_forward, check_backward, check_batch, check_state)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize(("slug", "name"), NETWORKS)
def test_networks(slug: str, name: str, check: Callable[[Network], None]) -> None:
    check(PAPERS[slug].NETWORKS[name])


def exported() -> Iterator[Any]:
    """The networks to export; an export takes seconds, so that of each paper only the first is not slow."""
    seen = set[str]()
    for slug, name in NETWORKS:
        if PAPERS[slug].NETWORKS[name].export:
            yield pytest.param(slug, name, marks=[pytest.mark.slow] if slug in seen else [])
            seen.add(slug)


@pytest.mark.parametrize(("slug", "name"), list(exported()))
def test_export(slug: str, name: str, tmp_path: Path) -> None:
    check_export(PAPERS[slug].NETWORKS[name], tmp_path)


# --- Papers ----------------------------------------------------------------------------------------------------------


def check_card(module: ModuleType) -> None:
    """A card with authors, a docstring of three sentences, networks, and a verb that is there."""
    card: Paper = module.PAPER
    assert card.authors, "a paper with code names its authors"
    about = inspect.cleandoc(module.__doc__ or "")
    assert len(re.findall(r"[.!?:](?=\s|$)", about)) >= 3, "the docstring says in three sentences what the paper does"
    networks = getattr(module, "NETWORKS", None)
    assert isinstance(networks, dict), "NETWORKS is a dict of Network by name (it may be empty)"
    assert all(isinstance(one, Network) for one in networks.values()), "NETWORKS is a dict of Network by name"
    for name, one in networks.items():
        assert inspect.getdoc(one.build), f"the builder of {name} has no docstring"
    for declared in papers.weights(card.slug):
        assert declared.paper == card.slug, f"weights {declared.name} are declared for paper {declared.paper!r}"
    words = card.verb.split()[1:]
    command: Any = typer.main.get_command(build())
    while words and hasattr(command, "get_command"):
        name = words.pop(0)
        found = command.get_command(command.make_context("mien", [], resilient_parsing=True), name)
        assert found is not None, f"{card.verb!r}: there is no command {name!r}"
        command = found
    options = {option for parameter in command.params for option in parameter.opts}
    unknown = [word for word in words if word.startswith("-") and word not in options]
    assert not unknown, f"{card.verb!r}: no such option: {unknown}"


def check_converter(module: ModuleType) -> None:
    """Where there is one, it takes nothing that it does not know."""
    convert = getattr(module, "convert_official", None)
    if convert is not None:
        with pytest.raises(MienError):
            convert({"no.such.key": torch.zeros(1)})


def check_files(slug: str, root: Path) -> None:
    """The paper, its claims, its tests and its page bear one name."""
    for stem in (f"src/mien/papers/{slug}", f"src/mien/claims/{slug}"):
        assert (root / f"{stem}.py").is_file() or (root / stem / "__init__.py").is_file(), f"there is no {stem}.py"
    for name in (f"tests/papers/test_{slug}.py", f"docs/papers/{slug}.md"):
        assert (root / name).is_file(), f"there is no {name}"


def check_imports(slug: str, root: Path) -> None:
    """Neither the paper nor its claims import another paper or its claims."""
    for floor in ("papers", "claims"):
        folder = root / "src" / "mien" / floor
        for file in [*folder.glob(f"{slug}.py"), *(folder / slug).rglob("*.py")]:
            package = f"mien.{floor}" if file.parent == folder else f"mien.{floor}.{slug}"
            found = {tuple(name.split(".")[1:3]) for name in harness._imported(file.read_bytes(), package)}
            others = {(floor, other) for floor in ("papers", "claims") for other in papers.slugs() if other != slug}
            assert not found & others, f"{file.name} imports {sorted(found & others)}: what two share moves down"


def check_claims(slug: str, rows: tuple[Row, ...]) -> None:
    """Every claim was run in small size, and every row of the table belongs to a claim."""
    names = {claim.name for claim in harness.claims_of(slug)}
    ran = {row.claim for row in rows if row.slug == slug and row.scale == "small"}
    assert names <= ran, f"not in results/claims.csv: {sorted(names - ran)}; run: mien reproduce {slug}"
    strange = {row.claim for row in rows if row.slug == slug} - names
    assert not strange, f"results/claims.csv has rows of claims that are not there: {sorted(strange)}"


@pytest.mark.parametrize("slug", PAPERS)
def test_cards(slug: str) -> None:
    check_card(PAPERS[slug])


@pytest.mark.parametrize("slug", PAPERS)
def test_converters(slug: str) -> None:
    check_converter(PAPERS[slug])


@pytest.mark.parametrize("slug", PAPERS)
def test_the_four_files_are_there(slug: str) -> None:
    check_files(slug, ROOT)


@pytest.mark.parametrize("slug", PAPERS)
def test_nothing_is_imported_sideways(slug: str) -> None:
    check_imports(slug, ROOT)


@pytest.mark.parametrize("slug", PAPERS)
def test_claims_were_run(slug: str) -> None:
    check_claims(slug, read(ROOT / "results" / "claims.csv"))


def test_results_are_those_of_papers_that_are_there() -> None:
    assert {row.slug for row in read(ROOT / "results" / "claims.csv")} <= set(PAPERS)


# --- The suite itself ------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """Two heads on a small trunk: what a sound network looks like."""

    def __init__(self, width: int = 4, tune: Callable[[Small], None] | None = None) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.embed, self.judge = nn.Linear(width, 5), nn.Linear(width + 1, 1)
        if tune is not None:
            tune(self)

    def forward(self, images: Tensor, ages: Tensor) -> dict[str, Tensor]:
        features = self.trunk(images).mean((2, 3))
        embeddings = nn.functional.normalize(self.embed(features), dim=1)
        return {"embeddings": embeddings, "scores": self.judge(torch.cat((features, ages), 1))[:, 0]}


def rows_of(n: int) -> tuple[Tensor, ...]:
    return torch.randn(n, 3, 8, 8), torch.randn(n, 1)


def sound(*, width: int = 64) -> nn.Module:
    """Builds a sound network."""
    return Small(width)


def broken(forward: Callable[[Small, Tensor, Tensor], Any], tune: Callable[[Small], None] | None = None) -> Network:
    """A network with another forward, given the sound one's outputs by `Small.forward`."""

    class Broken(Small):
        def forward(self, images: Tensor, ages: Tensor) -> Any:
            return forward(self, images, ages)

    return Network(build=lambda *, width=64: Broken(width, tune), small={"width": 4}, inputs=rows_of)


SOUND = Network(build=sound, small={"width": 4}, inputs=rows_of)
plain = Small.forward

BREAKS: dict[str, tuple[Callable[[Network], None], Network, str]] = {
    "too large": (check_builds, Network(build=sound, small={"width": 200_000}, inputs=rows_of), "parameters"),
    "small is larger": (check_builds, Network(build=sound, small={"width": 65}, inputs=rows_of), "smaller than"),
    "no tuple": (check_forward, Network(build=sound, small={}, inputs=lambda n: rows_of(n)[0]), "tuple"),  # type: ignore[arg-type,return-value]
    "too few rows": (check_forward, Network(build=sound, small={}, inputs=lambda n: rows_of(1)), "2 rows each"),
    "not a number": (check_forward, broken(lambda s, x, a: plain(s, x, a)["scores"] / 0), "not finite"),
    "no output": (check_forward, broken(lambda s, x, a: {}), "no output"),
    "a single number": (check_forward, broken(lambda s, x, a: plain(s, x, a)["scores"].sum()), "single number"),
    "text": (check_forward, broken(lambda s, x, a: "same person"), "holds a str"),
    "rows lost": (check_forward, broken(lambda s, x, a: plain(s, x, a)["scores"].repeat(2)), "rows for 1"),
    "head unused": (check_backward, broken(lambda s, x, a: plain(s, x, a)["embeddings"]), "no gradient reaches"),
    "detached": (check_backward, broken(lambda s, x, a: {k: 0 * v for k, v in plain(s, x, a).items()}), "zero"),
    "labels only": (check_backward, broken(lambda s, x, a: plain(s, x, a)["scores"].long()), "has a gradient"),
    "neighbours": (
        check_batch,
        broken(lambda s, x, a: {k: v - v.mean(0) for k, v in plain(s, x, a).items()}),
        "among others",
    ),
    "dice": (check_batch, broken(lambda s, x, a: plain(s, x, a)["scores"] + torch.rand(len(x))), "second call"),
    "hidden state": (
        check_state,
        broken(
            lambda s, x, a: plain(s, x, a)["scores"] * s.hidden,  # type: ignore[operator]
            lambda s: s.__dict__.update(hidden=torch.randn(1)),
        ),
        "not all in the state",
    ),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_a_sound_network_passes(check: Callable[[Network], None]) -> None:
    check(SOUND)


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_network_does_not_pass(name: str) -> None:
    check, network, why = BREAKS[name]
    with pytest.raises(AssertionError, match=why):
        check(network)


@pytest.mark.slow
def test_export_of_a_sound_network_passes_and_of_others_does_not(tmp_path: Path) -> None:
    check_export(SOUND, tmp_path)
    baked = broken(lambda s, x, a: plain(s, x, a)["scores"] + x.shape[0].__index__())
    with pytest.raises(AssertionError, match="baked in"):
        check_export(baked, tmp_path)
    other = broken(lambda s, x, a: plain(s, x, a)["scores"] + (0 if torch.compiler.is_compiling() else 1))
    with pytest.raises(AssertionError, match="differs"):
        check_export(other, tmp_path)


MODULE = '''"""Made up for a test. It does nothing. It says so in three sentences."""

from mien.errors import CheckpointError
from mien.papers.card import Network, Paper

PAPER = Paper(
    slug="made_up", title="Made Up", authors=("Ada Lovelace",), venue="CVPR", year=2024, arxiv=None, code=None,
    code_licence=None, task="audit", verb="mien embed --weights …",
)
WEIGHTS = ()
NETWORKS = {}


def convert_official(state_dict):
    if set(state_dict) != {"weight"}:
        raise CheckpointError("other keys", got=list(state_dict), expected=["weight"])
    return state_dict
'''


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], ModuleType]]:
    """``made_up(old, new)`` is `mien.papers.made_up`, of `MODULE` with `old` in the place of `new`."""
    monkeypatch.setattr(papers, "__path__", [*papers.__path__, str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def forget() -> None:
        sys.modules.pop("mien.papers.made_up", None)
        vars(papers).pop("made_up", None)
        importlib.invalidate_caches()

    def write(old: str = "", new: str = "") -> ModuleType:
        assert old in MODULE
        (tmp_path / "made_up.py").write_text(MODULE.replace(old, new) if old else MODULE)
        forget()
        return papers.discover()["made_up"]

    yield write
    forget()


def test_a_sound_paper_passes(made_up: Any) -> None:
    module = made_up()
    check_card(module)
    check_converter(module)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('("Ada Lovelace",)', "()", "authors"),
        ("It does nothing. It says so in three sentences.", "", "three sentences"),
        ("NETWORKS = {}", "", "NETWORKS is a dict"),
        ("NETWORKS = {}", "NETWORKS = {'a': 3}", "NETWORKS is a dict"),
        (
            "NETWORKS = {}",
            "NETWORKS = {'a': Network(build=lambda: None, small={}, inputs=lambda n: ())}",
            "has no docstring",
        ),
        ("mien embed", "mien embedd", "no command 'embedd'"),
        ("--weights", "--weight", "no such option"),
        ("WEIGHTS = ()", "from mien.weights import list_weights\nWEIGHTS = tuple(list_weights())", "are declared for"),
    ],
)
def test_a_paper_that_breaks_a_rule_does_not_pass(old: str, new: str, why: str, made_up: Any) -> None:
    module = made_up(old, new)
    with pytest.raises(AssertionError, match=why):
        check_card(module)


def test_a_converter_that_takes_anything_does_not_pass(made_up: Any) -> None:
    module = made_up('if set(state_dict) != {"weight"}', "if not state_dict")
    with pytest.raises(pytest.fail.Exception):
        check_converter(module)


def test_a_file_that_is_missing_is_noticed(tmp_path: Path) -> None:
    names = ["src/mien/papers/a.py", "src/mien/claims/a/__init__.py", "tests/papers/test_a.py", "docs/papers/a.md"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    check_files("a", tmp_path)
    for name in names:
        (tmp_path / name).unlink()
        with pytest.raises(AssertionError, match=r"there is no .*a"):
            check_files("a", tmp_path)
        (tmp_path / name).touch()


def test_an_import_of_another_paper_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(papers, "slugs", lambda: ("mos", "fan"))
    for name in ("papers/mos.py", "papers/mos/loss.py", "claims/mos.py"):
        file = tmp_path / "src" / "mien" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("from mien.papers.card import Paper\nimport mien.papers.mos\n")
        check_imports("mos", tmp_path)
        for line in (
            "from mien.papers import fan",
            "def f():\n    import mien.claims.fan.a",
            "from ..papers.fan import x",
        ):
            file.write_text(line)
            if line.startswith("from ..") and name.count("/") > 1:
                file.write_text("from ..fan import x")
            with pytest.raises(AssertionError, match="what two share moves down"):
                check_imports("mos", tmp_path)
        file.unlink()


def test_a_claim_that_was_not_run_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(claim: str, scale: Any = "small") -> Row:
        return Row(
            slug="mos", claim=claim, scale=scale, data="heads", metric="m", baseline=0, idea=1, difference=1, spread=0,
            seeds=(0, 1, 2), verdict="holds", seconds=1, commit="unknown", machine="a", date="2026-01-02",
        )  # fmt: skip

    claims = tuple(SimpleNamespace(slug="mos", name=name) for name in ("a", "b"))
    monkeypatch.setattr(harness, "claims_of", lambda slug: claims)
    check_claims("mos", (row("a"), row("b"), row("b")))
    with pytest.raises(AssertionError, match=r"\['b'\]; run: mien reproduce mos"):
        check_claims("mos", (row("a"), row("b", "paper")))
    with pytest.raises(AssertionError, match=r"not there: \['c'\]"):
        check_claims("mos", (row("a"), row("b"), row("c")))


def test_tolerance_is_that_of_the_export() -> None:
    from mien.weights import onnx

    assert math.isclose(TOLERANCE, onnx.TOLERANCE)
