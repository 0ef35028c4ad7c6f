"""The benchmark: its arithmetic derived again, its file, its tables, and one tiny run from pictures to page."""

from __future__ import annotations

import hashlib
import io
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
# benchmarks/ is no part of the package, and pytest's import mode puts no folder on the path.
sys.path.insert(0, str(ROOT))

from benchmarks import accuracy, first, limits, loading, pictures, report, rows, systems, timing, worker  # noqa: E402
from benchmarks.__main__ import chosen, write_page  # noqa: E402
from benchmarks.limits import Call, Limits, Work  # noqa: E402
from benchmarks.rows import Machine, Row  # noqa: E402

from mien.errors import OptionError, TableError  # noqa: E402

MACHINE = Machine(
    date="2026-01-02T03:04:05+00:00", commit="abc1234", scale="standard", cpu="A CPU, of sorts", cores=2,
    memory_gib=8.0, os="Linux x86_64", python="3.12.1", torch="2.11.0",
)  # fmt: skip


def speed(system: str, value: float | None, **more: Any) -> Row:
    defaults: dict[str, Any] = {
        "threads": 1, "system": system, "pictures": "lfw", "stage": "end to end", "batch": 1, "metric": "rate",
        "value": value, "unit": "images/s",
    }  # fmt: skip
    return Row(**{**defaults, **more})


# ---------------------------------------------------------------------------------------------------- limits


def test_a_call_is_bounded_by_its_arithmetic_or_by_its_parameters() -> None:
    machine = Limits(flops=100e9, bandwidth=10e9)
    # 0.25 GMAC at 100 GFLOP/s take 5 ms; 2.4 million parameters of 4 bytes at 10 GB/s take 0.96 ms.
    single = Call(250_000_000, 2_400_000)
    assert Work((single,)).seconds(machine) == pytest.approx(0.005)
    assert Work((single,)).limited_by(machine) == "FLOPs"
    # A wide linear layer: 2.5 million MACs (0.05 ms), 25 million parameters (10 ms).
    layer = Call(2_500_000, 25_000_000)
    assert Work((layer,)).seconds(machine) == pytest.approx(0.010)
    assert Work((layer,)).limited_by(machine) == "memory"


def test_work_adds_up_call_by_call_and_names_what_dominates() -> None:
    machine = Limits(flops=100e9, bandwidth=10e9)
    one = Work((Call(250_000_000, 1),), bytes=10_000_000)
    two = Work((Call(2_500_000, 25_000_000),), decode_s=0.004)
    assert (one + two).seconds(machine) == pytest.approx(0.005 + 0.001 + 0.010 + 0.004)
    assert (one + two).limited_by(machine) == "memory + FLOPs"  # 11, 5 and 4 of 20 ms: two make four fifths
    assert Work().seconds(machine) == 0
    assert Work().limited_by(machine) == ""


def test_batch_32_moves_a_network_from_memory_to_arithmetic() -> None:
    machine = Limits(flops=1e12, bandwidth=10e9)
    seconds = [Work((Call(batch * 250_000_000, 2_400_000),)).seconds(machine) for batch in (1, 32)]
    assert seconds[0] == pytest.approx(4 * 2_400_000 / 10e9)
    assert seconds[1] == pytest.approx(32 * 0.5e9 / 1e12)


def test_crops_are_read_once_and_written_once() -> None:
    assert limits.crop_work(3, 112).bytes == 2 * 3 * 112 * 112 * 3


@pytest.mark.parametrize(("limit", "value", "expected"), [(10.0, 4.0, 2.5), (None, 4.0, None), (10.0, 0.0, None)])
def test_times_from_the_limit(limit: float | None, value: float, expected: float | None) -> None:
    assert limits.times(limit, value) == expected


