"""One process at a time in a folder; a process that is killed leaves no lock behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from grounding.errors import OutputError
from grounding.runs.lock import hold

HOLDER = """
import sys, time
from pathlib import Path
from grounding.runs.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_leaves_no_lock_behind(tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(out)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match="by another process: wait until it ends"), hold(out):
            pass
        with hold(out, "another part"):
            pass
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    with hold(out):
        (out / "result").write_text("")
    assert [file.name for file in out.iterdir()] == ["result"]


def test_a_folder_that_nothing_was_written_to_is_gone_again(tmp_path):
    def fail_inside() -> None:
        with hold(tmp_path / "a" / "b"):
            assert (tmp_path / "a" / "b").is_dir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert not (tmp_path / "a").exists()
    (tmp_path / "old").mkdir()
    with hold(tmp_path / "old"):
        pass
    assert (tmp_path / "old").is_dir()


def test_a_second_process_may_wait(tmp_path):
    order = []

    def second() -> None:
        with hold(tmp_path, "finish", wait=True):
            order.append("second")

    with hold(tmp_path, "finish"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["/proc/out", "/dev/null/out", "long" * 100])
def test_a_folder_that_cannot_be_made_is_one_sentence(out, tmp_path):
    with pytest.raises(OutputError, match="cannot be written"), hold(tmp_path / Path(out)):
        pass
    assert not list(tmp_path.iterdir())
