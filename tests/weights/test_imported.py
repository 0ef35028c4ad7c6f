"""Imported weights: declarations from plain values and back, the folder, ``mien weights import`` and ``remove``."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

import mien
from mien import cli
from mien.errors import (
    CheckpointError,
    HashMismatch,
    MienError,
    OptionError,
    UnknownWeights,
    WeightsError,
    WeightsUnavailable,
)
from mien.nn.inception import InceptionResnetV1
from mien.papers import facenet
from mien.papers.facenet import checkpoint as checkpoint_module
from mien.train.checkpoint import save_weights
from mien.verbs.weights import import_weights, list_weights, remove_weights, verify_weights
from mien.weights import (
    WEIGHTS,
    EmbeddingContract,
    Figure,
    InputContract,
    Operating,
    TrainingSet,
    Weights,
    accepted,
    get,
    imported,
    info,
    load,
    path,
    registered,
    state,
    verify,
)
from mien.weights import list_weights as declared_weights
from mien.weights.bundled import declarations

from .conftest import SMALL, declared, lively

# ------------------------------------------------------------------------------------------- plain values and back


def full() -> Weights:
    """A declaration in which every field has another value than its default."""
    return declared(
        b"data", "https://example.org/a.safetensors", "https://example.net/a.safetensors",
        name="full-1.0", licence="CC-BY-NC-4.0", licence_url="https://example.org/licence", paper="facenet",
        input=InputContract(
            size=96, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), colour="BGR", template="box", margin=1.2, multiple_of=2,
        ),
        embedding=EmbeddingContract(dim=8, flip=True),
        build="mien.nn.embedder:Embedder", convert="mien.papers.facenet:convert_official",
        arguments={"widths": (8, (8, 16)), "head": None, "more": {"deep": (1, 2)}}, command="mien train embedder",
        trained_on=(TrainingSet(name="set", licence="CC0-1.0", source="somebody"),),
        macs=9, macs_input=(1, 3, 96, 96), parameters=5, threshold=0.5, notes="Ärgerlich.",
        figures=(Figure(metric="m", value=1, data="d", protocol="p", date="2026-01-31", unit="%", low=0.5, high=2.0,
                        group="g", n=3),),
        calibration=(Operating(fmr=1e-3, threshold=0.3, data="d", low=0.2, high=0.4, fnmr=0.1),),
    )  # fmt: skip


def by_json(weights: Weights) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(weights.to_dict(), allow_nan=False))
    return plain


@pytest.mark.parametrize("weights", [*declarations(), full()], ids=lambda weights: weights.name)
def test_a_declaration_survives_plain_values_and_json(weights: Weights) -> None:
    assert Weights.from_dict(weights.to_dict()) == weights
    again = Weights.from_dict(by_json(weights))
    assert again == weights
    assert hash(again) == hash(weights)
    assert again.to_dict() == weights.to_dict()


def test_what_follows_from_the_rest_is_not_believed() -> None:
    plain = {**by_json(full()), "permissive": True, "bundled": True}
    plain["embedding"]["id"] = "mien-embedder@000000000000"
    again = Weights.from_dict(plain)
    assert again == full()
    assert not again.permissive
    assert again.embedding is not None
    assert again.embedding.id.startswith("full-1.0@")
    for key in ("permissive", "bundled"):
        del plain[key]
    assert Weights.from_dict(plain) == again


def changed(plain: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """`plain` with `value` at ``a.b.0``; an Ellipsis takes away what is there."""
    at: Any = plain
    *way, last = [int(word) if word.isdigit() else word for word in place.split(".")]
    for word in way:
        at = at[word]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return plain


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("extra", 1, "unknown: extra"),
        ("input.sise", 1, "input. Got: unknown: sise"),
        ("embedding.extra", 1, "embedding. Got: unknown: extra"),
        ("figures.0.extra", 1, r"figures\[0\]. Got: unknown: extra"),
        ("calibration.0.extra", 1, r"calibration\[0\]. Got: unknown: extra"),
        ("trained_on.0.extra", 1, r"trained_on\[0\]. Got: unknown: extra"),
        ("sha256", ..., "missing: sha256"),
        ("input.size", ..., "input. Got: missing: size"),
        ("figures.0.date", ..., "missing: date"),
        ("size", "4", "size. Got: '4'. Expected: a whole number"),
        ("size", 4.0, "a whole number"),
        ("size", True, "a whole number"),
        ("name", 7, "name. Got: 7. Expected: text"),
        ("name", None, "Expected: text"),
        ("embedding.flip", 1, "true or false"),
        ("input", [], "input. Got: .*values by name"),
        ("input.mean", [1.0, 2.0], "a list of 3"),
        ("input.mean", 127.5, r"input\.mean. .*a list"),
        ("input.mean.1", "2", r"input\.mean\[1\]. .*a finite number"),
        ("input.std.0", float("nan"), "a finite number"),
        ("calibration.0.threshold", float("inf"), "a finite number"),
        ("urls", "https://example.org/a.safetensors", "urls. .*a list"),
        ("arguments", [1], "arguments. .*values by name"),
        ("sha256", "short", "the hash"),
        ("input.colour", "rgb", "colour"),
    ],
)
def test_what_is_no_declaration_is_refused(place: str, value: Any, message: str) -> None:
    with pytest.raises((WeightsError, OptionError), match=message):
        Weights.from_dict(changed(by_json(full()), place, value))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(place=st.sampled_from(sorted(full().to_dict())), value=json_values)
def test_nothing_but_errors_of_mien_comes_of_other_values(place: str, value: Any) -> None:
    try:
        again = Weights.from_dict({**by_json(full()), place: value})
    except MienError:
        return
    assert Weights.from_dict(by_json(again)) == again


# ------------------------------------------------------------------------------------------- the folder


def writes(network: nn.Module, name: str, **more: Any) -> Any:
    """What `keep` calls: writes the tensors of `network` and declares them."""

    def convert(out: Path) -> Weights:
        save_weights(out, network)
        return declared(out.read_bytes(), name=name, file=str(out), **{**SMALL["embedding"], **more})

    return convert


def small(seed: int = 0) -> nn.Module:
    from mien.nn.embedder import Embedder

    return lively(Embedder(**SMALL["embedding"]["arguments"]), seed)


def kept(name: str = "mine", seed: int = 0, **more: Any) -> Weights:
    return imported.keep(name, writes(small(seed), name, **more))


def test_what_is_kept_is_known_by_its_name(home: Path) -> None:
    weights = kept()
    assert weights.file == str(home / "imported" / "mine.safetensors")
    assert "mine" not in WEIGHTS
    assert info("mine") == weights
    assert weights in declared_weights()
    assert weights in declared_weights(task="embedding")
    assert state("mine") == "on this machine"
    assert path("mine") == verify("mine") == get("mine") == Path(weights.file)
    crops = torch.rand(2, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(load("mine", device="cpu")(crops), small()(crops), atol=1e-5, rtol=1e-4)
    visible = {file.name for file in (home / "imported").iterdir() if file.name[0] != "."}
    assert visible == {"mine.json", "mine.safetensors"}


def test_names_are_suggested() -> None:
    kept("facenet-vggface2")
    with pytest.raises(UnknownWeights, match="did you mean 'facenet-vggface2'"):
        info("facenet-vggface")
    for name in ("../imported/facenet-vggface2", "Facenet-vggface2", ""):
        with pytest.raises(UnknownWeights):
            info(name)


def test_a_licence_is_accepted_for_downloads_only() -> None:
    kept(licence="none stated for the weights")
    assert not accepted("mine")
    assert get("mine") == path("mine")
    load("mine", device="cpu")
    assert "mine" not in [row.name for row in list_weights(permissive_only=True)]


def test_another_import_of_that_name_replaces_the_first() -> None:
    one = kept(seed=1)
    assert kept(seed=1) == one
    two = kept(seed=2)
    assert two.sha256 != one.sha256
    assert info("mine") == two
    verify("mine")


def test_a_file_that_was_changed_is_not_loaded() -> None:
    file = path(kept())
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(HashMismatch):
        load("mine", device="cpu")
    (row,) = [row for row in verify_weights().weights if row.name == "mine"]
    assert (row.ok, row.state) == (False, "wrong")
    file.unlink()
    assert state("mine") == "missing"
    with pytest.raises(WeightsUnavailable):
        load("mine", device="cpu")


def test_the_folder_can_be_moved(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = kept()
    there = home.rename(home.with_name("elsewhere"))
    with pytest.raises(UnknownWeights):
        info("mine")
    monkeypatch.setenv("MIEN_HOME", str(there))
    assert info("mine") == replace(weights, file=str(there / "imported" / "mine.safetensors"))
    assert verify("mine").is_relative_to(there)


def test_names_that_are_taken_or_impossible_are_refused_before_anything_is_done(home: Path) -> None:
    def never(out: Path) -> Weights:
        raise AssertionError(out)

    taken = declared(b"x", "https://example.org/x.safetensors", name="taken")
    with registered(taken), pytest.raises(WeightsError, match="belongs to other weights"):
        imported.keep("taken", never)
    for name in ("../mine", "Mine", "my own", ""):
        with pytest.raises(OptionError, match="cannot bear"):
            imported.keep(name, never)
    assert not home.exists()


def test_a_conversion_that_fails_leaves_what_was_there(home: Path) -> None:
    one = kept()

    def broken(out: Path) -> Weights:
        out.write_bytes(b"half")
        raise CheckpointError("broken")

    def other(out: Path) -> Weights:
        made: Weights = writes(small(2), "mine")(out)
        out.write_bytes(bytes(made.size))
        return made

    with pytest.raises(CheckpointError, match="broken"):
        imported.keep("mine", broken)
    with pytest.raises(HashMismatch):
        imported.keep("mine", other)
    with pytest.raises(WeightsError, match="other weights"):
        imported.keep("mine", writes(small(2), "yours"))
    with pytest.raises(WeightsError, match="not mien's own"):
        imported.keep("mine", writes(small(2), "mine", build="os:getcwd"))
    assert info("mine") == one
    verify("mine")
    assert imported.names() == ("mine",)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-20], "damaged"),
        (lambda text: "[1]", "damaged. Got: list"),
        (lambda text: "\udcff", "damaged"),
        (lambda text: "", "damaged"),
        (lambda text: text.replace('"size"', '"sise"', 1), "unknown: sise"),
        (lambda text: text.replace('"name": "mine"', '"name": "yours"'), "of other weights"),
        (lambda text: text.replace("mien.nn.embedder:Embedder", "os:system"), "not mien's own"),
        (lambda text: text.replace('"convert": null', '"convert": "os:system"'), "not mien's own"),
        (lambda text: text.replace('"colour": "RGB"', '"colour": "HSV"'), "colour"),
    ],
)
def test_a_damaged_declaration_says_which_file_to_delete(
    damage: Any, message: str, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept()
    kept("whole", 1)
    note = home / "imported" / "mine.json"
    note.write_text(damage(note.read_text("utf-8")), "utf-8", errors="surrogateescape")
    for ask in (info, load, path, state, verify_weights):
        with pytest.raises(WeightsError, match=message) as caught:
            ask("mine")
        assert f"delete {note}" in str(caught.value)
    # The others are as they were.
    assert verify("whole").is_file()
    with caplog.at_level(logging.WARNING, logger="mien"):
        names = [weights.name for weights in declared_weights()]
    assert "whole" in names
    assert "mine" not in names
    assert f"delete {note}" in caplog.text
    report = verify_weights()
    rows = {row.name: row for row in report.weights}
    assert not report.ok
    assert (rows["mine"].state, rows["whole"].ok) == ("damaged", True)
    assert str(note) in rows["mine"].error
    # Either way out works.
    weights = kept()
    assert info("mine") == weights
    note.write_text("{")
    remove_weights("mine")
    with pytest.raises(UnknownWeights):
        info("mine")


def test_registered_names_go_first(home: Path) -> None:
    kept()
    other = declared(b"x", "https://example.org/x.safetensors", name="mine")
    with registered(other):
        assert info("mine") is other
        assert [weights for weights in declared_weights() if weights.name == "mine"] == [other]
        assert len(remove_weights("mine").files) == 2  # those that were imported
        with pytest.raises(WeightsError, match="was not imported"):
            remove_weights("mine")


def test_other_files_in_the_folder_are_left_alone(home: Path) -> None:
    kept()
    for name in (".mine.json", "._mine.json", "Notes.json", "a b.json", "readme.txt"):
        (home / "imported" / name).write_text("{")
    assert imported.names() == ("mine",)
    assert imported.damaged() == {}
    remove_weights("mine")
    assert (home / "imported" / "Notes.json").exists()


def test_a_user_without_a_home_still_has_the_other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise OptionError("this user has no home folder")

    monkeypatch.setattr("mien.weights.store.home", homeless)
    assert imported.names() == ()
    assert {weights.name for weights in declared_weights()} >= set(WEIGHTS)
    with pytest.raises(UnknownWeights):
        info("mine")


def test_removing_takes_file_declaration_and_exports(home: Path) -> None:
    weights = kept()
    other = kept("mine-2", 1)
    (home / "onnx").mkdir()
    exported = [f"mine-{weights.sha256[:12]}-01234567.{suffix}" for suffix in ("onnx", "sha256")]
    others = [f"mine-2-{other.sha256[:12]}-01234567.onnx"]
    for name in exported + others:
        (home / "onnx" / name).write_bytes(b"x")
    removed = remove_weights("mine")
    gone = [home / "imported" / "mine.json", home / "imported" / "mine.safetensors"]
    assert removed.files == (*gone, *(home / "onnx" / name for name in exported))
    assert not any(file.exists() for file in removed.files)
    assert [file.name for file in (home / "onnx").iterdir()] == others
    assert info("mine-2") == other
    with pytest.raises(UnknownWeights):
        remove_weights("mine")
    with pytest.raises(UnknownWeights):
        remove_weights("../imported/mine-2")


def test_only_imported_weights_are_removed() -> None:
    other = declared(b"x", "https://example.org/x.safetensors", name="other")
    with registered(other), pytest.raises(WeightsError, match="was not imported"):
        remove_weights("other")
    for name in WEIGHTS:
        with pytest.raises(WeightsError, match="was not imported"):
            remove_weights(name)
        assert path(name).is_file()


# ------------------------------------------------------------------------------------------- by the command line


def call(*words: object) -> tuple[int, Any]:
    """Exit code of ``mien … --json``, and what it printed."""
    result = CliRunner().invoke(cli.build(), [*map(str, words), "--json"], prog_name="mien")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout)


NARROW: dict[str, Any] = {"width": 0.125, "repeats": (1, 1, 1)}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """FaceNet's public network with an eighth of the channels and one block of each kind: seconds become parts."""
    monkeypatch.setattr(checkpoint_module, "InceptionResnetV1", partial(InceptionResnetV1, **NARROW))
    monkeypatch.setattr(facenet, "inception_resnet_v1", partial(facenet.inception_resnet_v1, **NARROW))


