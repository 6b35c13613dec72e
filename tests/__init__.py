"""The test rooms of Tramontane: each mirrors a room of the source."""
