"""What Slurm's REST API says and is told, version by version, behind one shape."""
