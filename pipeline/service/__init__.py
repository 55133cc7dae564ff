"""Covers on request: the catalogue's engine behind HTTP and a web page."""
