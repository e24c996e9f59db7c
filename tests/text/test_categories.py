from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from grounding.errors import ModelError, UsageError
from grounding.text.categories import CategoryFinder, Vocabulary, read_vocabulary
from grounding.text.names import ObjectName, listed_phrases, object_names

LIST = "dog, puppy\nteddy bear\nbear\nbow_(weapon), longbow\nsofa, couch\n"


def named(text: str) -> list[ObjectName]:
    return list(object_names(listed_phrases(text)))


@pytest.fixture
def vocabulary(tmp_path) -> Vocabulary:
    file = tmp_path / "list.txt"
    file.write_text(LIST)
    return read_vocabulary(file)


def test_names_are_matched_by_words_and_synonyms_the_longest_first(vocabulary):
    def category(text):
        (name,) = named(text)
        found = vocabulary.match(name)
        return found and found.name

    assert category("two small puppies") == "dog"
    assert category("a large teddy bear") == "teddy bear"
    assert category("a brown bear") == "bear"
    assert category("a bow") == "bow_(weapon)"
    assert category("a red couch") == "sofa"
    assert category("a zebra") is None


def test_coco_and_lists_of_names_are_read_too(tmp_path):
    coco = tmp_path / "coco.json"
    coco.write_text(json.dumps({"categories": [{"id": 18, "name": "dog", "synonyms": ["puppy"]}], "images": []}))
    (dog,) = read_vocabulary(coco).categories
    assert (dog.id, dog.name, dog.synonyms) == (18, "dog", ("puppy",))
    coco.write_text(json.dumps(["dog", "cat"]))
    assert [(one.id, one.name) for one in read_vocabulary(coco).categories] == [(1, "dog"), (2, "cat")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("dog\ncat\nDogs\n", "has the name 'dog' twice"),
        ('[{"id": 1, "name": "dog"}, {"id": 1, "name": "cat"}]', "has the id '1' twice"),
        ("\n\n", "is empty"),
        ("[1, 2]", "category 1 of"),
        ('[{"id": "x", "name": "dog"}]', "has the id 'x', expected a whole number"),
        ('[{"name": "dog", "synonyms": "puppy"}]', "synonyms that are no list"),
        ('{"things": []}', "without a list of categories"),
        ("[", "is not JSON"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_in_one_sentence(content, said, tmp_path):
    file = tmp_path / "list"
    file.write_text(content)
    with pytest.raises(UsageError, match="categor") as wrong:
        read_vocabulary(file)
    assert said in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_a_list_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_vocabulary(tmp_path / "missing.txt")


def test_a_synonym_of_two_categories_is_of_neither_and_a_name_goes_before_synonyms(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("mouse, device\nkeyboard, device\ndevice2, mouse\n")
    found = read_vocabulary(file)
    assert found.match(named("a device")[0]) is None
    assert found.match(named("a mouse")[0]).name == "mouse"


def test_what_has_no_word_is_found_by_its_embedding(vocabulary):
    angles = {"zebra": 0.1, "dog": 0.0, "teddy bear": 1.5, "bear": 0.3, "bow": 2.5, "sofa": 3.0}

    def embed(texts):
        found = [angles[text.removeprefix("a ")] for text in texts]
        return np.array([[np.cos(a), np.sin(a)] for a in found], np.float32)

    zebra, puppy = named("a zebra and a puppy")
    exact = CategoryFinder(vocabulary)
    assert [[match.category.name for match in found] for found in exact([zebra, puppy])] == [[], ["dog"]]
    (first, second), (sure,) = CategoryFinder(vocabulary, embed, top=2)([zebra, puppy])
    assert (first.category.name, second.category.name) == ("dog", "bear")
    logits = 100 * np.cos(0.1 - np.array(sorted(angles.values()))[[0, 2, 3, 4, 5]])
    assert first.weight == pytest.approx(float(np.exp(logits[0]) / np.exp(logits).sum()), rel=1e-4)
    assert (sure.category.name, sure.weight) == ("dog", 1.0)


def tiny_tokenizer(folder: Path, limit: int) -> None:
    from grounding.text.tiny import byte_tokenizer

    tokenizer = byte_tokenizer(["<pad>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<pad>")
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = limit
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("kind", ["clip", "bert"])
def test_texts_become_unit_vectors_alone_or_in_a_batch(kind, tmp_path):
    import torch
    import transformers

    from grounding.text.embedding import TextEmbedding

    torch.manual_seed(0)
    tiny_tokenizer(tmp_path, 32)
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "clip":
        text = {**size, "vocab_size": 400, "max_position_embeddings": 32, "eos_token_id": 2}
        config = transformers.CLIPConfig(
            text_config=text, vision_config={**size, "image_size": 8, "patch_size": 4}, projection_dim=16
        )
        transformers.CLIPModel(config).save_pretrained(tmp_path)
    else:
        config = transformers.BertConfig(**size, vocab_size=400, max_position_embeddings=32)
        transformers.BertModel(config).save_pretrained(tmp_path)
    embed = TextEmbedding.from_pretrained(str(tmp_path))
    texts = ["a dog", "a much longer text about a dog that is cut somewhere", "a cat"]
    vectors = embed(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_allclose(embed([text])[0], vector, atol=1e-5)
    assert not np.allclose(vectors[0], vectors[2], atol=1e-4)


def test_an_embedding_model_that_is_not_there_is_refused_in_one_sentence(hub_cache):
    from grounding.text.embedding import TextEmbedding

    with pytest.raises(ModelError, match="'nobody/nothing' could not be loaded"):
        TextEmbedding.from_pretrained("nobody/nothing")
