"""Ray clusters: find, join, size, ship code, shut down."""
