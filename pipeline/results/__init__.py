"""Result rows: schema, writer, journal, queries, progress."""