def test_dlibs_network_counted_by_building_it() -> None:
    """The same layers as torch modules, counted by the library's own counter."""
    from torch import nn

    from mien.nn.count import count_macs, count_parameters

    def conv(i: int, o: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
        return nn.Conv2d(i, o, kernel, stride, 0 if stride > 1 else kernel // 2, bias=False)

    layers: list[nn.Module] = [conv(3, 32, 7, 2), nn.MaxPool2d(3, 2)]
    before = 32
    for width, first_stride, blocks in ((32, 1, 3), (64, 2, 4), (128, 2, 3), (256, 2, 3), (256, 2, 1)):
        for block in range(blocks):
            layers += [conv(before, width, 3, first_stride if block == 0 else 1), conv(width, width)]
            before = width
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 128, bias=False))
    assert len([m for m in network if isinstance(m, nn.Conv2d)]) == 29
    call = limits.dlib_resnet()
    assert call.parameters == count_parameters(network)
    assert call.macs == count_macs(network, (1, 3, 150, 150))
    assert call.parameters * 4 == pytest.approx(22_466_066, rel=0.01)  # bytes of dlib's file
    assert network(torch.zeros(2, 3, 150, 150)).shape == (2, 128)


def test_denominators_do_the_work_they_claim() -> None:
    import cv2

    for n, (run, flops) in limits.gemm_runs((32, 48)).items():
        assert flops == 2 * n**3
        assert run().shape == (n, n)  # type: ignore[attr-defined]
    run, moved = limits.triad_run(1 << 16)
    assert moved == 3 * (1 << 16)
    assert run().numel() * 4 == 1 << 16  # type: ignore[attr-defined]
    data = cv2.imencode(".jpg", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    for threads in (1, 2):
        decoded: Any = limits.decode_run([data, data, data], threads=threads)()
        assert [picture.shape for picture in decoded] == [(20, 30, 3)] * 3


# ---------------------------------------------------------------------------------------------------- timing


class Clock:
    """Time that passes only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, *seconds: float) -> Callable[[], None]:
        taken = iter(seconds)
        last = seconds[-1]

        def run() -> None:
            self.log.append(name)
            self.now += next(taken, last)

        return run


def test_interleaving_takes_turns_and_drops_the_warm_up() -> None:
    clock = Clock()
    taken = timing.interleave(
        {"a": clock.work("a", 0.9, 0.1, 0.2, 0.3), "b": clock.work("b", 0.5, 0.4)},
        repeats=3, least=1, budget_s=1e9, clock=clock,
    )  # fmt: skip
    assert taken["a"] == pytest.approx([0.1, 0.2, 0.3])
    assert taken["b"] == pytest.approx([0.4, 0.4, 0.4])
    assert [sorted(clock.log[i : i + 2]) for i in range(0, 8, 2)] == [["a", "b"]] * 4
    orders = {tuple(clock.log[i : i + 2]) for i in range(0, 8, 2)}
    assert orders == {("a", "b"), ("b", "a")}  # rotated: neither always follows the other


def test_slow_things_are_repeated_less_and_their_first_run_counts() -> None:
    clock = Clock()
    seen = []
    taken = timing.interleave(
        {"slow": clock.work("slow", 5.0), "quick": clock.work("quick", 0.1)},
        repeats=4, least=1, budget_s=11.0, clock=clock, progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert taken["slow"] == [5.0, 5.0]
    assert len(taken["quick"]) == 4
    assert seen[-1] == (6, 6)
    assert timing.interleave({"slow": clock.work("slow", 50.0)}, repeats=4, least=2, budget_s=1, clock=clock) == {
        "slow": [50.0, 50.0]
    }


def test_summary_of_repeats() -> None:
    summary = timing.summarise([0.4, 0.1, 0.2, 0.3, 0.5])
    assert (summary.median, summary.low, summary.high, summary.best, summary.repeats) == (0.3, 0.2, 0.4, 0.1, 5)
    value, spread = summary.rate(6)
    assert value == pytest.approx(20)
    assert spread == pytest.approx((6 / 0.2 - 6 / 0.4) / 2)
    assert timing.summarise([0.5]).rate(1) == (2.0, None)


# ------------------------------------------------------------------------------------------------------ rows


def test_rows_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "bench.csv"
    full = speed(
        "mien",
        123.456789,
        spread=1.5,
        repeats=7,
        limit=500.0,
        limited_by="FLOPs",
        times_from_limit=4.05,
        note='a "b", c',
    )
    empty = Row(system="mtcnn", stage="loading", metric="not loadable", value=None, unit="", note="no module\nnamed so")
    rows.append(path, MACHINE, [full])
    rows.append(path, MACHINE, [empty])
    assert path.read_text().splitlines()[0].split(",") == list(rows.COLUMNS)
    assert rows.read(path) == [(MACHINE, replace(full, value=123.457)), (MACHINE, empty)]


def test_the_columns_that_were_promised() -> None:
    promised = "date commit cpu cores memory_gib python torch threads system stage batch metric value unit limit"
    assert set(f"{promised} times_from_limit spread note".split()) <= set(rows.COLUMNS)


def test_other_columns_and_broken_lines_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bench.csv"
    path.write_text("date,system\n2026-01-01,mien\n")
    with pytest.raises(TableError, match="other columns"):
        rows.append(path, MACHINE, [speed("mien", 1.0)])
    assert path.read_text() == "date,system\n2026-01-01,mien\n"
    with pytest.raises(TableError):
        rows.read(path)
    good = tmp_path / "good.csv"
    rows.append(good, MACHINE, [speed("mien", 1.0)])
    good.write_text(good.read_text().replace(",images/s,", ",images/s,many "))
    with pytest.raises(TableError, match="does not parse"):
        rows.read(good)


def test_the_newest_run_that_was_not_quick_is_shown() -> None:
    quick = replace(MACHINE, scale="quick", date="2026-03-01T00:00:00+00:00")
    newer = replace(MACHINE, date="2026-02-01T00:00:00+00:00")
    results = [(newer, speed("mien", 2.0)), (MACHINE, speed("mien", 1.0)), (quick, speed("mien", 3.0))]
    assert rows.latest(results) == (newer, [speed("mien", 2.0)])
    assert rows.latest(results[2:]) == (quick, [speed("mien", 3.0)])
    assert rows.latest([]) is None


def test_parts_that_only_another_run_measured_are_shown_with_it() -> None:
    parts = replace(MACHINE, date="2026-02-01T00:00:00+00:00", commit="abc")
    right = Row(system="mien", stage="embed", metric="accuracy", value=95.0, unit="%", note="pairs")
    died = Row(system="machine", stage="accuracy", metric="failed", value=None, unit="", note="killed")
    whole = replace(speed("mien", 1.0), stage="end to end")
    results = [(MACHINE, whole), (MACHINE, died), (parts, right)]
    shown = [whole, replace(right, note="pairs; run of 2026-02-01, commit abc")]
    assert rows.latest(results) == (MACHINE, shown)
    assert rows.latest(results[:2]) == (MACHINE, [whole, died])  # nobody measured it


def test_a_loading_process_that_dies_is_a_row_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        loading.subprocess, "run",
        lambda *_, **__: subprocess.CompletedProcess([], 7, stdout="", stderr="Traceback\nMemoryError: no more\n"),
    )  # fmt: skip
    (row,) = loading.run(threads=1, pictures=1, repeats=1, say=lambda text: None)
    assert (row.value, row.note) == (None, "MemoryError: no more")


def test_the_machine_describes_itself() -> None:
    machine = rows.describe(date=MACHINE.date, scale="quick")
    assert machine.cpu
    assert machine.cores >= 1
    assert machine.torch
    assert not math.isnan(machine.memory_gib) or sys.platform == "win32"
    assert machine.cpu in machine.text


# ---------------------------------------------------------------------------------------------------- report

RESULT = [
    speed("dlib", 10.0),
    speed("mien", 60.0, spread=3.0, limit=180.0, times_from_limit=3.0, limited_by="FLOPs"),
    speed("dlib", 20.0, threads=2),
    speed("mien", 70.0, threads=2),
    speed("dlib", 1000.0, stage="decode"),
    speed("mien", 200.0, pictures="", stage="embedder network", batch=32, unit="faces/s", times_from_limit=4.5),
    Row(system="dlib", pictures="lfw", stage="detect", metric="central face found", value=97.5, unit="%", spread=0.25),
    Row(system="mien", pictures="no_faces", stage="detect", metric="false faces", value=0.0123, unit="per picture"),
    Row(system="mien", version="1", stage="start", metric="first result", value=1.234, unit="s"),
    Row(threads=1, system="machine", stage="GEMM, fp32", metric="rate", value=123.4, unit="GFLOP/s", note="best run"),
    Row(threads=1, system="mtcnn", stage="loading", metric="not loadable", value=None, unit="", note="no such | thing"),
]


def test_ratios_compare_like_with_like() -> None:
    assert report.ratio(RESULT[1], RESULT) == 6.0
    assert report.ratio(RESULT[3], RESULT) == 3.5
    assert report.ratio(RESULT[5], RESULT) is None  # dlib has no such row
    assert report.ratio(RESULT[-1], RESULT) is None


def test_tables_say_whether_the_aims_are_met() -> None:
    (aims, *others) = report.sections(RESULT)
    assert [(row[2], row[3]) for row in aims.rows] == [("6.00 x", "yes"), ("4.50 x", "no")]
    titles = [section.title for section in others]
    assert len(titles) == len(set(titles))
    assert all(len(row) == len(section.columns) for section in others for row in section.rows)
    one = next(section for section in others if "LFW" not in section.title and "1 core" in section.title)
    stages = [row[0] for row in one.rows if row[0]]
    assert stages == ["end to end", "decode"]  # the whole first, whatever order rows came in
    mien = next(row for row in one.rows if row[2] == "mien")
    assert mien[3:] == ("60.0 images/s", "± 5 %", "16.7", "6.00", "3.00", "FLOPs")


def test_what_is_missing_is_said() -> None:
    missing = report.sections(RESULT)[-1]
    assert missing.rows == (("mtcnn", "not loadable", "no such | thing"),)


NUMBERS = {None: "", 0: "0", 0.1234: "0.123", 1.005: "1.00", 12.34: "12.3", 1234.5: "1,234", 99999: "99,999"}


@pytest.mark.parametrize(("value", "text"), NUMBERS.items())
def test_numbers_have_three_digits_and_no_powers(value: float | None, text: str) -> None:
    assert report.number(value) == text


def test_terminal_and_page_show_the_same_tables(tmp_path: Path) -> None:
    text = io.StringIO()
    report.show(MACHINE, RESULT, Console(file=text, width=140))
    results, page = tmp_path / "bench.csv", tmp_path / "benchmarks.md"
    rows.append(results, MACHINE, RESULT)
    write_page(results, page)
    for cell in ("60.0 images/s", "97.50 %", "0.012", "1.23 s", "123 GFLOP/s", "A CPU, of sorts"):
        assert cell in text.getvalue()
        assert cell in page.read_text()
    table = [line for line in page.read_text().splitlines() if line.startswith("|")]
    assert r"no such \| thing" in page.read_text()
    assert {line.count("|") - line.count(r"\|") for line in table if "end to end" in line} <= {5, 10}


def test_the_page_without_results_says_so(tmp_path: Path) -> None:
    write_page(tmp_path / "none.csv", tmp_path / "page.md")
    assert "No run has been recorded yet" in (tmp_path / "page.md").read_text()


# -------------------------------------------------------------------------------------------------- what to run


def test_only_names_systems_and_stages() -> None:
    assert chosen([]).systems == systems.SYSTEMS
    assert chosen(["mien"]).stages == worker.STAGES
    both = chosen(["mien", "dlib", "embed"])
    assert (both.systems, both.stages, both.speed, both.accuracy, both.start) == (
        ("mien", "dlib"), ("embed",), True, False, False,
    )  # fmt: skip
    assert (chosen(["start"]).start, chosen(["start"]).speed) == (True, False)
    with pytest.raises(OptionError, match="no such system or stage"):
        chosen(["insightface"])


def test_spread_takes_rows_at_even_distances() -> None:
    assert pictures.spread(10, 5) == [0, 2, 4, 6, 8]
    assert pictures.spread(3, 5) == [0, 1, 2]
    assert pictures.spread(0, 5) == []


def test_self_made_pictures(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    from mien.media import image_size

    assert image_size(pictures.write_portrait(tmp_path)) == (512, 512)
    assert image_size(pictures.write_photo(tmp_path)) == (4000, 3000)


def test_lfw_subset_is_half_same_in_every_fold() -> None:
    fold = np.repeat([1, 2, 3], 20)
    same = np.tile(np.repeat([True, False], 10), 3)
    kept = accuracy.subset(same, fold, 6)
    assert kept.tolist() == [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52]
    assert len(accuracy.subset(same, fold, 600)) == 60


def test_the_middle_of_a_picture() -> None:
    boxes = np.array([[0, 0, 10, 10], [30, 20, 70, 45]], np.float32)
    assert accuracy.has_middle(boxes, (80, 100, 3))
    assert not accuracy.has_middle(boxes[:1], (80, 100, 3))
    assert not accuracy.has_middle(np.zeros((0, 4), np.float32), (80, 100, 3))
    assert accuracy.nearest_middle(boxes, (80, 100, 3)) == 1


def test_shares_have_their_standard_error() -> None:
    row = accuracy.share_row(Painted(), "lfw", "detect", "central face found", np.array([True] * 9 + [False]))
    assert row.value == pytest.approx(90)
    assert row.spread == pytest.approx(100 * math.sqrt(0.9 * 0.1 / 10))


# ------------------------------------------------------------------------------------------------- a tiny run


class Painted:
    """A system that finds one face, the whole picture, and embeds its mean colour. Counts how it was called."""

    name = "mien"
    version = "test"
    stages = ("decode", "detect", "landmarks", "crop", "embed", "end to end")
    note = ""
    failed = 0

    def __init__(self) -> None:
        self.groups: list[int] = []

    def decode(self, data: bytes) -> Any:
        import cv2

        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)

    def decode_many(self, files: Sequence[bytes]) -> object:
        return [self.decode(data) for data in files]

    def detect(self, pictures: Sequence[Any]) -> Any:
        self.groups.append(len(pictures))
        return [np.array([[0, 0, p.shape[1], p.shape[0]]], np.float32) for p in pictures]

    def points(self, pictures: Sequence[Any], found: Any) -> Any:
        return found

    def crop(self, pictures: Sequence[Any], found: Any) -> Any:
        return pictures

    def embed(self, pictures: Sequence[Any], found: Any) -> Any:
        return np.stack([p.reshape(-1, 3).mean(0) for p in pictures]).astype(np.float32)

    def end_to_end(self, paths: Sequence[str]) -> object:
        opened = [self.decode(Path(path).read_bytes()) for path in paths]
        return self.embed(opened, self.detect(opened))

    def boxes(self, pictures: Sequence[Any], found: Any) -> Any:
        return found

    def scores(self, pictures: Sequence[Any], found: Any) -> Any:
        return [np.ones(len(boxes), np.float32) for boxes in found]

    def compare(self, first: Any, second: Any) -> Any:
        return -np.linalg.norm(first - second, axis=1)

    def work(self, stage: str, pictures: Sequence[Any]) -> Work | None:
        return None if stage == "detect" else Work((Call(1_000 * len(pictures), 10),)) if stage != "decode" else Work()

    def networks(self) -> list[systems.Network]:
        return [
            systems.Network("embedder network", "faces/s", "", lambda n: lambda: None, lambda n: Work((Call(n, 1),)))
        ]


@pytest.fixture
def album(tmp_path: Path) -> pictures.Album:
    import cv2

    paths = []
    for index in range(5):
        paths.append(str(tmp_path / f"{index}.jpg"))
        cv2.imwrite(paths[-1], np.full((24, 32, 3), 40 * index, np.uint8))
    return pictures.Album("lfw", tuple(paths), "grey", batches=(1, 4))


def tiny(album: pictures.Album, **more: Any) -> worker.Job:
    return worker.Job(
        task="speed", threads=1, systems=("mien", "mtcnn"), albums=(album,), batches=(1, 4), singles=2, repeats=2,
        least=2, budget_s=1.0, gemm_sizes=(16, 32), triad_bytes=1 << 14, **more,
    )  # fmt: skip


def loaded(name: str) -> Any:
    if name == "mtcnn":
        raise systems.NotLoadable("not\nhere")
    return Painted()


def test_a_run_from_pictures_to_rows(album: pictures.Album) -> None:
    made = list(worker.do(tiny(album), say=lambda text: None, loader=loaded))
    failed = [row for row in made if row.value is None]
    assert [(row.system, row.note) for row in failed] == [("mtcnn", "not here")]

    own = {(row.stage, row.batch, row.unit): row for row in made if row.system == "mien"}
    for stage in worker.TIMED:
        for batch in (1, 4):
            unit = "images/s" if stage in ("decode", "detect", "end to end") else "faces/s"
            assert own[stage, batch, unit].value > 0
            assert own[stage, batch, unit].repeats >= 2
    assert ("end to end", 4, "faces/s") in own
    assert own["embedder network", 4, "faces/s"].pictures == ""
    assert own["end to end", 1, "images/s"].note == "2 faces in 2 pictures"
    assert own["end to end", 4, "images/s"].note == "4 faces in 4 pictures"

    machine = {(row.stage, row.batch): row for row in made if row.system == "machine"}
    assert set(machine) == {("GEMM, fp32", 0), ("triad", 0), ("decode", 1), ("decode", 4)}
    # The limit of decoding is the plain decoder's best run, and ratios are limit over value.
    decode = own["decode", 1, "images/s"]
    assert decode.limit == pytest.approx(machine["decode", 1].value)
    assert decode.times_from_limit == pytest.approx(decode.limit / decode.value)
    assert decode.limited_by == "decoding"
    # That of a network: 2 MACs a face at the measured GEMM rate, or its one call's parameters at the bandwidth.
    embed = own["embed", 4, "faces/s"]
    seconds = max(2 * 4_000 / (machine["GEMM, fp32", 0].value * 1e9), 40 / (machine["triad", 0].value * 1e9))
    assert embed.limit == pytest.approx(4 / seconds, rel=1e-6)
    # The whole is bounded by the sum of both.
    whole = own["end to end", 4, "images/s"]
    assert whole.limit == pytest.approx(4 / (seconds + 4 / machine["decode", 4].value), rel=1e-6)
    assert own["detect", 1, "images/s"].limit is None
    assert report.sections(made)


def test_batches_are_what_they_are_called(album: pictures.Album) -> None:
    system = Painted()
    list(worker.do(tiny(album, stages=("detect",)), say=lambda text: None, loader=lambda name: system))
    assert set(system.groups) == {1, 4}


def test_jobs_survive_the_way_to_the_process(album: pictures.Album) -> None:
    job = tiny(album)
    assert worker.Job.from_json(job.to_json()) == job


def test_a_process_that_cannot_do_its_job_is_a_row(album: pictures.Album) -> None:
    (row,) = worker.run(replace(tiny(album), task="no such task", systems=()), say=lambda text: None)
    assert (row.system, row.metric, row.value) == ("machine", "failed", None)
    assert "no such task" in row.note


def test_fresh_process_with_its_threads(album: pictures.Album) -> None:
    """One real worker: no system, only the machine; its answer comes through its pipe, whatever else is printed."""
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.worker"], input=replace(tiny(album), systems=()).to_json(), cwd=ROOT,
        env=worker.settings(1), capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    messages = [json.loads(line) for line in answer.stdout.splitlines()]
    found = [Row(**message["row"]) for message in messages if "row" in message]
    assert [(row.system, row.threads) for row in found] == [("machine", 1)] * 4
    assert asdict(found[0])["unit"] == "GFLOP/s"


def test_first_results_are_told_from_outside(tmp_path: Path) -> None:
    snippet = "def ready():\n    pass\n\ndef look(paths):\n    return 3 * len(paths)\n"
    told = first.run_once(snippet, str(tmp_path / "any.jpg"), threads=1)
    assert isinstance(told, first.First)
    assert told.faces == 3
    assert 0 <= told.import_s < told.first_s
    assert 1 << 20 < told.peak <= told.peak_many
    assert "No module named 'nosuchthing'" in str(first.run_once("import nosuchthing\n", "x", threads=1))


def declared(folder: Path, name: str, task: str, build: str, **more: Any) -> Any:
    """A declaration of a network with random numbers, its file in `folder`."""
    import importlib

    from mien.train.checkpoint import save_weights
    from mien.weights import Weights

    module, function = build.split(":")
    torch.manual_seed(0)
    network = getattr(importlib.import_module(module), function)(**more.get("arguments", {}))
    if task == "detection":  # five points in one place are no face
        for head in network.heads:
            head[1].bias.data[5:15] = torch.linspace(-0.3, 0.3, 10)
    path = folder / f"{name}.safetensors"
    save_weights(path, network)
    data = path.read_bytes()
    return Weights(
        name=name, task=task, sha256=hashlib.sha256(data).hexdigest(), size=len(data), licence="Apache-2.0",
        source="tests", build=build, file=str(path), **more,
    )  # fmt: skip


def test_mien_goes_through_the_stages_of_its_own_verb(tmp_path: Path) -> None:
    """Real networks with random numbers; a threshold of 0 makes the detector see faces in every noise."""
    import cv2

    from mien.nn.count import count_macs
    from mien.nn.detector import detector_base
    from mien.nn.embedder import embedder_small
    from mien.nn.landmarks import landmarks_base
    from mien.weights import EmbeddingContract, InputContract, registered

    paths = [str(tmp_path / f"{index}.png") for index in range(2)]
    for index, path in enumerate(paths):
        cv2.imwrite(path, np.random.default_rng(index).integers(0, 256, (60, 64, 3), np.uint8))
    detector = declared(
        tmp_path, "noise-detector", "detection", "mien.nn.detector:detector_base", threshold=0.0,
        input=InputContract(size=None, multiple_of=32),
    )  # fmt: skip
    landmarks = declared(
        tmp_path, "noise-landmarks", "landmarks", "mien.nn.landmarks:landmarks_base",
        input=InputContract(size=112, template="box", margin=1.2),
    )  # fmt: skip
    embedder = declared(
        tmp_path, "noise-embedder", "embedding", "mien.nn.embedder:embedder_small",
        input=InputContract(size=112, template="chip112"), embedding=EmbeddingContract(dim=128),
    )  # fmt: skip
    with registered(detector, landmarks, embedder):
        system = systems.Mien(detector="noise-detector", landmarks="noise-landmarks", embedder="noise-embedder")
        seen = [system.decode(Path(path).read_bytes()) for path in paths]
        found = system.detect(seen)
        faces = len(found.image)
        assert faces > 0
        pointed = system.points(seen, found)
        embedded = system.embed(seen, pointed)
        whole: Any = system.end_to_end(paths)
        np.testing.assert_allclose(whole.embeddings, embedded, atol=1e-5)
        assert [len(boxes) for boxes in system.boxes(seen, found)] == np.bincount(found.image, minlength=2).tolist()
        assert system.crop(seen, pointed).shape == (faces, 112, 112, 3)

        # 60 x 64 is looked at twice as large, 120 x 128, padded to 128 x 128: hardly larger than 160, so in one pass.
        networks = {"detect": detector_base(), "landmarks": landmarks_base(), "embed": embedder_small()}
        macs = {
            "detect": 2 * count_macs(networks["detect"], (1, 3, 128, 128)),
            "landmarks": faces * count_macs(networks["landmarks"], (1, 3, 112, 112)),
            "embed": faces * count_macs(networks["embed"], (1, 3, 112, 112)),
        }
        for stage, expected in (*macs.items(), ("end to end", sum(macs.values())), ("crop", 0)):
            work = system.work(stage, seen)
            assert work is not None
            assert sum(call.macs for call in work.calls) == expected, stage
        (alone,) = [n for n in system.networks() if n.stage == "embedder network"]
        assert np.asarray(alone.make(3)()).shape == (3, 128)
        assert alone.work(3).calls[0].macs == 3 * macs["embed"] // faces


def test_peers_that_are_not_there_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    with pytest.raises(systems.NotLoadable, match="pip install dlib-bin"):
        systems.load("dlib")
    with pytest.raises(systems.NotLoadable, match="facenet-pytorch does not import"):
        systems.load("mtcnn")
