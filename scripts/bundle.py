"""Put the weights of a finished training run into the package.

    python scripts/bundle.py runs/detector mien-detector

Copies ``RUN/weights.safetensors`` to ``src/mien/weights/files/NAME.safetensors`` and writes hash, size, parameters,
MACs and the command that trained it into ``manifest.json`` beside it. A run that has not ended is refused, and so are
weights that do not fit the network which the name stands for, and more than 40 MB in all. Afterwards run
``scripts/measure.py`` for the figures, which belong to one file and are not shown with another, then
``scripts/pages.py``.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from safetensors import safe_open

from mien.errors import MienError, TrainingError, WeightsError
from mien.nn.count import count_macs, count_parameters
from mien.train.loop import Recipe
from mien.train.recipes import RECIPES, recipe_class
from mien.weights import build
from mien.weights.bundled import LARGEST, MANIFEST, PROSE, declaration, write_facts
from mien.weights.declare import BUNDLED, SAFE
from mien.weights.load import fill, read_state
from mien.weights.store import write_whole

SIZE = (480, 640)
"""Height and width that MACs are counted on where a network takes any."""


def bundle(run: Path, name: str, *, folder: Path = BUNDLED) -> dict[str, Any]:
    """Copies the weights of `run` into `folder` as `name`; returns what the manifest now says of them.

    Raises
    ------
    TrainingError
        The run has not ended, or is none.
    WeightsError
        The weights do not fit the network, or the files would be larger than 40 MB together.
    """
    if name not in PROSE:
        raise WeightsError("no bundled network has that name", got=name, expected=sorted(PROSE))
    file = run / "weights.safetensors"
    config = _config(run)
    with safe_open(file, "pt") as opened:
        step = int((opened.metadata() or {}).get("step", -1))
    if step != config["steps"]:
        raise TrainingError("the run has not ended", got=f"step {step}", expected=f"step {config['steps']}")
    data = file.read_bytes()
    together = len(data) + sum(f.stat().st_size for f in folder.glob(f"*{SAFE}") if f.name != name + SAFE)
    if together > LARGEST:
        raise WeightsError("the bundled files are too large together", got=f"{together:,} bytes", expected=LARGEST)

    facts: dict[str, Any] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    height, width = (PROSE[name]["input"].size,) * 2 if PROSE[name]["input"].size else SIZE
    more = {"macs_input": [1, 3, height, width], "command": command(config), "steps": step}
    declared = declaration(name, {**facts, **more, "parameters": 1, "macs": 1}, {})
    network = build(declared).eval()
    fill(network, read_state(file), source=str(file))
    facts |= {"parameters": count_parameters(network), "macs": count_macs(network, (1, 3, height, width)), **more}
    facts["bundled"] = datetime.datetime.now(datetime.UTC).date().isoformat()

    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / MANIFEST
    noted = json.loads(manifest.read_text("utf-8")) if manifest.exists() else {}
    write_whole(folder / (name + SAFE), data)
    write_facts(manifest, {**noted, name: facts})
    return facts


def command(config: dict[str, Any], *, stage: str = "") -> str:
    """The command that trains what `config` says: the preset that says most of it, and every number that differs.

    Where things lie and how fast they go is left out; folders of data are named by their last part. A run that
    started from the weights of another is two commands, that of the other first.

    Raises
    ------
    TrainingError
        The run, or that of its first weights, is of no known recipe.
    """
    name = next((n for n in RECIPES if recipe_class(n).__name__ == config["recipe"]), None)
    if name is None:
        raise TrainingError("the run is of no known recipe", got=config["recipe"], expected=list(RECIPES))
    recipe = recipe_class(name)
    folders = sorted(recipe.PLACES - {"init"})
    earlier = f"{stage}-first"
    first = f"runs/{name}{earlier}/weights.safetensors"
    places = {
        k: first if config[k] == config.get("init") else f"DATA/{Path(config[k]).name}"
        for k in folders
        if config.get(k) is not None
    }
    choices = [_differences(recipe, preset, places, config) for preset in (None, *recipe.PRESETS)]
    preset, numbers = min(choices, key=lambda choice: len(choice[1]))
    words = ["mien train", name, *([f"preset={preset}"] if preset else [])]
    words += [f"{key}={_plain(value)}" for key, value in numbers.items()]
    words += [f"{key}={place}" for key, place in places.items()]
    before = ""
    if config.get("init") is not None:
        before = command(_config(Path(config["init"]).parent), stage=earlier) + " && "
        words.append(f"init={first}")
    return before + " ".join([*words, f"out=runs/{name}{stage}"])


def _differences(
    recipe: type[Recipe], preset: str | None, places: dict[str, str], config: dict[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    resolved = recipe.make(preset=preset, out="runs", **places).to_dict()
    compared = config.keys() - recipe.FREE - recipe.PLACES - {"recipe"}
    return preset, {key: config[key] for key in config if key in compared and config[key] != resolved.get(key)}


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_plain, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _config(run: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((run / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError("this is no folder of a training run", got=run, expected="config.json in it") from error
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished training run")
    parser.add_argument("name", choices=sorted(PROSE), help="name of the weights")
    given = parser.parse_args()
    try:
        facts = bundle(given.run, given.name)
    except MienError as error:
        sys.exit(str(error))
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
