"""Read the COCO classes of each image: from a prepared JSON file, or from COCO's own annotation files.

A prepared file maps image ids to lists of class names, or is the list of photos of a photo set (`grounding.photos`).
From annotations the classes follow CHAIR's rule: the classes of all instances, and those that the same text pipeline
finds in the reference captions. The pickles in circulation are refused: reading a pickle can run code, and their
content can be derived from the annotations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from evals.chair.lexicon import Lexicon
from evals.chair.words import Normaliser
from evals.inputs import image_number_of, listed, read_json
from grounding.errors import EvalDataError
from grounding.files import user_path

Truth = Mapping[int, frozenset[str]]
WHAT = "the ground truth"
OBJECTS = "chair_objects"
EXPECTED = 'expected an object of image ids and class lists, {"139": ["person", "tv"]}, or a folder of COCO annotations'


def read_truth(path: str | Path, lexicon: Lexicon, normalise: Normaliser) -> Truth:
    """Read the ground truth at a path.

    Args:
        path: a JSON file, or a folder with `instances_*.json` and `captions_*.json`, all of which are read.
        lexicon: the words of each class.
        normalise: the text pipeline for reference captions.

    Raises:
        EvalDataError: missing, a pickle, of the wrong kind, or naming classes that the synonyms do not know.
    """
    place = user_path(path)
    return from_folder(place, lexicon, normalise) if place.is_dir() else from_object(place, lexicon)


def from_object(path: Path, lexicon: Lexicon) -> Truth:
    """Read a prepared file."""
    data = read_json(path, WHAT)
    if isinstance(data, list) and data and all(isinstance(row, dict) and {"id", OBJECTS} <= set(row) for row in data):
        data = {str(row["id"]): row[OBJECTS] for row in data}  # a photo set's images.json
    if isinstance(data, dict) and {"annotations", "images"} <= set(data):
        raise EvalDataError(
            f"{path} is one COCO annotation file, but {WHAT} needs instances and captions: give the folder that holds "
            "instances_*.json and captions_*.json"
        )
    if not isinstance(data, dict) or not data:
        raise EvalDataError(f"{path} holds a {type(data).__name__}, but {EXPECTED}: give another file")
    truth: dict[int, frozenset[str]] = {}
    shared: dict[frozenset[str], frozenset[str]] = {}  # many images show the same classes
    for key, names in data.items():
        number = image_number_of(key)
        if number is None:
            raise EvalDataError(f"{path} has the key {key!r:.60}, but {EXPECTED}: give another file")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise EvalDataError(f"{path}: image {key} has {names!r:.60}, but {EXPECTED}: give another file")
        classes = frozenset(names)
        truth[number] = shared.setdefault(classes, classes)
    unknown = sorted(frozenset().union(*truth.values()) - lexicon.classes)
    if unknown:
        raise EvalDataError(
            f"{path} names classes that no line of the synonyms begins with ({listed(unknown)}): give the synonyms "
            "that belong to this ground truth"
        )
    return truth


def from_folder(folder: Path, lexicon: Lexicon, normalise: Normaliser) -> Truth:
    """Apply CHAIR's rule to every annotation file in a folder (train2014 and val2014 in the published variant)."""
    instances, captions = sorted(folder.glob("instances_*.json")), sorted(folder.glob("captions_*.json"))
    if not instances or not captions:
        raise EvalDataError(
            f"{folder} has {len(instances)} files instances_*.json and {len(captions)} captions_*.json, but {WHAT} "
            "needs both: unpack COCO's annotations there, or give a JSON file"
        )
    classes: dict[int, set[str]] = defaultdict(set)
    try:
        for file in instances:
            data = read_json(file, WHAT)
            names = {one["id"]: lexicon.class_of[one["name"]] for one in data["categories"]}
            _note_images(data, classes)
            for one in data["annotations"]:
                classes[int(one["image_id"])].add(names[one["category_id"]])
        for file in captions:
            data = read_json(file, WHAT)
            _note_images(data, classes)
            for one in data["annotations"]:
                classes[int(one["image_id"])].update(lexicon.objects(lexicon.merge(normalise(one["caption"]))))
    except (KeyError, TypeError, ValueError) as wrong:
        raise EvalDataError(
            f"{file} is no COCO annotation file for these synonyms ({type(wrong).__name__}: {wrong}): give COCO's own "
            "instances_*.json and captions_*.json"
        ) from wrong
    return {image: frozenset(found) for image, found in classes.items()}


def refuse_unknown(images: Iterable[int], truth: Truth, where: str | Path) -> None:
    """Refuse images that the ground truth lacks.

    Raises:
        EvalDataError: naming the first of them.
    """
    wanted = list(images)
    unknown = [image for image in wanted if image not in truth]
    if unknown:
        raise unknown_images(unknown, len(wanted), where)


def unknown_images(unknown: Sequence[int], wanted: int, where: str | Path) -> EvalDataError:
    """The error for images that the ground truth lacks."""
    return EvalDataError(
        f"{where}: {len(unknown)} of {wanted} image ids are not in {WHAT} ({listed(unknown)}): give the ground truth "
        "of these images, or take the rows out"
    )


def _note_images(data: Mapping[str, object], classes: dict[int, set[str]]) -> None:
    """Add an empty set for every image, so that an image without objects differs from an unknown one."""
    images = data["images"]
    assert isinstance(images, list)
    for one in images:
        classes[int(one["id"])]
