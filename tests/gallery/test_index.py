"""The index of a gallery: what it finds, what survives, and what several processes see."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mien.errors import DtypeError, IndexDamaged, OptionError, ShapeError, ValueRangeError
from mien.gallery import index as index_module
from mien.gallery.index import Index, files, scan


def unit(n: int, dim: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def filled(folder: Path, vectors: np.ndarray, ids: np.ndarray | None = None) -> Index:
    made = Index.open(folder, dim=vectors.shape[1])
    made.add(np.arange(len(vectors)) if ids is None else ids, vectors, generation=1)
    return made


def near(vectors: np.ndarray, noise: float, seed: int = 1) -> np.ndarray:
    moved = vectors + noise * unit(len(vectors), vectors.shape[1], seed)
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


# ------------------------------------------------------------------------------------------------ what it finds


@pytest.mark.parametrize("dim", [8, 100, 128, 512])
@pytest.mark.parametrize("method", ["exact", "two-stage"])
@pytest.mark.parametrize("queries", [1, 40])
def test_it_finds_what_a_matrix_product_finds(tmp_path: Path, dim: int, method: str, queries: int) -> None:
    vectors = unit(3000, dim)
    ids = 10**12 + np.random.default_rng(3).permutation(3000)
    index = filled(tmp_path / "g.index", vectors, ids)
    probes = near(vectors[:queries], 0.5)
    scores, found = index.search(probes, 5, method=method)
    true = probes @ vectors.T
    assert scores.dtype == np.float32
    assert found.dtype == np.int64
    best = -np.sort(-true, 1)[:, :5]
    assert np.abs(scores - best).max() < 1e-4
    row_of = {int(i): row for row, i in enumerate(ids)}
    rows = np.vectorize(row_of.__getitem__)(found)
    assert np.abs(np.take_along_axis(true, rows, 1) - scores).max() < 1e-4
    if dim > 8:
        assert (found[:, 0] == ids[:queries]).all()


def test_scores_are_as_near_as_documented(tmp_path: Path) -> None:
    vectors = unit(4000, 128)
    probes = near(vectors[:50], 0.8)
    scores, found = filled(tmp_path / "g.index", vectors).search(probes, 10)
    error = np.take_along_axis(probes @ vectors.T, found, 1) - scores
    assert np.abs(error).max() < 1e-4
    assert error.std() < 1e-5


def test_vectors_that_share_a_mean_are_found_by_coarse_codes(tmp_path: Path) -> None:
    """What all have in common tells nobody apart; the codes are centred on it."""
    common = unit(1, 128, 9) * 2.3
    vectors = common + unit(20_000, 128)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    probes = common + near(unit(20_000, 128)[:200], 0.75)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    index = Index.build(tmp_path / "g.index", [(np.arange(20_000), vectors)], dim=128, generation=1)
    _, exact = index.search(probes, 1, method="exact")

    def agree(index: Index) -> float:
        return float((index.search(probes, 1, method="two-stage", candidates=50)[1] == exact).mean())

    plain = filled(tmp_path / "plain.index", vectors)
    assert agree(plain) < agree(index) - 0.05
    plain.compact()
    assert abs(agree(plain) - agree(index)) < 0.03


def test_the_two_stages_read_candidates_only(tmp_path: Path) -> None:
    """With few candidates some of the best are missed: the first stage is what chose them."""
    vectors = unit(40_000, 128)
    index = filled(tmp_path / "g.index", vectors)
    probes = unit(60, 128, 5)
    _, exact = index.search(probes, 1, method="exact")
    agree = [
        (index.search(probes, 1, method="two-stage", candidates=n)[1] == exact).mean() for n in (100, 1000, 40_000)
    ]
    assert agree[0] < agree[1] <= agree[2] == 1.0
    assert agree[1] > 0.8


def test_fewer_than_asked_for_are_minus_one(tmp_path: Path) -> None:
    index = Index.open(tmp_path / "g.index", dim=16)
    scores, ids = index.search(unit(2, 16), 3)
    assert (scores == -1).all()
    assert (ids == -1).all()
    vectors = unit(2, 16)
    index.add(np.array([7, 8]), vectors, generation=1)
    for method in index_module.METHODS:
        for repeats in (1, 6):
            scores, ids = index.search(np.repeat(-vectors[:1], repeats, 0), 4, method=method)
            assert sorted(ids[-1].tolist()) == [-1, -1, 7, 8]
            assert (scores[:, 2:] == -1).all()
            assert scores[0, 1] == pytest.approx(-1, abs=1e-3)


def test_equal_scores_come_by_id(tmp_path: Path) -> None:
    same = np.repeat(unit(1, 64), 50, 0)
    ids = np.random.default_rng(0).permutation(50)
    _, found = filled(tmp_path / "g.index", same, ids).search(same[:1], 50)
    assert found[0].tolist() == list(range(50))


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_and_segments_change_nothing(tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "SEGMENT", 1024)
    monkeypatch.setattr(scan, "LOOSE", 100)
    monkeypatch.setattr(scan, "SHARE", 300)
    vectors = unit(5000, 64)
    index = filled(tmp_path / "g.index", vectors[:4300])
    index.threads = threads
    probes = near(vectors[[5, 1500, 4299]], 0.3)
    for start in range(4300, 5000, 70):  # the newest rows are packed only now and then
        _, found = index.search(probes, 3, method="two-stage")
        assert found[:, 0].tolist() == [5, 1500, 4299]
        new = vectors[start : start + 70]
        index.add(np.arange(start, start + len(new)), new, generation=start)
        newest = near(new[-1:], 0.3)
        for method in index_module.METHODS:
            assert index.search(newest, 1, method=method)[1][0, 0] == start + len(new) - 1


def test_products_of_many_queries_keep_the_best_of_all_blocks() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 256, (1000, 64), np.uint8)
    queries = rng.integers(-127, 128, (7, 64)).astype(np.int8)
    true = queries.astype(np.int64) @ (codes.astype(np.int64) - 128).T
    for count in (1, 9, 2000):
        for block in (7, 7 * 300, 5000 * 7):
            scan.BLOCK, before = block, scan.BLOCK  # type: ignore[misc]
            try:
                found = scan.scan_many(codes, queries, count)
            finally:
                scan.BLOCK = before  # type: ignore[misc]
            for query, rows in enumerate(found):
                assert len(np.unique(rows)) == len(rows) == min(count, 1000)
                best = np.sort(true[query])[::-1][: len(rows)]
                assert sorted(true[query, rows], reverse=True) == best.tolist()


def test_processors_whose_int8_products_saturate_get_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    codes, queries = rng.integers(1, 256, (500, 64), np.uint8), rng.integers(-127, 128, (6, 64)).astype(np.int8)
    before = scan.scan_many(codes, queries, 10)
    monkeypatch.setattr(scan, "_exact_products", lambda: False)
    after = scan.scan_many(codes, queries, 10)
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


# ------------------------------------------------------------------------------------------------ coming and going


def test_removed_ones_are_not_found_and_not_on_disk(tmp_path: Path) -> None:
    vectors = unit(3000, 128)
    index = filled(tmp_path / "g.index", vectors)
    version = files.current(tmp_path / "g.index")
    assert version is not None
    codes = index._view.rows.codes[17].tobytes()  # type: ignore[union-attr]
    assert codes in (version / "codes").read_bytes()
    index.remove(np.array([17, 18, 2999, 5000]), generation=2)
    assert (len(index), index.generation) == (2997, 2)
    assert codes not in (version / "codes").read_bytes()
    for method in index_module.METHODS:
        _, found = index.search(np.repeat(vectors[17:18], 6, 0), 10, method=method)
        assert not np.isin(found, [17, 18, 2999]).any()
    index.compact()
    assert (len(index), index.generation) == (2997, 2)
    assert index.disk_bytes == 2997 * (2 * 128 + 16 + 12)
    assert index.search(vectors[2000:2001], 1)[1][0, 0] == 2000
    index.verify()


@pytest.mark.parametrize("method", index_module.METHODS)
@pytest.mark.parametrize("queries", [1, 8])
def test_many_removed_take_no_places(tmp_path: Path, method: str, queries: int) -> None:
    """Removed rows score zero; those that are left score less here, and are found all the same."""
    vectors = unit(600, 64)
    vectors[550:] = near(-np.repeat(vectors[:1], 50, 0), 0.2)
    index = filled(tmp_path / "g.index", vectors)
    index.remove(np.arange(550), generation=2)
    scores, found = index.search(np.repeat(vectors[:1], queries, 0), 50, method=method)
    assert (np.sort(found, 1) == np.arange(550, 600)).all()
    assert (scores < 0).all()


def test_an_id_that_comes_again_replaces(tmp_path: Path) -> None:
    vectors = unit(200, 32)
    index = filled(tmp_path / "g.index", vectors[:100])
    index.add(np.array([3, 100]), vectors[150:152], generation=2)
    assert len(index) == 101
    assert index.search(vectors[150:151], 1)[1][0, 0] == 3
    assert index.search(vectors[3:4], 1)[1][0, 0] != 3
    index.add(np.array([100]), vectors[160:161], generation=3)  # one of the newest
    index.remove(np.array([100]), generation=4)
    assert len(index) == 100
    assert not (index.search(vectors[160:161], 100)[1] == 100).any()


def test_ids_are_found_however_often_they_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module._Order, "RECENT", 5)
    index = Index.open(tmp_path / "g.index", dim=32)
    rng, now = np.random.default_rng(0), {}
    for step in range(30):
        ids = rng.choice(40, 4, replace=False)
        if step % 3 == 2:
            index.remove(ids, generation=step)
            now = {i: vector for i, vector in now.items() if i not in ids}
        else:
            vectors = unit(4, 32, step)
            index.add(ids, vectors, generation=step)
            now |= dict(zip(ids.tolist(), vectors, strict=True))
        assert len(index) == len(now)
    found = index.search(np.stack(list(now.values())), 1)[1][:, 0]
    assert found.tolist() == list(now)
    view = index._view
    assert view is not None
    assert sorted(view.rows.ids[view.rows.ids >= 0].tolist()) == sorted(now)


def test_removed_rows_do_not_crowd_the_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand copies of somebody are removed after they were packed: they must not be all that is looked at."""
    monkeypatch.setattr(scan, "LEAST", 1)
    vectors = unit(4000, 64)
    vectors[:1000] = near(np.repeat(vectors[:1], 1000, 0), 0.05)
    vectors[3999] = near(vectors[:1], 0.9)[0]
    index = filled(tmp_path / "g.index", vectors)
    monkeypatch.setattr(scan, "LOOSE", 100)
    index.search(vectors[:1], 1, method="two-stage", candidates=100)
    for step in range(4):
        index.remove(np.arange(250 * step, 250 * step + 250), generation=2 + step)
    assert index.search(vectors[:1], 1, method="two-stage", candidates=100)[1][0, 0] == 3999


