"""Owns quotas: how many images a minute each key and each address may ask for."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from app.errors import BadRequestError, RateLimitError

WINDOW_SEC = 60.0
MAX_BUCKETS = 65_536  # of each kind; what is forgotten beyond it would mostly be full again
_IPV6_SITE_BITS = 64  # what one customer gets has so many bits in common


@dataclass
class _Bucket:
    images: float  # that may still be asked for now
    at: float


@dataclass
class Quota:
    """Token buckets of one kind, each of `limit` images that come back within a minute; 0: none."""

    name: str  # key or address
    setting: str
    limit: int
    _buckets: OrderedDict[str, _Bucket] = field(default_factory=OrderedDict[str, _Bucket])

    def left(self, who: str, now: float) -> float:
        """Images that `who` may ask for at `now`, in seconds of the clock."""
        bucket = self._buckets.get(who)
        if bucket is None:
            return self.limit
        return min(self.limit, bucket.images + (now - bucket.at) * self.limit / WINDOW_SEC)

    def take(self, who: str, images: int, now: float) -> None:
        """Count them, whatever is left."""
        self._buckets[who] = _Bucket(self.left(who, now) - images, now)
        self._buckets.move_to_end(who)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)

    def check(self, who: str, images: int, now: float) -> None:
        """Raises BadRequestError for more than there ever are, RateLimitError for more than now."""
        told = f"{images} images are asked for, and {self.setting} allows each {self.name}"
        if images > self.limit:
            raise BadRequestError(f"{told} {self.limit} a minute; ask for fewer at a time")
        left = self.left(who, now)
        if images > left:
            wait = (images - left) * WINDOW_SEC / self.limit
            raise RateLimitError(
                f"{told} {self.limit} a minute, of which {int(left)} are left; come back in"
                f" {wait:.0f} s",
                retry_after_sec=wait,
                headers=self.told(who, now),
            )

    def told(self, who: str, now: float) -> dict[str, str]:
        """The policy and what is left, in the words of draft-ietf-httpapi-ratelimit-headers-10."""
        left = self.left(who, now)
        full_in = (self.limit - left) * WINDOW_SEC / self.limit
        policy = f'"{self.name}";q={self.limit};qu="images";w={WINDOW_SEC:.0f}'
        return {
            "RateLimit-Policy": policy,
            "RateLimit": f'"{self.name}";r={max(0, int(left))};t={full_in:.0f}',
        }


class Quotas:
    """Those that are set. Used on the event loop alone."""

    def __init__(
        self, per_key: int, per_address: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Images a minute; 0 for no limit."""
        self._clock = clock
        self._key = Quota("key", "key_images_per_minute", per_key)
        self._address = Quota("address", "address_images_per_minute", per_address)

    def take(self, key: str | None, address: str, images: int) -> dict[str, str]:
        """Count images for both, if both have them left: headers that say what is left.

        Raises BadRequestError, RateLimitError, and then counts for neither.
        """
        whose: list[tuple[Quota, str]] = []
        if self._key.limit and key:
            whose.append((self._key, key))
        if self._address.limit and address:
            whose.append((self._address, _site(address)))
        now = self._clock()
        for quota, who in whose:
            quota.check(who, images, now)
        headers: list[dict[str, str]] = []
        for quota, who in whose:
            quota.take(who, images, now)
            headers.append(quota.told(who, now))
        return _joined(headers)


def _joined(headers: list[dict[str, str]]) -> dict[str, str]:
    """Both quotas as lists in the same two headers."""
    names = headers[0] if headers else ()
    return {name: ", ".join(each[name] for each in headers) for name in names}


def _site(address: str) -> str:
    """An IPv4 address, or the network an IPv6 address is of: whoever has one has 2^64."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], _IPV6_SITE_BITS), strict=False))
    except ValueError:
        return address
