"""What an operator sees of a gateway: metrics in the Prometheus text format, and traces.

Nothing here holds a prompt, an answer, a key or a secret.
"""