def test_the_generation_only_grows(tmp_path: Path) -> None:
    index = Index.open(tmp_path / "g.index", dim=16)
    assert (index.generation, len(index)) == (0, 0)
    index.add(np.array([1]), unit(1, 16), generation=5)
    index.add(np.array([2]), unit(1, 16), generation=3)
    assert index.generation == 5
    index.add(np.empty(0, np.int64), np.empty((0, 16), np.float32), generation=9)
    assert Index.open(tmp_path / "g.index", dim=16).generation == 9


def test_a_rebuild_is_there_or_not(tmp_path: Path) -> None:
    vectors = unit(5000, 64)
    index = filled(tmp_path / "g.index", vectors[:10])

    def broken() -> object:
        yield np.arange(2000), vectors[:2000]
        raise RuntimeError("the store went away")

    with pytest.raises(RuntimeError, match="went away"):
        Index.build(tmp_path / "g.index", broken(), dim=64, generation=7)  # type: ignore[arg-type]
    assert (len(index), index.generation) == (10, 1)
    batches = ((np.arange(a, a + 1000), vectors[a : a + 1000]) for a in range(0, 5000, 1000))
    built = Index.build(tmp_path / "g.index", batches, dim=64, generation=7)
    for one in (built, index):  # who had it open sees the new one
        assert (len(one), one.generation) == (5000, 7)
        assert one.search(vectors[4000:4001], 1)[1][0, 0] == 4000
    assert [path.name for path in (tmp_path / "g.index").glob("v*")] == [f"v{2:06d}"]
    assert len(Index.build(tmp_path / "g.index", [], dim=64, generation=8)) == 0


