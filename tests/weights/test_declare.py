"""Declarations are complete or refused; the registry finds by name and suggests the nearest."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from mien.errors import OptionError, UnknownWeights, WeightsError
from mien.weights import (
    PERMISSIVE,
    WEIGHTS,
    EmbeddingContract,
    Figure,
    InputContract,
    Weights,
    info,
    list_weights,
    register,
    registered,
)

from .conftest import declared

URL = "https://example.org/net.safetensors"
DATA = b"data"


def test_a_declaration_cannot_be_changed_and_is_plain_data() -> None:
    weights = declared(DATA, URL, arguments={"widths": (1, 2)}, embedding=EmbeddingContract(dim=8))
    with pytest.raises(FrozenInstanceError):
        weights.licence = "MIT"  # type: ignore[misc]
    with pytest.raises(TypeError):
        weights.arguments["widths"] = ()  # type: ignore[index]
    plain = json.loads(json.dumps(weights.to_dict()))
    assert plain["arguments"] == {"widths": [1, 2]}
    assert plain["bundled"] is False
    assert plain["permissive"] is True
    assert hash(weights) == hash(replace(weights))
    assert replace(weights) == weights


def test_embeddings_are_comparable_within_one_file_only() -> None:
    one = declared(DATA, URL, embedding=EmbeddingContract(dim=8))
    two = declared(b"other", URL, embedding=EmbeddingContract(dim=8))
    assert one.embedding is not None
    assert two.embedding is not None
    assert one.embedding.id == f"trial@{one.sha256[:12]}"
    assert one.embedding.id != two.embedding.id


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Trial"),
        ("name", "tri al"),
        ("name", "../trial"),
        ("name", ""),
        ("sha256", "0" * 63),
        ("sha256", "F" * 64),
        ("size", 0),
        ("licence", " "),
        ("source", ""),
        ("urls", ()),
        ("urls", ("ftp://example.org/net.safetensors",)),
        ("urls", ("net.safetensors",)),
        ("urls", ("https:///net.safetensors",)),
        ("urls", ("https://example.org/net.onnx",)),
        ("file", "net.safetensors"),  # both
        ("build", "mien.nn.embedder"),
        ("build", "mien.nn:embedder:Embedder"),
        ("build", "os;system:x"),
        ("convert", "x"),
    ],
)
def test_what_is_incomplete_or_malformed_is_refused(field: str, value: Any) -> None:
    declared(DATA, URL)
    with pytest.raises(WeightsError, match="is wrong"):
        declared(DATA, **{"urls": (URL,), field: value})


@pytest.mark.parametrize("file", ["../net.safetensors", "folder/net.safetensors", "./net.safetensors"])
def test_a_file_of_the_package_is_a_bare_name(file: str) -> None:
    with pytest.raises(WeightsError, match="the file"):
        declared(DATA, file=file)


def test_files_of_the_package_are_permissive() -> None:
    assert declared(DATA, file="net.safetensors").bundled
    with pytest.raises(WeightsError, match="permissive"):
        declared(DATA, file="net.safetensors", licence="CC-BY-NC-4.0")
    assert "CC-BY-NC-4.0" not in PERMISSIVE
    assert not declared(DATA, URL, licence="CC-BY-NC-4.0").permissive


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"colour": "rgb"},
        {"mean": (1.0, 2.0)},
        {"mean": (1.0, 2.0, float("nan"))},
        {"std": (1.0, 0.0, 1.0)},
        {"margin": 0.0},
        {"multiple_of": 0},
    ],
)
def test_an_input_contract_that_nothing_can_keep(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        InputContract(**{"size": 112, **wrong})


def test_an_input_contract_in_one_line() -> None:
    assert InputContract(size=112, template="chip112").text == "112 x 112 RGB, (x - 127.5) / 128, chip112"
    assert InputContract(size=None, multiple_of=32).text == "any size in steps of 32 RGB, (x - 127.5) / 128, photo"
    uneven = InputContract(size=96, mean=(1, 2, 3), std=(4, 4, 4), colour="BGR", template="box", margin=1.2)
    assert uneven.text == "96 x 96 BGR, (x - (1, 2, 3)) / (4, 4, 4), box x 1.2"


def test_figures_are_numbers_with_a_day() -> None:
    figure = Figure(metric="NME", value=4.567, data="d", protocol="p", date="2026-01-31", unit="%", low=4.5, high=4.6)
    assert figure.text == "4.57 % [4.50, 4.60]"
    with pytest.raises(WeightsError, match="finite"):
        replace(figure, value=float("nan"))
    with pytest.raises(WeightsError, match="day"):
        replace(figure, date="31.1.2026")
    weights = declared(DATA, URL, figures=(figure, replace(figure, group="men", value=5.0)))
    assert weights.figure("NME").value == 4.567
    assert weights.figure("NME", group="men").value == 5.0
    with pytest.raises(OptionError, match="no such figure"):
        weights.figure("NMR")


def test_a_name_belongs_to_one_declaration() -> None:
    before = dict(WEIGHTS)
    one, other = declared(DATA, URL), declared(b"other", URL)
    with registered(one):
        register(one)  # the same again
        with pytest.raises(WeightsError, match="already"):
            register(other)
        assert info("trial") is one
        assert info(other) is other
    assert before == WEIGHTS


def test_names_and_tasks_that_do_not_exist_are_told_with_the_nearest() -> None:
    with registered(declared(DATA, URL), declared(DATA, URL, name="also", task="drawing")):
        with pytest.raises(UnknownWeights, match="did you mean 'trial'"):
            info("trail")
        with pytest.raises(UnknownWeights, match="mien weights list"):
            info("zzzz")
        with pytest.raises(OptionError, match="did you mean 'drawing'"):
            list_weights(task="drowing")
        assert [weights.name for weights in list_weights(task="drawing")] == ["also"]
        names = [weights.name for weights in list_weights()]
        assert names == sorted(names)
        assert {"also", "trial"} <= set(names)


def test_a_declaration_of_a_block_does_not_outlive_it() -> None:
    def inside() -> None:
        with registered(declared(DATA, URL)):
            raise KeyError

    with pytest.raises(KeyError):
        inside()
    assert "trial" not in WEIGHTS
    weights: Weights = declared(DATA, URL)
    with registered(weights), registered(weights):
        pass
    assert "trial" not in WEIGHTS
