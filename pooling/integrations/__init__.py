"""pooling in the place of other libraries' own pools, and in their applications."""
