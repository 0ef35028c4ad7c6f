"""People, their faces, and search among them.

    from mien.gallery import Batch, Contract, Gallery

    with Gallery.open("g.db", create=True, contract=Contract.of("mien-embedder")) as gallery:
        gallery.add(Batch(people=["Ann"], embeddings=faces.embeddings))
        matches = gallery.search(others.embeddings, threshold=gallery.threshold_at(0.01).threshold)

The verbs `enroll`, `search`, `people`, `cluster` and `gallery` do this with pictures.

records      what goes in and out: contract, people, faces, matches, refusals, the log
base         `Gallery`: search, gates and thresholds, wherever the people are kept
local        in a file: store (the truth, in SQLite), tables, migrations, projection, index
milvus       on a server
thresholds   from which similarity on somebody is called by name
clusters     who is who in pictures without names
exchange     out to a file, and in from one
"""

from __future__ import annotations

from mien.gallery.base import Gallery
from mien.gallery.exchange import export_gallery, import_gallery
from mien.gallery.records import (
    Added,
    AuditEntry,
    Batch,
    Contract,
    Deleted,
    Face,
    FpirPoint,
    GalleryInfo,
    Match,
    Person,
    Refusal,
    RefusalReason,
    SearchCalibration,
)
from mien.gallery.thresholds import SearchThreshold

__all__ = [
    "Added",
    "AuditEntry",
    "Batch",
    "Contract",
    "Deleted",
    "Face",
    "FpirPoint",
    "Gallery",
    "GalleryInfo",
    "Match",
    "Person",
    "Refusal",
    "RefusalReason",
    "SearchCalibration",
    "SearchThreshold",
    "export_gallery",
    "import_gallery",
]
