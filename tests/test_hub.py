"""The hub that does not answer, and what is cached of it. The tests' hub is a port of this machine."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from extras import needs_extra
from huggingface_hub import constants, is_offline_mode

from evals.data import read_data
from grounding import hub
from grounding.errors import EvalDataError, GroundingError, ModelError, SegmenterError
from grounding.model_files import source_of
from grounding.models.load import load
from grounding.segmenters.load import load_segmenter


class _NotFound(BaseHTTPRequestHandler):
    """A hub that has nothing."""

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    do_GET = do_HEAD  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path


@pytest.fixture
def no_answer(cache, monkeypatch) -> Path:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    return cache


@pytest.fixture
def answers(cache, monkeypatch):
    """A hub that answers, and has nothing."""
    server = HTTPServer(("127.0.0.1", 0), _NotFound)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    yield cache
    server.shutdown()
    thread.join()
    server.server_close()


def put_in_cache(cache: Path, folder: Path, name: str) -> None:
    """Lay a folder into the cache as the hub's own library does."""
    place = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / "0123abc")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0123abc")


def fails_at_once(get: Callable[[str], object], error: type[GroundingError], monkeypatch) -> None:
    pauses: list[float] = []  # the libraries alone pause for 23 seconds
    monkeypatch.setattr(time, "sleep", pauses.append)
    assert not hub.is_reachable()
    with pytest.raises(error, match=r"owner/name.*the hub \(http://127.* cannot be reached, .*holds no .*folder"):
        get("owner/name")
    assert pauses == []
    assert not is_offline_mode()  # only inside the loaders


@pytest.mark.parametrize(("get", "error"), [(load, ModelError), (load_segmenter, SegmenterError)])
def test_a_hub_that_does_not_answer_is_not_waited_for(get, error, no_answer, monkeypatch) -> None:
    fails_at_once(get, error, monkeypatch)


@needs_extra("datasets", "eval")
def test_data_of_a_hub_that_does_not_answer_are_not_waited_for(no_answer, monkeypatch) -> None:
    fails_at_once(read_data, EvalDataError, monkeypatch)


def test_a_cached_model_needs_no_hub(no_answer, tiny_model) -> None:
    put_in_cache(no_answer, tiny_model, "owner/tiny-llava")
    assert hub.cached() == ("owner/tiny-llava",)
    assert load("owner/tiny-llava", "cpu").name == "owner/tiny-llava"
    with pytest.raises(ModelError, match=r"holds owner/tiny-llava \(did you mean 'owner/tiny-llava'\?\): check the"):
        load("owner/tiny-lava", "cpu")


def test_a_model_that_is_cached_in_part_says_so(no_answer, tiny_model) -> None:
    put_in_cache(no_answer, tiny_model, "owner/tiny-llava")
    (file,) = no_answer.rglob("model.safetensors")
    file.unlink()
    with pytest.raises(ModelError, match=r"holds not all of it: check the network"):
        load("owner/tiny-llava", "cpu")


def test_a_cached_segmenter_needs_no_hub(no_answer, tiny_segmenter) -> None:
    put_in_cache(no_answer, tiny_segmenter, "owner/sam")
    assert load_segmenter("owner/sam", "cpu").device.type == "cpu"


def test_a_hub_that_answers_is_asked(answers, tiny_model) -> None:
    put_in_cache(answers, tiny_model, "owner/tiny-llava")
    assert hub.is_reachable()
    with hub.without_waiting("owner/other"):
        assert not is_offline_mode()
    with pytest.raises(ModelError, match=r"the hub has no such model \(did you mean 'owner/tiny-llava'\?\)"):
        load("owner/tiny-lava", "cpu")


def test_a_folder_is_loaded_without_asking(no_answer, tiny_model, monkeypatch) -> None:
    monkeypatch.setattr(hub, "is_reachable", lambda: pytest.fail("the hub was asked"))
    with hub.without_waiting(str(tiny_model)):
        assert not is_offline_mode()


@pytest.mark.parametrize(
    ("name", "meant"), [("startr", "starter"), ("starter_photo", "starter-photo"), ("Starter-Photo", "starter-photo")]
)
def test_a_misspelt_packaged_model_is_not_asked_of_the_hub(name, meant) -> None:
    with pytest.raises(ModelError, match=rf"there is no model '{name}' \(did you mean '{meant}'\?\): give a folder"):
        source_of(name)


def test_a_misspelt_packaged_segmenter_is_named() -> None:
    with pytest.raises(GroundingError, match="did you mean 'mobile-sam'"):
        load_segmenter("mobilesam", "cpu")
