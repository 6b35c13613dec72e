"""The rows of stored responses."""
