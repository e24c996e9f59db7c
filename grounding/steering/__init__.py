"""Attention turned round: a model is steered while it writes, so that it says less that is not there."""
