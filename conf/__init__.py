"""Hydra configuration, one file per job."""
