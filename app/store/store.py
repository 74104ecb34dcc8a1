"""Owns nothing of its own: joins jobs, datasets and keys to the one store of a service."""

from app.store.datasets import DatasetStore
from app.store.jobs import JobStore
from app.store.keys import KeyStore


class Store(JobStore, DatasetStore, KeyStore):
    """All in one database file, so that one transaction can look at jobs and datasets."""
