"""Drawn scenes, and a small vision-language model trained on them."""
