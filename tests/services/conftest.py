"""The cloud of this room."""

from tests.support.cloud_fixtures import cloud, cloud_template, empty_cloud, shared_cloud

__all__ = ["cloud", "cloud_template", "empty_cloud", "shared_cloud"]
