"""Tramontane: GPU machines and Slurm clusters as a sovereign AI cloud."""

__version__ = "0.1.0"
