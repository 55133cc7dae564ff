"""Launchable jobs, one verb each: ``python -m jobs.<verb>``."""
