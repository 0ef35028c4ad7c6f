"""The benchmark of loading: the set it makes, its rows, its table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("skimage")

ROOT = Path(__file__).resolve().parents[3]
# benchmarks/ is no part of the package, and pytest's import mode puts no folder on the path.
sys.path.insert(0, str(ROOT))

from benchmarks import loading, report  # noqa: E402
from benchmarks.__main__ import chosen  # noqa: E402
from benchmarks.rows import Row  # noqa: E402

from mien.data import check, read  # noqa: E402


def test_the_set_is_of_aligned_size_and_no_picture_repeats(tmp_path: Path) -> None:
    source = read(loading.write_set(tmp_path, 120))
    assert (len(source), source.people) == (120, 2)
    (one,) = check(tmp_path).sets
    assert one.counts is not None
    assert one.counts.sizes == {"112 x 112": 120}
    assert one.counts.repeated == 0
    assert 3e3 < one.counts.bytes / 120 < 8e3  # as aligned faces have
    assert loading.decoder([bytes(part) for part in source.fetch(range(120))], 2)() == 120


def test_loading_can_be_chosen() -> None:
    assert (chosen(["loading"]).loading, chosen(["loading"]).speed, chosen(["start"]).loading) == (True, False, False)
    assert chosen([]).loading


def test_the_table_stands_beside_the_limit() -> None:
    common = {"stage": loading.STAGE, "metric": loading.METRIC, "unit": loading.UNIT, "limit": 9000.0}
    rows = [
        Row(threads=2, system="machine", value=9000.0, note="a decoder", **common),  # type: ignore[arg-type]
        Row(threads=2, system="mien rec", value=6000.0, spread=60.0, times_from_limit=1.5, **common),  # type: ignore[arg-type]
        Row(threads=2, system="webdataset", value=None, **common),  # type: ignore[arg-type]
    ]
    tables = {section.title: section for section in report.sections(rows)}
    (title,) = (title for title in tables if title.startswith("Loading"))
    assert tables[title].rows == (("decoding alone", "", "", "9,000", ""), ("mien rec", "", "", "6,000 ± 1 %", "1.50"))
    assert "a decoder" in tables[title].caption
    assert [row[0] for row in tables["What could not be measured"].rows] == ["webdataset"]
    assert "What this machine can do" not in tables


@pytest.mark.slow
def test_a_small_run_measures_every_system() -> None:
    pytest.importorskip("pyarrow")
    rows = loading.run(threads=1, pictures=256, repeats=1, say=lambda _: None)
    there = {row.system: row for row in rows}
    for name in ("machine", "mien folder", "mien rec", "mien parquet", "mien webdataset", "torchvision"):
        assert there[name].value, there[name].note
    assert there["mien rec"].times_from_limit
