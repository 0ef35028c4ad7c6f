"""``curate``: a folder of faces becomes a labelled set, with as few questions as possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mien.verbs.curate._answers import Label, read_labels
from mien.verbs.curate._label import Labelled, label

__all__ = ["Label", "Labelled", "label", "read_labels"]

COMMANDS: dict[str, Callable[..., Any]] = {
    "label": label,
}
