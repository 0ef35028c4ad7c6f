"""What could scan a gallery: ``python -m benchmarks.scans`` compares libraries and codes; the index was chosen by it.

    speed     milliseconds of processor time of one core, the best of some calls, for one query and for 64; processor
              time, since it hardly depends on what else the machine does
    missed    share of probes whose best match by exact float32 search is not among the R rows that a code of one bit a
              number puts first: mated probes whose mate is that match, and strangers

numkong holds the kernels under usearch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

ROUNDS = 7
RANKS = (512, 1024, 2048, 4096, 8192)


def best_ms(run: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Least processor milliseconds of a call."""
    run()
    taken = []
    for _ in range(rounds):
        began = time.thread_time()
        run()
        taken.append(time.thread_time() - began)
    return 1000 * min(taken)


def speeds(rows: int, dim: int) -> list[tuple[str, int, float, float | None]]:
    """Name, bytes a row, milliseconds of one query and of 64."""
    import faiss
    import numkong
    import torch
    from usearch.index import MetricKind, search

    from mien.gallery.index.files import Frame
    from mien.gallery.index.scan import Coarse, scan_many, scan_one

    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 256, (rows, dim), np.uint8)
    signed = (codes ^ np.uint8(128)).view(np.int8)
    queries = rng.integers(-127, 128, (64, dim)).astype(np.int8)
    bits, query_bits = (rng.integers(0, 256, (n, dim // 8), np.uint8) for n in (rows, 64))
    told: list[tuple[str, int, float, float | None]] = []

    def tell(name: str, size: int, one: Callable[[], object], many: Callable[[], object] | None = None) -> None:
        told.append((name, size, best_ms(one), None if many is None else best_ms(many, 2)))

    tell(
        "int8: faiss IndexScalarQuantizer, 8 bits direct, signed", dim,
        lambda: scan_one(codes, queries[0], 36, threads=1, alive=None),
        lambda: [scan_one(codes, query, 36, threads=1, alive=None) for query in queries],
    )  # fmt: skip
    tell(
        "int8: torch._int_mm in blocks, with selection", dim,
        lambda: scan_many(codes, queries[:1], 36), lambda: scan_many(codes, queries, 36),
    )  # fmt: skip
    packed = [numkong.dots_pack(queries[:n]) for n in (1, 64)]
    out = [numkong.zeros((rows, n), dtype="int32") for n in (1, 64)]
    tell(
        "int8: numkong dots_packed, without selection", dim,
        lambda: numkong.dots_packed(signed, packed[0], out=out[0]),
        lambda: numkong.dots_packed(signed, packed[1], out=out[1]),
    )  # fmt: skip
    tell("int8: numkong cdist, without selection", dim, lambda: numkong.cdist(queries[:1], signed, metric="dot"))
    tell(
        "int8: usearch exact", dim,
        lambda: search(signed, queries[:1], 36, MetricKind.IP, exact=True, threads=1),
    )  # fmt: skip
    width = dim // 8
    tell(
        "bits: faiss knn_hamming, counting", width,
        lambda: faiss.knn_hamming(query_bits[:1], bits, 1024, variant="mc"),
        lambda: faiss.knn_hamming(query_bits, bits, 1024, variant="mc"),
    )  # fmt: skip
    packed_bits = numkong.hammings_pack(query_bits[:1], dtype="uint1")
    counts = numkong.zeros((rows, 1), dtype="uint32")
    tell(
        "bits: numkong hammings_packed, without selection", width,
        lambda: numkong.hammings_packed(bits, packed_bits, out=counts),
    )  # fmt: skip
    floats = rng.standard_normal((rows, dim)).astype(np.float32)
    floats /= np.linalg.norm(floats, axis=1, keepdims=True)
    rabit = faiss.IndexRaBitQFastScan(dim, faiss.METRIC_INNER_PRODUCT)
    rabit.qb = 8
    rabit.train(floats[:1000])
    rabit.add(floats)
    tell(
        "bits: faiss IndexRaBitQFastScan, query in 8 bits", int(rabit.code_size),
        lambda: rabit.search(floats[:1], 1024), lambda: rabit.search(floats[:64], 1024),
    )  # fmt: skip
    scan = Coarse(Frame.made(dim))._packed(bits)
    tell(
        "4 bits for 4 numbers: faiss IndexPQFastScan", width, lambda: scan.search(floats[:1], 1024),
        lambda: [scan.search(query[None], 1024) for query in floats[:64]],
    )  # fmt: skip
    return told


def missed(people_count: int, dim: int, probes: int) -> dict[str, tuple[list[float], list[float]]]:
    """For each code, shares missed at `RANKS`: of mated probes that exact search identifies, and of strangers."""
    import torch

    from benchmarks.simulated import BLOCK, People
    from mien.gallery.index.files import Frame
    from mien.gallery.index.scan import _kept, coarse_codes

    people = People.load(dim)
    vectors = np.concatenate([block for _, block in people.batches(people_count)])
    who = np.random.default_rng(1).choice(min(BLOCK, people_count), probes, replace=False)
    asked = np.concatenate([people.probes(who), next(people.batches(probes, seed=1))[1]])
    frame = Frame.made(dim)
    turned, turned_asked = frame.turn(vectors), frame.turn(asked)
    top = (torch.from_numpy(asked) @ torch.from_numpy(vectors).T).argmax(1).numpy()
    identified = top[:probes] == who
    signs = torch.from_numpy(np.where(turned > 0, np.float32(1), np.float32(-1)))

    def planes(count: int) -> Any:
        """The query as a sum of so many multiples of signs, each of what the former leave."""
        left, made = turned_asked.copy(), np.zeros_like(turned_asked)
        for _ in range(count):
            plane = np.where(left > 0, np.float32(1), np.float32(-1)) * np.abs(left).mean(1, keepdims=True)
            made, left = made + plane, left - plane
        return made

    lengths = torch.from_numpy(1 / np.abs(turned).sum(1))
    points = torch.from_numpy(_kept(frame).pq.decode(coarse_codes(frame, turned)))
    whole = torch.ones(1)
    ways: dict[str, tuple[Any, Any, Any]] = {
        "signs of both": (planes(1), signs, whole),
        "signs; query in two planes of signs": (planes(2), signs, whole),
        "signs; query in three": (planes(3), signs, whole),
        "signs; query in float32": (turned_asked, signs, whole),
        "signs and length (RaBitQ); query in float32": (turned_asked, signs, lengths),
        "4 bits for 4 numbers, Gaussian codebook": (turned_asked, points, whole),
    }
    told = {}
    for name, (queries, rows, factors) in ways.items():
        ranks = []
        for start in range(0, len(queries), 32):
            scores = (torch.from_numpy(queries[start : start + 32]) @ rows.T).mul_(factors)
            own = scores.gather(1, torch.from_numpy(top[start : start + 32, None]))
            ranks.append((scores > own).sum(1).numpy())
        rank = np.concatenate(ranks)
        told[name] = (
            [float((rank[:probes][identified] >= r).mean()) for r in RANKS],
            [float((rank[probes:] >= r).mean()) for r in RANKS],
        )
    return told


def main(
    rows: Annotated[int, typer.Option(help="Rows that are scanned.")] = 200_000,
    people: Annotated[int, typer.Option(help="People among whom codes may miss; 0 to leave it out.")] = 400_000,
    probes: Annotated[int, typer.Option(help="Probes of each kind.")] = 1000,
    dim: Annotated[list[int] | None, typer.Option(help="Numbers of a vector; may be repeated.")] = None,
) -> None:
    """Compares what could scan a gallery: speed on one core, and what codes of one bit a number miss."""
    console = Console(width=120)
    for width in dim or [128, 512]:
        table = Table(title=f"{rows:,} x {width}, one core, processor time", title_justify="left")
        for head in ("scan", "bytes a row", "one query, ms", "GB/s", "64 queries, ms"):
            table.add_column(head, justify="left" if head == "scan" else "right")
        for name, size, one, many in speeds(rows, width):
            gigabytes = rows * size / one / 1e6
            table.add_row(name, str(size), f"{one:.2f}", f"{gigabytes:.1f}", "" if many is None else f"{many:.0f}")
        console.print(table)
        if people:
            table = Table(title=f"missed among {people:,} x {width}: mated / strangers", title_justify="left")
            for head in ("code", *(f"R {rank}" for rank in RANKS)):
                table.add_column(head, justify="left" if head == "code" else "right")
            for name, (mated, strangers) in missed(people, width, probes).items():
                table.add_row(name, *(f"{a:.4f} / {b:.4f}" for a, b in zip(mated, strangers, strict=True)))
            console.print(table)


if __name__ == "__main__":
    sys.argv[0] = "python -m benchmarks.scans"
    typer.run(main)
