"""What developers and tests start on one machine in place of a real site."""