def made_up(file: Path, *, seed: int = 0, **size: Any) -> Path:
    """A checkpoint of the port's layout with its classifier, of numbers drawn at random."""
    torch.manual_seed(seed)
    torch.save(InceptionResnetV1(classes=3, **size).state_dict(), file)
    return file


def compared(fakes: Any, folder: Path, name: str, *, dim: int) -> None:
    """`mien embed` and `mien verify` with weights of that name on drawn pictures."""
    mien.save_image(folder / "ann.png", fakes.picture((30, 40, 100, 1)))
    mien.save_image(folder / "bob.png", fakes.picture((60, 30, 120, 2)))
    options = ("--weights", name, "--detector", "fake-detector", "--landmarks", "fake-landmarks", "--device", "cpu")
    code, told = call("embed", folder / "ann.png", *options)
    assert code == 0
    (face,) = told["faces"]
    assert np.shape(face["embedding"]) == (dim,)
    assert np.linalg.norm(face["embedding"]) == pytest.approx(1, abs=1e-4)
    assert told["contract"] == f"{name}@{info(name).sha256[:12]}"
    pair = (folder / "ann.png", folder / "bob.png", *options, "--min-quality", "0")
    code, told = call("verify", *pair, "--threshold", "0.5")
    assert code == 0
    assert -1 <= told["similarity"] <= 1
    assert told["contract"].startswith(f"{name}@")
    code, told = call("verify", folder / "ann.png", folder / "ann.png", *pair[2:], "--threshold", "0.5")
    assert code == 0
    assert told["similarity"] == pytest.approx(1, abs=1e-4)
    code, told = call("verify", *pair)  # nothing was measured on these weights
    assert code == 1
    assert "mien calibrate" in told["error"]["hint"]


