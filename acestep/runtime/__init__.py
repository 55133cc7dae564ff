"""Threads and timing."""
