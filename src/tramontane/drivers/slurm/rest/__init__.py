"""slurmrestd: its client, the tokens it wants, and what the driver asks of it."""
