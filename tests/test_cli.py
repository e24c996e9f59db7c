from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

import pytest

from grounding import __version__, cli
from grounding.cli import main
from grounding.command import ENTRY_POINTS, GROUPS, Command
from grounding.errors import ModelError

HEAVY = ("torch", "transformers", "numpy", "PIL", "tyro", "rich")


@dataclass(frozen=True)
class Raises:
    """A command for tests that raises what it is told to."""

    what: str
    json: bool = False

    def run(self) -> int:
        import torch

        raise {
            "mendable": ModelError("the model is not there: give another one"),
            "interrupt": KeyboardInterrupt(),
            "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
            "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
            "python": MemoryError(),
            "fault": RuntimeError("a fault of the program"),
        }[self.what]


RAISES = Command("raise what is asked for", f"{__name__}:Raises")
HOMELESS = Command("has no class", f"{__name__}:NoSuchClass")
ELSEWHERE = Command("raise what is asked for", f"{__name__}:Raises", group="My own")  # type: ignore[arg-type]


@pytest.fixture
def with_raises(monkeypatch):
    """`grounding raises` beside the real commands, and plug-ins that cannot be used."""
    extra = (
        EntryPoint("raises", f"{__name__}:RAISES", ENTRY_POINTS),
        EntryPoint("broken.plugin", "no_such_module_anywhere:COMMAND", ENTRY_POINTS),
        EntryPoint("unregistered", f"{__name__}:Raises", ENTRY_POINTS),
        EntryPoint("homeless", f"{__name__}:HOMELESS", ENTRY_POINTS),
    )
    monkeypatch.setattr(cli, "entry_points", lambda group: [*entry_points(group=group), *extra])


