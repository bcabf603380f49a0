"""Other ways to run tasks. Each needs something that the rest of the project does not."""