def test_a_public_checkpoint_serves_every_verb(narrow: None, fakes: Any, tmp_path: Path, home: Path) -> None:
    file = made_up(tmp_path / facenet.RELEASED["vggface2"].file, dim=16, **NARROW)
    code, told = call("weights", "import", "facenet", file, "--name", "facenet-vggface2")
    assert code == 0
    assert told["name"] == "facenet-vggface2"
    assert (told["paper"], told["task"], told["permissive"], told["replaced"]) == ("facenet", "embedding", False, False)
    assert told["licence"].startswith("none stated")
    assert "8,631 people" in told["source"]
    assert told["path"] == str(home / "imported" / "facenet-vggface2.safetensors")
    assert told["declared"] == str(home / "imported" / "facenet-vggface2.json")
    weights = info("facenet-vggface2")
    assert Weights.from_dict(by_json(weights)) == weights
    assert weights == facenet.declaration(told["path"], name="facenet-vggface2")

    compared(fakes, tmp_path, "facenet-vggface2", dim=16)
    code, rows = call("weights", "list", "--task", "embedding")
    assert code == 0
    (row,) = [row for row in rows if row["name"] == "facenet-vggface2"]
    assert (row["state"], row["permissive"]) == ("on this machine", False)
    assert call("weights", "info", "facenet-vggface2")[1]["sha256"] == told["sha256"]
    assert call("weights", "get", "facenet-vggface2")[0] == 0
    assert call("weights", "verify", "facenet-vggface2")[0] == 0

    code, again = call("weights", "import", "facenet", file, "--name", "facenet-vggface2")
    assert (code, again) == (0, {**told, "replaced": True})
    code, told = call("weights", "remove", "facenet-vggface2")
    assert code == 0
    assert len(told["files"]) == 2
    code, told = call("weights", "info", "facenet-vggface2")
    assert (code, told["error"]["code"]) == (1, "unknown_weights")


