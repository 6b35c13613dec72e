"""``tramontane reservations``: racks that are kept for one organization."""

from tramontane.cli.commands.reservations.verbs import app

__all__ = ["app"]
