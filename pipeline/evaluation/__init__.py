"""Scores, statistics, comparison of settings, selection, tuning."""
