"""The networks. Nothing here reads a file."""
