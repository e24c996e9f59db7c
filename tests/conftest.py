"""Settings for the whole suite."""

from __future__ import annotations

from hypothesis import settings

# No deadline: a first example may build a tokenizer, and machines that run the suite may be busy.
settings.register_profile("grounding", deadline=None)
settings.load_profile("grounding")