# ------------------------------------------------------------------------------------------------ several at a time


def test_readers_see_what_a_writer_commits(tmp_path: Path) -> None:
    vectors = unit(12_000, 32)
    writer = filled(tmp_path / "g.index", vectors[:10])
    reader = Index.open(tmp_path / "g.index", dim=32, read_only=True)
    other = Index.open(tmp_path / "g.index", dim=32)
    for step in range(3):  # beyond what the files were made for
        start = 10 + 3500 * step
        writer.add(np.arange(start, start + 3500), vectors[start : start + 3500], generation=2 + step)
        assert len(reader) == len(other) == start + 3500
        assert reader.search(vectors[start + 3499 : start + 3500], 1)[1][0, 0] == start + 3499
    other.remove(np.array([5]), generation=9)
    assert reader.generation == writer.generation == 9
    assert reader.search(vectors[5:6], 1)[1][0, 0] != 5
    writer.compact()
    assert len(reader) == len(other) == 10_509
    other.add(np.array([20_000]), vectors[11_000:11_001], generation=10)
    assert reader.search(vectors[11_000:11_001], 1)[1][0, 0] == 20_000


WRITER = """
import sys, numpy as np
from pathlib import Path
from mien.gallery.index import Index
folder, first = Path(sys.argv[1]), int(sys.argv[2])
index = Index.open(folder, dim=32)
for i in range(first, first + 40):
    vector = np.zeros((1, 32), np.float32)
    vector[0, i % 32] = 1 - 2 * (i // 32 % 2)
    with index.lock():
        index.add(np.array([i]), vector, generation=index.generation + 1)
"""


