"""Face sets in the formats people have, their splits, and the ways in which a picture gets worse.

`mien.data.formats` reads, checks and converts what people have, `mien.data.loading` makes batches of it,
`mien.data.sets` reads the sets of this project's recipes, `mien.data.heads` draws people who do not exist,
`mien.data.degrade`, `recapture` and `forgeries` spoil, photograph again and forge. None downloads anything.
"""

from __future__ import annotations

from mien.data.formats import Samples, check, convert, find, read
from mien.data.loading import Batches

__all__ = ["Batches", "Samples", "check", "convert", "find", "read"]
