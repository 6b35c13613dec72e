"""Quotas: how many devices a tenant may use, its share, and how clusters are told."""
