"""Parts that a project may add."""
