"""What `import mien` brings along, and what it must not."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
import types
from pathlib import Path

import pytest

import mien

HEAVY = {"av", "cv2", "lightning", "matplotlib", "numpy", "onnxruntime", "pandas", "PIL", "scipy", "torch"}


def loaded_after(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter holds after `code`."""
    script = f"{code}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_mien_loads_nothing_heavy() -> None:
    loaded = loaded_after("import mien; mien.__version__; dir(mien)")
    assert not loaded & HEAVY
    assert not loaded & {"typer", "rich", "inspect"}


def test_faces_and_errors_need_numpy_only() -> None:
    assert loaded_after("import mien; mien.Faces, mien.MienError, mien.errors") & HEAVY == {"numpy"}


def test_looking_at_the_verbs_does_not_load_torch() -> None:
    """So that ``mien VERB --help`` and an editor's completion answer at once."""
    looked_at = [name for name in mien.__all__ if name in mien._HOME and mien._HOME[name].startswith("mien.verbs.")]
    code = "import mien, inspect\n" + "\n".join(f"inspect.signature(mien.{n})" for n in [*looked_at, "train"])
    assert not loaded_after(code) & {"torch", "cv2", "lightning"}


def test_the_command_line_starts_without_torch() -> None:
    help_of_all = "from mien.cli import build; build()(['--help'], standalone_mode=False)"
    assert not loaded_after(help_of_all) & {"torch", "cv2", "lightning", "av"}


def test_all_is_sorted_and_exact() -> None:
    assert mien.__all__ == sorted(mien.__all__)
    assert len(set(mien.__all__)) == len(mien.__all__)
    homes = {*mien._HOME, *mien._MODULES, "__version__"}
    assert set(mien.__all__) == homes


def test_type_checkers_see_the_same_names_at_the_same_place() -> None:
    """What stands under TYPE_CHECKING is what `__getattr__` gives."""
    tree = ast.parse(Path(inspect.getsourcefile(mien) or "").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "mien"
        for alias in node.names
    }
    modules = {alias.asname: alias.name for node in block.body if isinstance(node, ast.Import) for alias in node.names}
    packages = {name: where.rpartition(".")[0] for name, where in mien._MODULES.items() if name not in modules}
    assert modules.items() <= mien._MODULES.items()
    # The verb, for type checkers: they cannot know that a package can be called.
    assert seen == {**mien._HOME, **packages, "train": "mien.verbs.train"}


@pytest.mark.parametrize("name", mien.__all__)
def test_every_name_is_there(name: str) -> None:
    value = getattr(mien, name)
    assert getattr(mien, name) is value
    assert name in dir(mien)
    if inspect.isfunction(value):
        assert value.__name__ == name
        assert value.__doc__


def test_star_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from mien import *", names)
    assert set(mien.__all__) <= set(names)


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'mien' has no attribute 'analyse'"):
        mien.analyse  # noqa: B018
    assert not hasattr(mien, "numpy")


def test_importing_a_verbs_module_does_not_shadow_the_verb() -> None:
    for name in ("analyze", "detect", "verify"):
        importlib.import_module(f"mien.verbs.{name}")
        assert inspect.isfunction(getattr(mien, name))


@pytest.mark.parametrize(
    "first",
    ["", "import mien.train", "import mien.train.schedule", "from mien.train import schedule", "mien.train"],
)
def test_train_is_the_package_and_the_verb_whatever_is_imported_first(first: str) -> None:
    code = f"""
import inspect, sys, mien
{first}
assert mien.train is sys.modules["mien.train"], mien.train
assert list(inspect.signature(mien.train).parameters)[:2] == ["recipe", "preset"]
import mien.train.schedule as schedule
assert mien.train.schedule is schedule
import mien.verbs.train
mien.verbs.train.train = lambda recipe, **options: (recipe, options)
from mien import train
assert train("embedder", steps=3) == ("embedder", {{"steps": 3}})
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_namespaces_are_modules() -> None:
    for name in ("errors", "evaluate", "weights", "train"):
        assert isinstance(getattr(mien, name), types.ModuleType)
