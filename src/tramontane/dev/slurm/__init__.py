"""A real Slurm cluster of many nodes on one machine, in a folder of its own."""
