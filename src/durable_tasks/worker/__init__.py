"""The machine that runs jobs: one process."""
