"""What is noted in the files that importing writes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mien.errors import CheckpointError
from mien.weights.converted import noted, on_disk


def written(path: Path, **notes: str) -> Path:
    save_file({"x": torch.zeros(3)}, path, metadata=notes)
    return path


def test_a_file_gives_its_place_and_its_notes(tmp_path: Path) -> None:
    file = written(tmp_path / "a.safetensors", source="theirs.pt", arguments=json.dumps({"size": 64}))
    place, (arguments, source) = noted(file, lambda note: (json.loads(note["arguments"]), note["source"]))
    assert (arguments, source) == ({"size": 64}, "theirs.pt")
    assert place == on_disk(file)
    data = file.read_bytes()
    assert place == {"file": str(file), "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


@pytest.mark.parametrize(
    "read", [lambda note: note["arguments"], lambda note: int(note["source"]), lambda note: 1 + ""]
)
def test_notes_that_are_missing_or_wrong_are_told(tmp_path: Path, read: Any) -> None:
    file = written(tmp_path / "a.safetensors", source="theirs.pt")
    with pytest.raises(CheckpointError, match=r"a\.safetensors cannot be read.*a file of import_official"):
        noted(file, read)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name in ("text", "none"):
        with pytest.raises(CheckpointError, match="a file of import_official"):
            noted(tmp_path / f"{name}.safetensors", lambda note: note)
