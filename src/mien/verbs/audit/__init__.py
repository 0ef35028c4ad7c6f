"""``audit``: what a system does, looked at from outside, on one's own pictures.

    mien audit explain faces/ --models my-resnet50,my-vgg16 --out audit/ --report audit.html

`explain` shows where models of facial expressions look, and how much of it lies where people look, with what chance
gives. Method: `mien.papers.fer_xai` (extra ``audit``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mien.verbs.audit._explain import Agreement, ExplainAudit, ExplainedModel, ExplainRow, explain

COMMANDS: Mapping[str, Callable[..., Any]] = {"explain": explain}
"""The commands of ``mien audit``."""

__all__ = ["COMMANDS", "Agreement", "ExplainAudit", "ExplainRow", "ExplainedModel", "explain"]
