"""Loops that change the world: each reads the whole state, decides purely, commits, then acts.

A reconciler takes no input and keeps nothing that it could not learn again: whatever was lost or
done twice, its next pass continues from what is there.
"""
