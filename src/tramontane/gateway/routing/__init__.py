"""Which replica gets a request, and what becomes of a request for which there is none now.

`choice` picks by prefix (`prefix`, `ring`) or by load, `outliers` takes replicas out that fail and
lets them return, `queue` keeps requests until there is a replica with room, and `demand` tells the
control plane what is being asked for. Nothing here opens a connection.
"""
