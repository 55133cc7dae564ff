"""The listening page and the figures of a comparison."""
