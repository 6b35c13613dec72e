"""The management API: HTTP in, services called, replies out; /internal/v1 for gateways.

A route names the permission that it needs (`access.py`), checks what travels (`wire`), calls one
service and shapes the answer (`views.py`). Rules live in services and below; SQL in the store.
"""