def test_writers_of_several_processes_take_turns(tmp_path: Path) -> None:
    folder = tmp_path / "g.index"
    words = [sys.executable, "-c", WRITER, str(folder)]
    running = [subprocess.Popen([*words, str(first)]) for first in (0, 40, 80)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    index = Index.open(folder, dim=32, read_only=True)
    assert (len(index), index.generation) == (120, 120)
    index.verify()
    view = index._view
    assert view is not None
    assert np.unique(view.rows.ids).tolist() == list(range(120))


def test_threads_search_while_one_writes(tmp_path: Path) -> None:
    vectors = unit(4000, 32)
    index = filled(tmp_path / "g.index", vectors[:1000])
    wrong: list[object] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            try:
                found = index.search(vectors[500:501], 1)[1][0, 0]
            except Exception as error:
                found = error
            if found != 500:
                wrong.append(found)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    for start in range(1000, 4000, 300):
        index.add(np.arange(start, start + 300), vectors[start : start + 300], generation=start)
        index.remove(np.arange(start, start + 5), generation=start)
    index.compact()
    done.set()
    for looker in lookers:
        looker.join()
    assert not wrong
    assert len(index) == 3950


# ------------------------------------------------------------------------------------------------ what survives


def version_of(folder: Path) -> Path:
    found = files.current(folder)
    assert found is not None
    return found


def test_rows_that_were_never_committed_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, vectors = tmp_path / "g.index", unit(50, 32)
    index = filled(folder, vectors[:20])

    def dies(self: files.Version, **changes: int) -> None:
        raise OSError("no room left")

    with monkeypatch.context() as patch:
        patch.setattr(files.Version, "commit", dies)
        with pytest.raises(OSError, match="no room"):
            index.add(np.arange(20, 50), vectors[20:], generation=2)
    for one in (index, Index.open(folder, dim=32, read_only=True)):
        assert (len(one), one.generation) == (20, 1)
        assert one.search(vectors[30:31], 20)[1].max() < 20
    index.add(np.array([99]), vectors[40:41], generation=3)
    assert (len(index), index.search(vectors[40:41], 1)[1][0, 0]) == (21, 99)
    index.verify()


def test_a_header_that_was_cut_short_falls_back_to_the_one_before(tmp_path: Path) -> None:
    folder, vectors = tmp_path / "g.index", unit(30, 32)
    index = filled(folder, vectors[:20])
    index.add(np.arange(20, 30), vectors[20:], generation=2)
    header = version_of(folder) / "header"
    data = bytearray(header.read_bytes())
    newest = max((0, 1), key=lambda slot: files.Header.unpack(data[512 * slot :][:512]).sequence)  # type: ignore[union-attr]
    data[512 * newest + 20] ^= 1
    header.write_bytes(data)
    opened = Index.open(folder, dim=32)
    assert (len(opened), opened.generation) == (20, 1)
    opened.verify()


@pytest.mark.parametrize("name", ["header", "frame", "ids", "codes", "fine", "coarse", "sums"])
@pytest.mark.parametrize("how", ["gone", "short", "changed"])
def test_damage_is_an_error(tmp_path: Path, name: str, how: str) -> None:
    folder = tmp_path / "g.index"
    filled(folder, unit(30, 32))
    path = version_of(folder) / name
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "short":
        path.write_bytes(data[:3])
    else:
        for at in range(0, min(len(data), 1024), 8):
            data[at] ^= 5
        path.write_bytes(data)
    with pytest.raises(IndexDamaged):
        Index.open(folder, dim=32)


def test_damage_far_from_the_end_is_found_by_verify(tmp_path: Path) -> None:
    folder = tmp_path / "g.index"
    index = filled(folder, unit(5000, 32))
    index.verify()
    with (version_of(folder) / "codes").open("r+b") as file:
        file.seek(64 * 100)
        file.write(b"\x01\x02\x03")
    with pytest.raises(IndexDamaged, match="torn"):
        Index.open(folder, dim=32).verify()


def test_a_removal_that_was_cut_short_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, vectors = tmp_path / "g.index", unit(30, 32)
    index = filled(folder, vectors)

    def dies(self: files.Version, rows: np.ndarray) -> None:
        files._pwrite(self._files["ids"], np.full(len(rows), -1, np.int64), 8 * int(rows[0]))
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(files.Version, "erase", dies)
        with pytest.raises(OSError, match="killed"):
            index.remove(np.array([29]), generation=2)
    again = Index.open(folder, dim=32)
    assert len(again) == 29
    again.remove(np.array([29]), generation=2)
    view = again._view
    assert view is not None
    assert (view.rows.codes[29] == files.ZERO).all()
    assert (len(again), again.generation) == (29, 2)


def test_another_folder_is_not_an_index(tmp_path: Path) -> None:
    folder = tmp_path / "g.index"
    filled(folder, unit(3, 32))
    with pytest.raises(IndexDamaged, match="other vectors"):
        Index.open(folder, dim=64)
    (folder / "current").write_text("../../etc")
    with pytest.raises(IndexDamaged, match="which version"):
        Index.open(folder, dim=32)
    assert len(Index.build(folder, [(np.arange(3), unit(3, 32))], dim=32, generation=1)) == 3


def test_read_only_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "g.index"
    reader = Index.open(folder, dim=32, read_only=True)
    assert (len(reader), reader.generation) == (0, 0)
    assert reader.search(unit(1, 32), 2)[1].tolist() == [[-1, -1]]
    assert not folder.exists()
    with pytest.raises(OptionError, match="read only"):
        reader.add(np.array([1]), unit(1, 32), generation=1)
    filled(folder, unit(3, 32))
    assert len(reader) == 3  # it came into being meanwhile


def test_bad_input_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    index = filled(tmp_path / "g.index", unit(3, 32))
    bad = unit(2, 32)
    bad[1, 0] = np.nan
    cases: list[tuple[type[Exception], np.ndarray, np.ndarray]] = [
        (ShapeError, np.arange(2), unit(2, 31)),
        (ShapeError, np.arange(3), unit(2, 32)),
        (ShapeError, np.zeros((2, 1), np.int64), unit(2, 32)),
        (DtypeError, np.arange(2), np.ones((2, 32), np.int64)),
        (DtypeError, np.array([0.5, 1]), unit(2, 32)),
        (ValueRangeError, np.array([-1, 4]), unit(2, 32)),
        (ValueRangeError, np.array([4, 4]), unit(2, 32)),
        (ValueRangeError, np.arange(2), 3 * unit(2, 32)),
        (ValueRangeError, np.arange(2), bad),
    ]
    for error, ids, vectors in cases:
        with pytest.raises(error):
            index.add(ids, vectors, generation=2)
    assert (len(index), index.generation) == (3, 1)
    for error, k, method in ((OptionError, 0, None), (OptionError, 1, "approximate")):
        with pytest.raises(error):
            index.search(unit(1, 32), k, method=method)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_can_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "SHARE", 100)
    vectors = unit(1000, 32)
    index = filled(tmp_path / "g.index", vectors)
    index.threads = 2
    index.search(vectors[:1], 1)
    child = os.fork()
    if child == 0:
        os._exit(0 if index.search(vectors[7:8], 1)[1][0, 0] == 7 else 1)
    for _ in range(600):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        threading.Event().wait(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert status == 0
