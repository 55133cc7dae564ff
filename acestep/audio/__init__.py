"""Decode and encode audio files."""
