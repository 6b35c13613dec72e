"""The cloud of this room."""

from tests.support.cloud_fixtures import cloud, empty_cloud, shared_cloud

__all__ = ["cloud", "empty_cloud", "shared_cloud"]
