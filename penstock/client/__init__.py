"""The Python client: `penstock.Client` for programs that use asyncio, `penstock.SyncClient` for all others.

`core` speaks the HTTP interface `/v1` call by call; `work` adds what takes several calls (deploy a file, upload a
folder, wait, map a function over files); `blocking` offers the same names without `await`. Answers are the types of
`penstock.answers`, failures the errors of `penstock.errors` and `penstock.client_errors`.
"""

from penstock.client.blocking import SyncClient
from penstock.client.core import Body
from penstock.client.definitions import Definition
from penstock.client.listing import Listing
from penstock.client.mapping import MapResult
from penstock.client.work import Client
from penstock.client_errors import RunFailed, RunTimedOut, TooLarge, Unauthenticated, Unreachable

__all__ = [
    "Body",
    "Client",
    "Definition",
    "Listing",
    "MapResult",
    "RunFailed",
    "RunTimedOut",
    "SyncClient",
    "TooLarge",
    "Unauthenticated",
    "Unreachable",
]
