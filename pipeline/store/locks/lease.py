"""Leases: locks for object stores.

A lease is a small object with its holder and its expiry time. The holder renews it. Leases of a
group are numbered. Only one process can create the next number, and only after the lease before it
has expired. No process deletes a valid lease.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from fmritok.errors import StoreError, expected
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.locks.holder import Holder

__all__ = ["Lease"]

#: Duration of a lease without renewal, and interval of renewals, s.
DURATION_S = 300.0
RENEW_S = 60.0
_LOOK_AGAIN_S = 1.0


@dataclass
class Lease:
    """A lease of one group or of the root of a store.

    Parameters
    ----------
    location : Location
    group : str
        Token group; empty for the root.
    what : str
        Description of the held object, for errors.
    """

    location: Location
    group: str
    what: str
    _number: int = 0
    _renewed: float = 0.0
    _token: str = field(default_factory=lambda: uuid.uuid4().hex)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self._holder = Holder.this_process()
        # Leases lie beside the store. Inside, zarr would report unknown members.
        scheme, _, path = self.location.url.partition("://")
        parent, _, name = path.rpartition("/")
        if not parent and scheme != "memory":  # the store is a whole bucket
            parent, name = path, "store"
        leases = f".{name}.{self.group}.leases" if self.group else f".{name}.leases"
        self._folder = Location(
            f"{scheme}://{parent}/{leases}" if parent else f"{scheme}://{leases}"
        )

    def acquire(self, wait_s: float = 0) -> None:
        """Take the lease.

        Raises
        ------
        StoreError
            If another process holds it for longer than the wait.
        """
        until = time.monotonic() + wait_s
        while True:
            other = self._try()
            if other is None:
                break
            if time.monotonic() >= until:
                raise StoreError(
                    expected(self.what, self.location, "no other writer", other,
                             f"Wait until it has finished, or stop it; if it was killed, its lease "
                             f"ends within {DURATION_S:.0f} s.")
                )  # fmt: skip
            time.sleep(min(_LOOK_AGAIN_S, max(0.0, until - time.monotonic())))
        self._thread = threading.Thread(target=self._renew, name="fmritok-lease", daemon=True)
        self._thread.start()

    def holder(self) -> Holder | None:
        """Return the current holder of the lease; None if there is none."""
        for number in self._numbers():
            held = self._read(number)
            if held is not None and not _has_ended(held):
                return Holder(**held["holder"])
        return None

    def check(self) -> None:
        """Check that this process still holds the lease, with time left.

        Raises
        ------
        StoreError
            If the lease was not renewed in time, or another process took the next one.
        """
        # Stop before the lease expires: clocks of machines differ a little.
        is_old = time.monotonic() - self._renewed > DURATION_S - RENEW_S
        held = None if is_old else self._read(self._number)
        if held is None or held["token"] != self._token:
            raise StoreError(
                expected(self.what, self.location, "the lease of this process",
                         "that of another one, because this one was not renewed in time",
                         "Run the same command again; finished runs are kept.")
            )  # fmt: skip

    def release(self) -> None:
        """Release the lease."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with suppress(Exception):  # it expires by itself
            held = self._read(self._number)
            if held is not None and held["token"] == self._token:
                self._folder.remove(self._key(self._number))

    def _try(self) -> Holder | None:
        """Take the next lease, or return the holder of the current one."""
        self._renewed = time.monotonic()
        numbers = self._numbers()
        present = self.holder()
        if present is not None:
            return present
        mine = max(numbers, default=0) + 1
        if not self._folder.create(self._key(mine), self._body()):
            held = self._read(mine)
            return self._holder if held is None else Holder(**held["holder"])
        self._number = mine
        # Two processes that listed at different times may have created two numbers.
        for number in self._numbers():
            held = self._read(number)
            if number != mine and held is not None and not _has_ended(held):
                self._folder.remove(self._key(mine))
                return Holder(**held["holder"])
        found = self._read(mine)
        if found is None or found["token"] != self._token:  # no conditional writes here
            return self._holder if found is None else Holder(**found["holder"])
        for number in numbers:
            self._folder.remove(self._key(number))
        return None

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_S):
            with suppress(Exception):  # the next renewal tries again; writers check the lease first
                self.check()
                now = time.monotonic()
                self._folder.write(self._key(self._number), self._body())
                self._renewed = now

    def _numbers(self) -> list[int]:
        return sorted(int(name) for name in self._folder.list_dir() if name.isdigit())

    def _key(self, number: int) -> str:
        return f"{number:08d}"

    def _body(self) -> bytes:
        ends = time.time() + DURATION_S
        return json.dumps(
            {"holder": asdict(self._holder), "token": self._token, "ends": ends}
        ).encode()

    def _read(self, number: int) -> dict[str, Any] | None:
        try:
            found = json.loads(self._folder.read(self._key(number)))
            Holder(**found["holder"])
            return {"token": str(found["token"]), "ends": float(found["ends"]), **found}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                expected("Lease", f"{self._folder}/{self._key(number)}", "one that fmritok wrote",
                         "something else", "Delete it if no other process writes to the store.")
            ) from error  # fmt: skip


def _has_ended(lease: dict[str, Any]) -> bool:
    return bool(lease["ends"] < time.time()) or Holder(**lease["holder"]).is_gone
