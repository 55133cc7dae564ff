"""The demo catalogue: three tunes, their manifest, and the program that renders them."""
