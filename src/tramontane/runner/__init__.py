"""The runner: supervises one replica or one attempt of a job on a node.

Standard library only, and nothing of ours but itself, so that it can be shipped to any node as
one file (`bundle`). It must run on Python 3.9 and newer, without anything installed.
"""
