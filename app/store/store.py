"""Owns nothing of its own: joins the jobs and the datasets to the one store of a service."""

from app.store.datasets import DatasetStore
from app.store.jobs import JobStore


class Store(JobStore, DatasetStore):
    """Jobs and datasets in one database file, so that one transaction can look at both."""
