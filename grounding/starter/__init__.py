"""The world of drawn scenes, and the small vision-language model trained on it."""
