"""A small Django project on the pools: one model, a few views, one alias for each database."""
