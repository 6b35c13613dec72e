"""Use cases: what a request or the first start does, one write transaction each.

A service takes a `Principal` and plain values, returns domain values and raises `RefusedError`.
The route has checked the permission; the service narrows every look-up to what the principal may
see (`scope.py`). Services write what is wanted and never touch a driver.
"""
