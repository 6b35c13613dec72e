"""The command line: one file per noun. It speaks to a running installation, over HTTP only.

It decides nothing: each verb is one or a few calls of `tramontane.wire.client`, and a table.
"""
