"""mien: find, align, read, recognise and verify faces, offline, with weights you may use."""

from __future__ import annotations

__version__ = "0.1.0.dev0"
