"""Measures of covers: similarity to the source, change of timbre, technical quality."""
