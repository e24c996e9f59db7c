"""Where in an image each word lives: attention recorded cheaply, cleaned, and turned into point prompts for SAM."""

__version__ = "0.1.0"
