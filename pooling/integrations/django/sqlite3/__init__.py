"""``ENGINE`` for SQLite."""
