"""What maintainers run, `python -m scripts.release` and others; nothing in brainlib imports it."""
