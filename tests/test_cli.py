"""The command line: made from the verbs, JSON on stdout only, errors in words, exit codes that tell."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import mien
from mien import cli
from mien.cli import FAILED, OK, PARTLY, USAGE
from mien.errors import CorruptMedia, MienError, OptionError
from mien.faces import Faces, Failure, ImageInfo

if TYPE_CHECKING:
    from tests.conftest import Fakes

ANALYZE = ["--detector", "fake-detector", "--landmarks", "fake-landmarks", "--embedder", "fake-embedder"]
ALIGN = ["--detector", "fake-detector", "--landmarks", "fake-landmarks"]
EMBED = [*ALIGN, "--weights", "fake-embedder"]
CPU = ["--device", "cpu"]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain, wide terminal: what is printed does not depend on who runs the tests."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "CLICOLOR_FORCE", "PY_COLORS"):
        monkeypatch.delenv(name, raising=False)


def call(*words: object) -> Any:
    """The command, with exit_code, stdout and stderr; an exception that is no error of mien comes through."""
    result = CliRunner().invoke(cli.build(), [str(word) for word in words], prog_name="mien")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def photos(fakes: Fakes, tmp_path: Path) -> Path:
    """A folder with two pictures of two people, one of nobody, and a broken one."""
    folder = tmp_path / "photos"
    folder.mkdir()
    mien.save_image(folder / "ann.png", fakes.picture((30, 40, 100, 1)))
    mien.save_image(folder / "both.png", fakes.picture((20, 40, 90, 1), (180, 60, 110, 2)))
    mien.save_image(folder / "nobody.png", fakes.picture())
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    return folder


# ------------------------------------------------------------------------------------------- the real verbs


def test_json_is_all_that_stdout_holds(photos: Path) -> None:
    done = call("analyze", photos / "ann.png", *ANALYZE, *CPU, "--json")
    assert done.exit_code == OK
    assert done.stderr == ""
    faces = Faces.from_json(done.stdout)
    assert len(faces) == 1
    assert faces.embeddings.shape == (1, 64)
    assert faces == mien.analyze(str(photos / "ann.png"), **dict(pairs(ANALYZE)), device="cpu")


def pairs(words: list[str]) -> Mapping[str, str]:
    return dict(zip([word[2:] for word in words[::2]], words[1::2], strict=True))


def test_a_table_for_people(photos: Path) -> None:
    done = call("analyze", photos / "both.png", photos / "ann.png", *ANALYZE, *CPU)
    assert done.exit_code == OK
    assert "both.png" in done.stdout
    assert "3 faces in 2 pictures" in done.stdout
    assert "yaw" in done.stdout
    assert "°" in done.stdout
    assert "of 100" in done.stdout


def test_broken_pictures_are_listed_at_the_end_and_the_exit_code_says_so(photos: Path) -> None:
    done = call("detect", photos, "--weights", "fake-detector", *CPU)
    assert done.exit_code == PARTLY
    assert "3 faces in 3 pictures" in done.stdout
    assert "torn.jpg" not in done.stdout
    assert "1 picture could not be read" in done.stderr
    assert "torn.jpg" in done.stderr
    as_json = call("detect", photos, "--weights", "fake-detector", *CPU, "--json")
    assert as_json.exit_code == PARTLY
    assert as_json.stderr == ""
    assert [Path(f["source"]).name for f in json.loads(as_json.stdout)["failures"]] == ["torn.jpg"]


def test_one_broken_picture_is_an_error(photos: Path) -> None:
    done = call("detect", photos / "torn.jpg", "--weights", "fake-detector", *CPU)
    assert done.exit_code == FAILED
    assert done.stdout == ""
    assert "corrupt media" in done.stderr
    assert "do this" in done.stderr


def test_errors_as_json(tmp_path: Path) -> None:
    missing = tmp_path / "missing.csv"
    done = call("calibrate", missing, "--json")
    assert done.exit_code == FAILED
    assert done.stderr == ""
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "media_not_found"
    assert error["got"] == str(missing)
    assert error["hint"]


def test_files_that_verbs_write(photos: Path, tmp_path: Path) -> None:
    table, picture, vectors = tmp_path / "faces.csv", tmp_path / "drawn.png", tmp_path / "vectors.npz"
    assert call("detect", photos / "both.png", "--weights", "fake-detector", "--csv", table).exit_code == OK
    assert len(table.read_text(encoding="utf-8").splitlines()) == 3
    assert call("analyze", photos / "ann.png", *ANALYZE, "-d", "cpu", "-o", picture).exit_code == OK
    assert mien.load_image(picture).shape == (240, 320, 3)
    assert call("embed", photos / "both.png", *EMBED, "--out", vectors).exit_code == OK
    with np.load(vectors) as arrays:
        assert any(array.shape == (2, 64) for array in arrays.values())
    crops = tmp_path / "crops"
    assert call("align", photos / "both.png", *ALIGN, "--crop-size", 96, "-o", crops).exit_code == OK
    assert {mien.load_image(path).shape for path in crops.iterdir()} == {(96, 96, 3)}


def test_a_verdict_for_people_and_for_machines(photos: Path) -> None:
    ann, both = photos / "ann.png", photos / "both.png"
    # The fakes see no texture, so quality is no obstacle here.
    more = [*EMBED, *CPU, "--min-quality", "0", "--quality", "components"]
    done = call("verify", ann, ann, *more)
    assert done.exit_code == OK
    for words in ("same person", "similarity  ", "threshold  ", "false match rate", "0.001", "painted faces"):
        assert words in done.stdout
    told = json.loads(call("verify", ann, both, *more, "--fmr", "1e-2", "--json").stdout)
    assert told["same"] is False  # the larger face is of somebody else
    assert told["fmr"] == 0.01
    assert told["threshold"] == 0.5
    unsure = call("verify", ann, photos / "nobody.png", *more)
    assert unsure.exit_code == OK
    assert "cannot judge" in unsure.stdout
    assert "no face was found in picture b" in unsure.stdout


def test_calibrating_from_a_list_of_people(fakes: Fakes, tmp_path: Path) -> None:
    lines = ["file,identity"]
    for person in range(4):
        for number in range(3):
            name = f"{person}-{number}.png"
            mien.save_image(tmp_path / name, fakes.picture((30 + 9 * number, 40, 100, person)))
            lines.append(f"{name},{person}")
    table, out = tmp_path / "people.csv", tmp_path / "thresholds.json"
    table.write_text("\n".join(lines), encoding="utf-8")
    done = call("calibrate", table, *EMBED, *CPU, "--rates", "0.1,0.05", "--out", out)
    assert done.exit_code == OK
    assert "threshold" in done.stdout
    assert "0.05" in done.stdout
    points = json.loads(out.read_text(encoding="utf-8"))["points"]
    assert [point["fmr"] for point in points] == [0.1, 0.05]


# ------------------------------------------------------------------------------------------- wrong use


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["analyse", "a.jpg"], "Did you mean 'analyze'"),
        (["verify", "a.jpg"], "Missing argument 'B'"),
        (["detect", "a.jpg", "--sise", "3"], "--size"),
        (["detect", "a.jpg", "--size", "large"], "--size"),
        (["detect"], "Missing argument 'SOURCE"),
        (["evaluate", "verification"], "--pairs"),
        (["weights", "lst"], "No such command 'lst'"),
    ],
)
def test_wrong_use_is_code_2_and_says_what_was_meant(words: list[str], says: str) -> None:
    done = call(*words)
    assert done.exit_code == USAGE
    assert done.stdout == ""
    assert says in done.stderr


def test_wrong_values_are_errors_with_advice() -> None:
    done = call("detect", "a.jpg", "--device", "toaster")
    assert done.exit_code == FAILED
    assert "toaster" in done.stderr
    done = call("calibrate", "people.csv", "--rates", "often,rarely")
    assert done.exit_code == FAILED
    assert "such as 0.01,0.001" in done.stderr
    done = call("train", "embeder")
    assert done.exit_code == FAILED
    assert "did you mean 'embedder'" in done.stderr


# ------------------------------------------------------------------------------------------- help


def test_help_names_every_command_in_its_panel() -> None:
    done = call("--help")
    assert done.exit_code == OK
    lines = [line.strip("│ ") for line in done.stdout.splitlines()]
    at = 0
    for panel, names in cli.COMMANDS.items():
        at = next(i for i in range(at, len(lines)) if panel in lines[i])
        for name in names:
            at = next(i for i in range(at, len(lines)) if lines[i].startswith(f"{name} "))
    assert "─ Commands ─" not in done.stdout


@pytest.mark.parametrize("name", [name for names in cli.COMMANDS.values() for name in names])
def test_every_command_has_help(name: str) -> None:
    long, short = call(name, "--help"), call(name, "-h")
    assert long.exit_code == OK
    assert long.stdout == short.stdout
    assert "`" not in long.stdout
    assert f"Usage: mien {name}" in long.stdout


def test_version_and_no_words() -> None:
    assert call("--version").stdout == f"mien {mien.__version__}\n"
    assert "Usage: mien" in call().output
    assert "verification" in call("evaluate").output


def test_a_verb_whose_module_is_broken_does_not_take_the_others_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mien.verbs.verify", None)
    assert call("detect", "--help").exit_code == OK
    with pytest.raises(ImportError):
        call("verify", "--help")


def test_the_program_itself_in_a_pipe_of_an_old_locale() -> None:
    """A degree sign must not crash it, and a pipe gets no colours."""
    code = "import sys; sys.argv = ['mien', 'verify', '--help']; from mien.cli import main; main()"
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PATH": "", "COLUMNS": "100"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=120)
    assert done.returncode == OK, done.stderr
    assert b"Usage: mien verify" in done.stdout
    assert b"\x1b" not in done.stdout


# ------------------------------------------------------------------------------------------- from verb to command


@dataclasses.dataclass
class Answer:
    value: Any = None
    ok: bool = True
    failures: tuple[Failure, ...] = ()


def with_verb(monkeypatch: pytest.MonkeyPatch, verb: Callable[..., Any]) -> None:
    """Puts `verb` in the place of the module of ``mien detect``."""
    module = SimpleNamespace(detect=verb, __doc__="``detect``: for this test.")
    monkeypatch.setitem(sys.modules, "mien.verbs.detect", module)


def taking(seen: dict[str, Any]) -> Callable[..., None]:
    def detect(
        source: Any,
        *,
        number: int = 3,
        share: float | None = None,
        name: str | Path | None = None,
        required: str,
        on: bool = True,
        off: bool = False,
        maybe: bool | None = None,
        rates: tuple[float, ...] = (0.1, 0.01),
        words: list[str] | None = None,
        unknown: OnlyForCheckers | None = None,  # type: ignore[name-defined]  # noqa: F821
        recursive: bool = False,
        progress: Any = None,
    ) -> None:
        """Takes everything
        there is.

        More about it.

        Parameters
        ----------
        source
            Pictures; in Python also arrays.
        number, share
            Two
            numbers.
        name : str
            A ``name``.

        Returns
        -------
        nothing
            not a parameter
        """
        seen.update({name: value for name, value in locals().items() if name != "seen"})

    return detect


def test_values_arrive_as_the_types_of_the_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    with_verb(monkeypatch, taking(seen))
    assert call("detect", "a.jpg", "--required", "x").exit_code == OK
    assert seen == {
        "source": "a.jpg", "number": 3, "share": None, "name": None, "required": "x", "on": True, "off": False,
        "maybe": None, "rates": [0.1, 0.01], "words": None, "unknown": None, "recursive": False, "progress": None,
    }  # fmt: skip
    given = (
        "detect a.jpg b.jpg --number 5 --share 0.25 --name n --required x --no-on --off --no-maybe "
        "--rates 0.5 --words a,b --unknown u -r"
    )
    assert call(*given.split()).exit_code == OK
    assert seen == {
        "source": ["a.jpg", "b.jpg"], "number": 5, "share": 0.25, "name": "n", "required": "x", "on": False,
        "off": True, "maybe": False, "rates": [0.5], "words": ["a", "b"], "unknown": "u", "recursive": True,
        "progress": None,
    }  # fmt: skip
    assert "--required" in call("detect", "a.jpg").stderr


def test_help_comes_from_the_docstring() -> None:
    documented = cli.read_docstring(taking({}))
    assert documented.summary == "Takes everything there is."
    assert documented.parameters == {
        "source": "Pictures; in Python also arrays.", "number": "Two numbers.", "share": "Two numbers.",
        "name": "A name.",
    }  # fmt: skip


def test_help_leaves_out_what_only_python_can_give(monkeypatch: pytest.MonkeyPatch) -> None:
    with_verb(monkeypatch, taking({}))
    shown = call("detect", "--help").stdout
    assert "in Python" not in shown
    assert "Pictures." in shown
    assert "[default: 0.1,0.01]" in shown
    assert "A,B,…" in shown
    assert "--no-on" in shown
    assert "--no-off" not in shown


def test_keys_and_values_for_train(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def train(recipe: str, *, preset: str | None = None, progress: Any = None, **options: object) -> None:
        """Trains.

        Parameters
        ----------
        recipe
            Which.
        preset
            Numbers.
        **options
            More numbers.
        """
        seen.update(recipe=recipe, preset=preset, options=options)

    monkeypatch.setitem(sys.modules, "mien.verbs.train", SimpleNamespace(train=train))
    assert call("train", "embedder", "steps=10", "out=a=b", "--preset", "small").exit_code == OK
    assert seen == {"recipe": "embedder", "preset": "small", "options": {"steps": "10", "out": "a=b"}}
    for wrong in ("steps", "=3"):
        done = call("train", "embedder", wrong)
        assert done.exit_code == FAILED
        assert "steps=1000" in done.stderr


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(3), OK),
        (None, OK),
        (Answer(3, ok=False), FAILED),
        (Answer(3, failures=(Failure("a.jpg", "torn", "corrupt_media"),)), PARTLY),
    ],
)
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_exit_codes(monkeypatch: pytest.MonkeyPatch, answer: Any, code: int, more: list[str]) -> None:
    def detect() -> Any:
        """Answers."""
        return answer

    with_verb(monkeypatch, detect)
    done = call("detect", *more)
    assert done.exit_code == code
    if more:
        json.loads(done.stdout)


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_is_a_panel_and_debug_adds_where_it_comes_from(monkeypatch: pytest.MonkeyPatch, debug: bool) -> None:
    def detect() -> None:
        """Fails."""
        raise CorruptMedia("it is [bold]torn[/bold]", got="a.jpg", expected="a whole one", hint="glue it")

    with_verb(monkeypatch, detect)
    done = call("detect", *(["--debug"] if debug else []))
    assert done.exit_code == FAILED
    assert done.stdout == ""
    for words in ("corrupt media", "It is [bold]torn[/bold]", "a.jpg", "a whole one", "glue it"):
        assert words in done.stderr
    assert ("Traceback" in done.stderr) is debug


def test_other_exceptions_are_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def detect() -> None:
        """Has a fault."""
        raise ZeroDivisionError

    with_verb(monkeypatch, detect)
    with pytest.raises(ZeroDivisionError):
        call("detect")


def test_control_c_is_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def detect() -> None:
        """Takes long."""
        raise KeyboardInterrupt

    with_verb(monkeypatch, detect)
    done = call("detect")
    assert done.exit_code == 130
    assert "stopped" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_and_nothing_in_a_pipe(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    given: list[Any] = []

    def detect(*, progress: Callable[[int, int | None, str], None] | None = None) -> str:
        """Takes long."""
        given.append(progress)
        if progress is not None:
            progress(1, None, "looking")
            progress(2, 2, "looking")
        return "done"

    with_verb(monkeypatch, detect)
    monkeypatch.setattr(cli, "_stderr", lambda: Console(stderr=True, force_terminal=terminal, width=100))
    done = call("detect")
    assert done.stdout == "done\n"
    assert (given[0] is not None) is terminal
    assert ("looking" in done.stderr) is terminal


# ------------------------------------------------------------------------------------------- showing results


def printed(result: Any, width: int = 120) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    cli.show(result, console=console)
    return console.export_text()


@dataclasses.dataclass
class Plain:
    share: Any
    path: Path


def test_json_of_anything_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    result = {
        "nan": float("nan"), "inf": [float("inf")], "array": np.array([[1, 2]], np.uint8), "number": np.float32(0.5),
        "plain": Plain(np.float64("nan"), Path("a") / "b"), "set": {3}, 5: True, "text": "ä", "none": None,
    }  # fmt: skip
    cli.show(result, as_json=True)
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "nan": None, "inf": [None], "array": [[1, 2]], "number": 0.5,
        "plain": {"share": None, "path": str(Path("a") / "b")}, "set": [3], "5": True, "text": "ä", "none": None,
    }  # fmt: skip


def test_faces_without_faces_and_with_very_many() -> None:
    nobody = Faces.empty(images=[ImageInfo("a.jpg", 9, 9)])
    assert printed(nobody).strip() == "0 faces in 1 picture"
    many = Faces(image=[0] * 100, scores=[0.5] * 100, images=[ImageInfo("[red]a.jpg", 9, 9, 1.5)])
    text = printed(many)
    assert "100 faces in 1 picture, 40 more not shown (--json or --csv gives all)" in text
    assert "[red]a.jpg 1.50 s" in text, "names are not markup"
    assert text.count("0.50") == 60


def test_plain_results() -> None:
    assert printed("a [b] c").strip() == "a [b] c"
    assert printed(Path("x.onnx")).strip() == "x.onnx"
    assert printed([]).strip() == "nothing"
    assert printed(None) == ""
    table = printed([{"name": "a", "size": 1.23456, "ok": True}, {"name": "b", "size": 20, "ok": None}])
    assert table.split() == ["name", "size", "ok", "a", "1.235", "yes", "b", "20"]
    nested = printed({"eer": 0.01234567, "at": [{"fmr": 0.1, "fnmr": None}], "empty": [], "range": [0.1, 0.2]})
    assert nested.split() == ["eer", "0.01235", "at", "fmr", "fnmr", "0.1", "range", "0.1", "…", "0.2"]


def test_panels_do_not_run_over_a_narrow_terminal() -> None:
    error = MienError("something long is wrong " * 9, got="x" * 150, expected="y", hint="z " * 90)
    console = Console(width=60, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    console.print(cli.error_panel(error))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 60
    assert "x" * 10 in "".join(lines)


def test_nobody_but_the_command_line_prints() -> None:
    """Verbs give results; the one exception is the entry point that launchers of several processes call."""
    root = Path(inspect.getfile(mien)).parent
    printing = [
        str(path.relative_to(root))
        for path in sorted(root.rglob("*.py"))
        if any(line.lstrip().startswith("print(") for line in path.read_text(encoding="utf-8").splitlines())
    ]
    assert set(printing) <= {"cli.py", str(Path("train") / "__main__.py")}


def test_the_console_script_is_main() -> None:
    import importlib.metadata

    scripts = importlib.metadata.entry_points(group="console_scripts", name="mien")
    assert [script.load() for script in scripts] == [cli.main]
    assert isinstance(cli.build(), typer.Typer)
    with pytest.raises(OptionError):
        cli._key_values(["x"])
