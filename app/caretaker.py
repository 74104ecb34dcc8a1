"""Owns the thread that throws away, beside a worker, what the settings allow no more."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.retention import Item, collect
from app.settings import Settings
from app.store.store import Store
from training.model.registry import Registry

log = structlog.get_logger(__name__)


class Caretaker:
    """Tidies when told to, one round at a time; leaving its `with` waits for the last one."""

    def __init__(self, settings: Settings, store: Store, registry: Registry) -> None:
        self._collect: Callable[[], list[Item]] = lambda: collect(
            settings, store, registry, dry_run=False
        )
        self._pool = ThreadPoolExecutor(1, "caretaker")
        self._round: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()

    def tidy(self) -> None:
        """Begin a round, unless one is at work; returns at once."""
        if self._round is None or self._round.done():
            self._round = self._pool.submit(self._tidy)

    def _tidy(self) -> None:
        try:
            for item in self._collect():
                about = {"path": str(item.path), "kind": item.kind, "num_bytes": item.num_bytes}
                log.info("thrown away", **about, reason=item.reason)
        except BlockingIOError:
            log.info("another process is tidying")
        except (OSError, ValueError, SQLAlchemyError) as error:
            log.error("tidying broke off", reason=str(error))
