"""The Slurm driver: replicas and attempts as jobs of a Slurm cluster, through its REST API.

Slurm stays what it is: it queues, chooses devices, evicts and accounts. One id of ours is one
Slurm job, named after it; see docs/decisions/0019-who-places-on-slurm.md.
"""