def test_help_needs_nothing_heavy():
    code = (
        "import sys; from grounding.cli import main; code = main(['--help']); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[] 0"
    for name in ("segment", "scenes", "doctor", "eval scenes", "bench record", "bench segmenter"):
        assert f"\n  {name} " in done.stdout


def test_no_commands_help_imports_torch():
    """All in one process: an import that one help makes is seen at the next."""
    code = (
        "import sys, io, contextlib\n"
        "from grounding.cli import main, _commands\n"
        "for path in sorted(_commands()):\n"
        "    with contextlib.redirect_stdout(io.StringIO()):\n"
        "        assert main([*path, '--help']) == 0, path\n"
        "    assert 'torch' not in sys.modules, path\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def sections(text: str) -> dict[str, list[str]]:
    """The lines of a help text below each heading."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.endswith(":"):
            found[line[:-1]] = below = []
        elif line.startswith("  ") and found:
            below.append(line.strip())
    return found


def test_help_is_grouped_by_purpose(with_raises, capsys):
    assert main(["--help"]) == 0
    found = sections(capsys.readouterr().out)
    assert [*found] == [*GROUPS, "options"]
    assert {line.split("  ")[0] for line in found["Use"]} >= {"describe", "segment"}
    assert all(line.startswith("bench ") for line in found["Benchmark"])
    assert all(line.startswith("calibrate ") for line in found["Calibrate"])
    assert {line.split("  ")[0] for line in found["Others"]} == {
        *("raises", "broken plugin", "unregistered", "homeless"),  # all from elsewhere
    }


def test_an_unknown_group_and_an_empty_one(monkeypatch, capsys):
    entries = [EntryPoint("raises", f"{__name__}:ELSEWHERE", ENTRY_POINTS)]
    monkeypatch.setattr(cli, "entry_points", lambda group: entries)
    assert main(["--help"]) == 0
    assert [*sections(capsys.readouterr().out)] == ["Others", "options"]


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"grounding {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["segmnt"], "did you mean 'segment'?"),
        (["eval", "scene"], "'grounding eval' has no command 'scene'; did you mean 'scenes'?"),
        (["xyz"], "known: bench, calibrate, describe, discover, doctor, eval, lab, look, models, scenes, segment"),
    ],
)
def test_an_unknown_command_is_one_sentence(argv, sentence, capsys):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in err
    assert err.count("\n") == 1


def test_a_group_lists_its_commands(capsys):
    assert main(["bench", "--help"]) == 0
    out = capsys.readouterr().out
    assert "usage: grounding bench COMMAND" in out
    assert "record" in out
    assert "doctor" not in out
    assert main(["bench"]) == 2


def test_every_command_loads_and_measuring_ones_have_json():
    found = entry_points(group=ENTRY_POINTS)
    assert len(found) >= 6
    for entry in found:
        command = entry.load()
        kind = command.load()
        assert dataclasses.is_dataclass(kind)
        assert callable(kind.run)
        assert not command.summary.endswith(".")
        if entry.name.startswith(("eval.", "bench.")):
            assert "json" in {field.name for field in dataclasses.fields(kind)}


@pytest.mark.parametrize("argv", [["segment", "--help"], ["eval", "scenes", "--help"], ["bench", "record", "--help"]])
def test_a_commands_help_says_its_name(argv, capsys):
    assert main(argv) == 0
    assert f"usage: grounding {' '.join(argv[:-1])}" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["segment", "--nonsense"], ["scenes", "--n", "many"], ["bench", "segmenter"]])
def test_wrong_usage_ends_with_2(argv, capsys):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err


@pytest.mark.parametrize(
    ("what", "code", "start"),
    [
        ("mendable", 2, "error: the model is not there: give another one\n"),
        ("interrupt", 130, "interrupted"),
        ("cuda", 2, "error: out of memory: lower --batch-size"),
        ("cpu", 2, "error: out of memory: lower --batch-size"),
        ("python", 2, "error: out of memory: lower --batch-size"),
    ],
)
def test_errors_become_one_sentence(what, code, start, with_raises, capsys):
    assert main(["raises", "--what", what]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(start)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "argv", [["--debug", "raises", "--what", "mendable"], ["raises", "--what", "mendable", "--debug"]]
)
def test_debug_shows_where_an_error_comes_from(argv, with_raises):
    with pytest.raises(ModelError):
        main(argv)


def test_debug_after_a_bare_dash_pair_is_a_word():
    arguments = ["segment", "--", "a.png", "--debug"]
    assert cli._take_debug(arguments) is False
    assert arguments[-1] == "--debug"


def test_a_fault_of_the_program_keeps_its_traceback(with_raises):
    with pytest.raises(RuntimeError, match="a fault of the program"):
        main(["raises", "--what", "fault"])


def test_a_broken_plug_in_does_not_hide_the_others(with_raises, capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "broken plugin" in out
    assert "cannot be loaded: No module named 'no_such_module_anywhere'" in out
    assert "segment what a referring expression means" in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["broken", "plugin"], "no_such_module_anywhere:COMMAND (ModuleNotFoundError: No module named"),
        (["unregistered"], f"{__name__}:Raises (TypeError: it is type, expected a Command)"),
        (["homeless"], f"{__name__}:NoSuchClass (AttributeError: "),
    ],
)
def test_a_broken_plug_in_is_one_sentence(argv, said, with_raises, capsys):
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: the command {' '.join(argv)!r} cannot be loaded from {said}")
    assert err.endswith("repair or uninstall its distribution\n")
    assert err.count("\n") == 1


def test_a_name_that_two_distributions_register_is_refused(monkeypatch, capsys):
    doctor = next(entry for entry in entry_points(group=ENTRY_POINTS) if entry.name == "doctor")
    other = EntryPoint("doctor", f"{__name__}:RAISES", ENTRY_POINTS)
    monkeypatch.setattr(cli, "entry_points", lambda group: [*entry_points(group=group), doctor, other])
    assert main(["doctor"]) == 2
    err = capsys.readouterr().err
    said = f"registered more than once, by distribution 'vlm-grounding' ({doctor.value}) and by"
    assert f"error: the command 'doctor' is {said} distribution 'unknown' ({__name__}:RAISES): rename one" in err
    assert err.count("\n") == 1
    assert main(["--help"]) == 0
    assert f"({said}" in capsys.readouterr().out


def test_a_distribution_that_is_found_twice_is_one(monkeypatch, capsys):
    monkeypatch.setattr(cli, "entry_points", lambda group: [*entry_points(group=group), *entry_points(group=group)])
    assert main(["doctor", "--help"]) == 0


def test_doctor_tells_and_fails_with_1(monkeypatch, capsys):
    from grounding import doctor

    checks = [doctor.Check("versions", True, "all new"), doctor.Check("llava: rows", False, "they differ by 0.5")]
    monkeypatch.setattr(doctor, "check", lambda model: checks)
    assert main(["doctor"]) == 1
    assert "FAIL  llava: rows: they differ by 0.5" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["checks"][1]["passed"] is False
    monkeypatch.setattr(doctor, "check", lambda model: checks[:1])
    assert main(["doctor"]) == 0


def test_scenes_writes_a_data_set_that_is_a_manifest(tmp_path, capsys):
    from pycocotools import mask as coco_mask

    from grounding.scenes.drawing import draw_scene
    from grounding.scenes.files import scene_seed
    from grounding.scenes.language import SceneTexts
    from pipelines.manifest import items_from_manifest

    assert main(["scenes", "--seed", "3", "--n", "2", "--out", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    instances = json.loads((tmp_path / "instances.json").read_text())
    items = items_from_manifest(tmp_path / "expressions.jsonl")
    assert (said["scenes"], said["objects"], said["expressions"]) == (2, len(instances["annotations"]), len(items))
    assert all(item.path.is_file() for item in items)
    scene = draw_scene(scene_seed(3, 1))
    mine = [one for one in instances["annotations"] if one["image_id"] == 2]
    assert [one["attributes"]["shape"] for one in mine] == [thing.kind.shape for thing in scene.objects]
    for one, thing in zip(mine, scene.objects, strict=True):
        assert (coco_mask.decode(one["segmentation"]).astype(bool) == thing.mask).all()
    targets = {item.expression: item.extra["annotation_id"] for item in items if item.extra["image_id"] == 2}
    assert targets == {e.text: mine[e.target_index]["id"] for e in SceneTexts(scene).expressions}


def test_scenes_of_one_seed_are_the_same_bytes_and_others_differ(tmp_path):
    for name, seed in (("one", "5"), ("again", "5"), ("other", "6")):
        assert main(["scenes", "--seed", seed, "--n", "1", "--out", str(tmp_path / name)]) == 0
    one, again, other = ((tmp_path / n / "images" / "000001.png").read_bytes() for n in ("one", "again", "other"))
    assert one == again
    assert one != other