def test_the_name_is_the_slug_by_default(narrow: None, tmp_path: Path) -> None:
    file = made_up(tmp_path / "own.pt", dim=8, **NARROW)
    result = import_weights("facenet", str(file))
    assert result.weights.name == "facenet"
    assert result.weights == info("facenet")
    assert result.path.is_file()
    assert result.declared.is_file()
    text = CliRunner().invoke(cli.build(), ["weights", "import", "facenet", str(file)], prog_name="mien").stdout
    assert "none stated" in text


@pytest.mark.slow
def test_a_checkpoint_of_the_exact_layout(fakes: Any, tmp_path: Path) -> None:
    file = made_up(tmp_path / facenet.RELEASED["casia-webface"].file)
    code, told = call("weights", "import", "facenet", file)
    assert code == 0
    assert "10,575 people" in told["source"]
    assert told["size_mb"] == pytest.approx(94, abs=0.5)
    compared(fakes, tmp_path, "facenet", dim=512)


def test_what_cannot_be_imported(narrow: None, tmp_path: Path) -> None:
    file = made_up(tmp_path / "own.pt", dim=8, **NARROW)
    with pytest.raises(OptionError, match="did you mean 'facenet'"):
        import_weights("face-net", file)
    with pytest.raises(OptionError, match="planned"):
        import_weights("tp_gan", file)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        import_weights("facenet", tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="a folder"):
        import_weights("facenet", tmp_path)
    (tmp_path / "broken.pt").write_bytes(b"PK nothing")
    with pytest.raises(CheckpointError, match=r"broken\.pt"):
        import_weights("facenet", tmp_path / "broken.pt")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not one of Inception-ResNet-v1"):
        import_weights("facenet", tmp_path / "other.pt")
    with pytest.raises(OptionError, match="cannot bear"):
        import_weights("facenet", file, name="../facenet")
    with pytest.raises(OptionError, match="one task only"):
        import_weights("facenet", file, task="reading")
    for name in WEIGHTS:
        with pytest.raises(WeightsError, match="belongs to other weights"):
            import_weights("facenet", file, name=name)
    assert imported.names() == ()
    code, told = call("weights", "import", "facenet", tmp_path / "none.pt")
    assert (code, told["error"]["code"]) == (1, "checkpoint_error")


def test_papers_without_an_importer_name_those_that_have_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other: Any = SimpleNamespace(PAPER=SimpleNamespace(title="Another paper"))
    there: dict[str, ModuleType] = {"another": other, "facenet": facenet}
    monkeypatch.setattr("mien.papers.get", there.__getitem__)
    monkeypatch.setattr("mien.papers.discover", lambda: there)
    with pytest.raises(OptionError, match=r"Another paper.*one of facenet"):
        import_weights("another", tmp_path / "any.pt")


def test_a_home_that_is_a_file_is_told(home: Path) -> None:
    home.write_text("")
    with pytest.raises(WeightsError, match="cannot be written"):
        kept()
    assert imported.names() == ()
    with pytest.raises(UnknownWeights):
        info("mine")
