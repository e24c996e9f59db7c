"""Adapters between diffusion transformers and their words and image cells; one file per family."""
