"""The backends on real servers."""
