"""Proof that the measures mean something, on music whose notes are known."""
