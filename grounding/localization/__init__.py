"""Find the heads of a model that localise objects, once for all samples, from a small set of pictures and words."""
