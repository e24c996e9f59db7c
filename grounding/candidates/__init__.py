"""Candidates: masks proposed once, and the model's attention that chooses among them."""
