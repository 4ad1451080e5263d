"""The loop that keeps the books: look, enter, and now and then store. Also where the books lie.

They lie in a ConfigMap of their own, apart from the scaler's state: losing them loses figures, never a decision, so a
store that is away for a while is told and waited out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from penstock.adapters.kubernetes import KubernetesClient
from penstock.errors import AlreadyExists, Conflict, Corrupt, InvalidInput, NotFound, OutOfSpace, Unavailable
from penstock.tasks import every
from scaler.control import Control
from scaler.interface.ledger import Books, Ledger, LedgerReport, month_of, report
from scaler.pools import Fleet

log = structlog.get_logger("scaler.ledger")

_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")
#: The API server takes 1 MiB of data in a ConfigMap.
_SIZE_LIMIT = 2**20


class BookStore(Protocol):
    async def load(self) -> Books:
        """What was saved last; empty books when nothing was. Raises Unavailable, Corrupt, Forbidden."""
        ...

    async def save(self, books: Books) -> None:
        """Raises Unavailable, Conflict (somebody else wrote), OutOfSpace, Forbidden."""
        ...


class FileBooks:
    """A file, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self) -> Books:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return Books()
        except OSError as error:
            raise Unavailable(f"the books {self._path} cannot be read: {error.strerror}") from error
        return _decoded(data, str(self._path))

    async def save(self, books: Books) -> None:
        new = self._path.with_suffix(".new")
        try:
            with new.open("wb") as file:
                file.write(msgspec.json.encode(books))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            raise Unavailable(f"the books {self._path} cannot be written: {error.strerror}") from error


class ConfigMapBooks:
    """One ConfigMap, fenced by its resource version."""

    def __init__(self, client: KubernetesClient, *, namespace: str, name: str) -> None:
        self._client = client
        self._collection = f"/api/v1/namespaces/{namespace}/configmaps"
        self._namespace, self._name = namespace, name
        self._version = ""

    async def load(self) -> Books:
        """As `BookStore.load`; makes the object when there is none."""
        try:
            found = await self._client.get(f"{self._collection}/{self._name}")
        except NotFound:
            try:
                self._version = ""
                found = await self._client.send("POST", self._collection, self._document(Books()))
            except AlreadyExists:
                return await self.load()
        self._version = found["metadata"]["resourceVersion"]
        text = (found.get("data") or {}).get("books", "")
        return _decoded(text.encode(), f"ConfigMap {self._namespace}/{self._name}")

    async def save(self, books: Books) -> None:
        """As `BookStore.save`."""
        document = self._document(books)
        try:
            made = await self._client.send("PUT", f"{self._collection}/{self._name}", document)
        except NotFound:
            raise Conflict(f"the ConfigMap {self._namespace}/{self._name} was deleted") from None
        self._version = made["metadata"]["resourceVersion"]

    def _document(self, books: Books) -> dict[str, Any]:
        text = msgspec.json.encode(books).decode()
        if len(text) > _SIZE_LIMIT:
            raise OutOfSpace(f"the books take {len(text)} of {_SIZE_LIMIT} bytes; keep fewer months")
        metadata = {
            "name": self._name,
            "namespace": self._namespace,
            "labels": {"app.kubernetes.io/managed-by": "penstock"},
            **({"resourceVersion": self._version} if self._version else {}),
        }
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"books": text}}


def _decoded(data: bytes, where: str) -> Books:
    try:
        return msgspec.json.decode(data, type=Books)
    except msgspec.DecodeError as error:
        raise Corrupt(f"the books in {where} cannot be read ({error}); remove them to begin anew") from error


class Bookkeeper:
    """Implements `scaler.interface.api.LedgerSource`. Only the process that leads keeps books; others read them."""

    def __init__(
        self,
        control: Control,
        fleet: Fleet,
        store: BookStore,
        *,
        clock: Callable[[], int],
        leads: Callable[[], bool] = lambda: True,
        sample_s: float = 5.0,
        save_s: float = 60.0,
        keep_months: int = 36,
        energy_price: float = 0.0,
    ) -> None:
        self._control = control
        self._fleet = fleet
        self._store = store
        self._clock = clock
        self._leads = leads
        self._sample_s = sample_s
        self._save_ms = save_s * 1000
        self._keep_months = keep_months
        self._energy_price = energy_price
        self._open = False
        self._saved_ms = 0
        self._trouble = ""
        #: A look that comes this late finds time that nobody looked at.
        self._gap_ms = round(max(30.0, 6 * sample_s) * 1000)
        #: The same object for ever: metrics read it.
        self.books = Books()
        self._ledger = Ledger(fleet, self.books, longest_gap_ms=self._gap_ms)

    async def run(self) -> None:
        """For ever. What is not saved at the end is lost: a minute at most."""
        await every(self._sample_s, self.turn)

    async def turn(self) -> None:
        """One look; trouble is told once and the next turn tries again."""
        try:
            await self._turn()
        except (Unavailable, Conflict, OutOfSpace) as error:
            if error.message != self._trouble:
                log.warning("the books are not kept now", action="ledger_trouble", error=error.message)
            self._trouble = error.message
        else:
            self._trouble = ""

    async def _turn(self) -> None:
        if not self._leads():
            self._open = False
            return
        if not self._open:
            self._take(await self._store.load())
            self._open = True
        now = self._clock()
        explanation = await self._control.explain()
        self._ledger.look(now, await self._control.nodes(), explanation.plan)
        if now - self._saved_ms >= self._save_ms:
            self._ledger.forget(self._keep_months)
            try:
                await self._store.save(self.books)
            except Conflict:
                # Another process kept them meanwhile: its books are the ones to go on with.
                self._open = False
                raise
            self._saved_ms = now

    def _take(self, stored: Books) -> None:
        for field in Books.__struct_fields__:
            setattr(self.books, field, getattr(stored, field))
        self._ledger = Ledger(self._fleet, self.books, longest_gap_ms=self._gap_ms)

    async def ledger(self, month: str) -> LedgerReport:
        """As `LedgerSource.ledger`. Raises InvalidInput; a process that does not lead raises what `load` raises."""
        if month and not _MONTH.fullmatch(month):
            raise InvalidInput(f"{month[:20]!r} is no month; write it like 2026-11", where="?month")
        books = self.books if self._open else await self._store.load()
        return report(books, self._fleet, month or month_of(self._clock()), energy_price=self._energy_price)
