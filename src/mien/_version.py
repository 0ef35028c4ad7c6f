"""The one place of the version: lower floors name it in what they write without importing the floors above."""

from __future__ import annotations

__version__ = "0.1.0.dev0"
