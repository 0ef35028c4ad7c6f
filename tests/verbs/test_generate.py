"""``generate``: sets on disk that depend on their options only, and can be gone on with."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import torch

import mien.errors as errors
from mien.verbs.generate import generate


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_options_are_keyword_only() -> None:
    kinds = {p.name: p.kind for p in inspect.signature(generate).parameters.values()}
    assert {name for name, kind in kinds.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD} == {"name"}


def test_a_set_is_made_gone_on_with_and_read(tmp_path: Path) -> None:
    import mien

    out, seen = tmp_path / "set", list[tuple[float, float | None]]()
    made = generate(
        "heads", count=5, out=out, side=48, seed=4, per_identity=2, shard=2, workers=1, truth=["parsing"],
        progress=lambda done, total, what: seen.append((done, total)), glasses="round",
    )  # fmt: skip
    assert (made.count, made.shards, made.written) == (5, 3, 5)
    assert seen == [(2, 5), (4, 5), (5, 5)]
    first = {file.name: file.read_bytes() for file in out.glob("*.tar")}
    (out / "heads-000001.tar").unlink()
    again = generate(
        "heads",
        count=5,
        out=out,
        side=48,
        seed=4,
        per_identity=2,
        shard=2,
        workers=1,
        truth=["parsing"],
        glasses="round",
    )
    assert again.written == 2
    assert {file.name: file.read_bytes() for file in out.glob("*.tar")} == first
    samples = mien.data.read(str(out))
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 0, 1, 1, 2]
    assert samples.points is not None
    assert samples.points.shape == (5, 68, 2)
    assert samples.picture(0).shape == (48, 48, 3)
    assert json.loads((out / "heads.json").read_text())["controls"] == {"glasses": "round"}
    with pytest.raises(errors.OptionError, match="other options"):
        generate("heads", count=6, out=out, side=48, seed=4, shard=2, workers=1)


def test_text_of_a_terminal_becomes_numbers(tmp_path: Path) -> None:
    generate("heads", count=1, out=tmp_path, side=32, workers=1, pose="30,0,0", exposure="0.5", hat="cap")
    assert json.loads((tmp_path / "heads.json").read_text())["controls"] == {
        "exposure": 0.5,
        "hat": "cap",
        "pose": [30.0, 0.0, 0.0],
    }


@pytest.mark.parametrize(
    "options",
    [
        {"name": "hands"},
        {"truth": ["colour"]},
        {"count": 0},
        {"encoding": "gif"},
        {"workers": 0},
        {"hat": "crown"},
        {"nose": 3},
    ],
)
def test_wrong_options_are_told_before_anything_is_drawn(tmp_path: Path, options: dict[str, object]) -> None:
    given = {"name": "heads", "count": 1, "workers": 1, "side": 32, **options}
    with pytest.raises(errors.OptionError):
        generate(given.pop("name"), out=tmp_path, **given)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("*.tar"))


def test_shards_without_their_options_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "heads-000000.tar").write_bytes(b"")
    with pytest.raises(errors.OptionError, match=r"no heads\.json"):
        generate("heads", count=1, out=tmp_path, workers=1)


@pytest.mark.slow
def test_workers_make_the_same_set(tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        generate("heads", count=6, out=tmp_path / name, side=32, shard=2, workers=workers)
    for file in (tmp_path / "one").glob("*.tar"):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
