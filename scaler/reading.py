"""Looks at nodes past every cache, so that many removals at once do not ask for the same list one by one.

A server without consistent reads from its cache (etcd before 3.5.13) reads every pod of the cluster for each list of
one node's pods. So a few nodes are asked about one by one, and of more at a time one list of all pods tells. No answer
is older than its question: a list that was begun before a node was asked about never answers for it. Whoever comes
while a list is under way waits for the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

import msgspec

from penstock.adapters.kubernetes import KubernetesClient
from penstock.adapters.kubernetes.trouble import Expired
from penstock.adapters.kubernetes.watching import PAGE, ListOf
from penstock.errors import Corrupt, PenstockError, Unavailable
from penstock.tasks import settle
from scaler.kube import BoundObject, bound_pod
from scaler.model import Pod, PodKind

PODS = "/api/v1/pods"
#: So many nodes that wait are asked about one by one; of more, one list of all pods tells.
ALONE = 4
#: A list that takes longer tells of a past that is too long ago to switch anything off by.
READ_S = 30.0
_RUNNING = "status.phase!=Succeeded,status.phase!=Failed"


class Fresh(msgspec.Struct, frozen=True, kw_only=True):
    """One node, read past every cache."""

    #: Before it was asked: what happened later may be missing.
    asked_ms: int
    #: Those bound to it that have not finished. Of what they ask for nothing is read.
    pods: tuple[Pod, ...] = ()


class Lists(Protocol):
    """Lists that show every write acknowledged before they were asked for. Raise Unavailable, Corrupt, Forbidden."""

    async def one(self, name: str) -> list[Pod]:
        """Pods bound to one node."""
        ...

    async def many(self, names: Collection[str]) -> Mapping[str, list[Pod]]:
        """By node, for each of the names: pods bound to it, all of one moment after the call."""
        ...


class PodLists:
    """From the API server. Memory is that of one page, however many pods there are.

    `watched` gives what a watch knows: work that it was told of and a list does not show was bound after the list was
    begun, which took long, and is added.
    """

    def __init__(
        self, client: KubernetesClient, *, watched: Callable[[], Iterable[Pod]] = tuple, page: int = PAGE
    ) -> None:
        self._client = client
        self._page_size = page
        self._watched = watched
        self._decode = msgspec.json.Decoder(ListOf[BoundObject]).decode

    async def one(self, name: str) -> list[Pod]:
        """As `Lists.one`."""
        page = await self._page({"fieldSelector": f"spec.nodeName={name},{_RUNNING}"})
        if page.metadata.continue_:
            raise Unavailable(f"the list of pods of node {name} is not whole")
        found = {name: [pod for item in page.items if (pod := bound_pod(item)) is not None]}
        return self._newest(found)[name]

    async def many(self, names: Collection[str]) -> Mapping[str, list[Pod]]:
        """As `Lists.many`: the first page is consistent, and those that follow are of its version."""
        found: dict[str, list[Pod]] = {name: [] for name in names}
        params = {"fieldSelector": f"spec.nodeName!=,{_RUNNING}", "limit": str(self._page_size)}
        while True:
            page = await self._page(params)
            for item in page.items:
                pods = found.get(item.spec.nodeName)
                if pods is not None and (pod := bound_pod(item)) is not None:
                    pods.append(pod)
            if not page.metadata.continue_:
                return self._newest(found)
            params["continue"] = page.metadata.continue_

    def _newest(self, found: dict[str, list[Pod]]) -> dict[str, list[Pod]]:
        listed = {pod.uid for pods in found.values() for pod in pods}
        for pod in self._watched():
            if pod.node in found and pod.kind is PodKind.WORK and pod.uid not in listed:
                found[pod.node].append(pod)
        return found

    async def _page(self, params: Mapping[str, str]) -> ListOf[BoundObject]:
        try:
            return self._decode(await self._client.request("GET", PODS, params=params))
        except Expired as error:
            raise Unavailable("the list of pods took longer than the API server keeps its version") from error
        except msgspec.DecodeError as error:
            raise Corrupt(f"the list of pods cannot be read: {error}") from error


class NodeReads:
    """`clock` is wall time in milliseconds."""

    def __init__(self, lists: Lists, *, clock: Callable[[], int], limit_s: float = READ_S) -> None:
        self._lists = lists
        self._clock = clock
        self._limit_s = limit_s
        #: Held while lists are under way.
        self._under_way = asyncio.Lock()
        self._waiting: list[tuple[str, asyncio.Future[Fresh]]] = []

    async def read(self, name: str) -> Fresh:
        """Pods of the node, newer than every write acknowledged before the call. Raises as `Lists`."""
        answer: asyncio.Future[Fresh] = asyncio.get_running_loop().create_future()
        self._waiting.append((name, answer))
        try:
            async with self._under_way:
                if not answer.done():
                    await asyncio.sleep(0)  # those that ask in the same moment come along
                    await self._answer()
            return await answer
        finally:
            answer.cancel()  # nobody asks any more, if it was not answered

    async def _answer(self) -> None:
        """All that wait by now, each with an answer or what went wrong."""
        taken = [(name, answer) for name, answer in self._waiting if not answer.done()]
        self._waiting = []
        names = {name for name, _ in taken}
        try:
            if len(names) <= ALONE:
                answers = await asyncio.gather(*(self._told(name) for name in names))
                found: Mapping[str, Fresh | PenstockError] = dict(zip(names, answers, strict=True))
            else:
                found = await self._list(names)
        except BaseException:
            # Only whoever asked for all is gone: one of the others asks again.
            self._waiting = [*(one for one in taken if not one[1].done()), *self._waiting]
            raise
        for name, answer in taken:
            settle(answer, found[name])

    async def _told(self, name: str) -> Fresh | PenstockError:
        return (await self._list([name]))[name]

    async def _list(self, names: Collection[str]) -> Mapping[str, Fresh | PenstockError]:
        asked = self._clock()
        try:
            async with asyncio.timeout(self._limit_s):
                if len(names) == 1:
                    (name,) = names
                    found: Mapping[str, list[Pod]] = {name: await self._lists.one(name)}
                else:
                    found = await self._lists.many(names)
        except TimeoutError:
            late = Unavailable(f"the pods could not be listed within {self._limit_s:g} s")
            return dict.fromkeys(names, late)
        except PenstockError as error:
            return dict.fromkeys(names, error)
        return {name: Fresh(asked_ms=asked, pods=tuple(found[name])) for name in names}
