"""The measurement itself."""
