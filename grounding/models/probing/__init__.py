"""Layouts of pictures found by changing them and watching which image tokens move."""
