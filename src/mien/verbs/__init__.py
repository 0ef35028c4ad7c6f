"""What people call: one module for each verb, one function in it.

A verb takes one source or many, returns a typed result, never prints and never downloads. `mien.cli` and the
documentation are made from these functions' signatures and docstrings.
"""

from __future__ import annotations
