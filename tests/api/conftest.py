"""The cloud of this room."""

from tests.support.cloud_fixtures import cloud, shared_cloud

__all__ = ["cloud", "shared_cloud"]
