from __future__ import annotations

import pytest

from pipelines.referring import ReferringSegmentation


@pytest.fixture(scope="session")
def loaded(tiny_model, tiny_segmenter):
    """Family and segmenter of the tiny models, loaded once; see `pipe`."""
    pipe = ReferringSegmentation.from_pretrained(str(tiny_model), str(tiny_segmenter), "relative", "cpu")
    return pipe.source, pipe.segmenter


@pytest.fixture
def make_pipe(loaded):
    """A fresh pipeline around the loaded models, by a method's name and a batch size."""
    from grounding.methods import load_method

    return lambda method="plain-mean", batch_size=2: ReferringSegmentation(*loaded, load_method(method), batch_size)
