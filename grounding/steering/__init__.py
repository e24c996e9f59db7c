"""Attention steering: modify attention during generation to reduce object hallucination."""
