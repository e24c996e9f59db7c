"""Drawn scenes: pictures with exact masks, true texts about them, and the data sets made of them."""
