"""Counting each request exactly once, whatever dies when.

`inflight` remembers what is being served, `spool` keeps what was served until the control plane
has it, `meter` is what an exchange calls, `recovery` settles what a dead gateway left behind and
`shipper` hands the events over. The argument for every kill point stands in `meter`.
"""
