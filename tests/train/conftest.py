"""Made-up sets in the real layout, for recipes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

# Loaded by path: test folders are no packages, and two of them share this module.
_spec = importlib.util.spec_from_file_location("made_up", Path(__file__).parents[1] / "data" / "made_up.py")
assert _spec is not None
assert _spec.loader is not None
_made_up = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_made_up)


RATE = 1e10
"""FLOP/s that the loop is told, since measuring takes longer than most runs here."""


@pytest.fixture(autouse=True)
def flop_rate(monkeypatch: pytest.MonkeyPatch) -> float:
    """The machine's rate is not measured in every little run, but given."""
    from mien.train import loop

    monkeypatch.setattr(loop, "gemm_rate", lambda device, *, dtype: RATE)
    return RATE


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``made_up(name)`` is the folder of a drawn set of the real layout; ``made_up.anew(name, home)``, one's own."""
    return _made_up.MadeUp(tmp_path_factory.mktemp("sets"))
