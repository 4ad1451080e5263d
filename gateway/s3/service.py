"""Puts the S3 server together for `gateway.embedded`: rclone behind, our own port in front, one key pair."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from socket import socket

from gateway.api.server import bind
from gateway.s3.access import S3Access
from gateway.s3.front import Front
from gateway.s3.rclone import Rclone, check_version, find_program
from penstock.errors import InvalidInput, PenstockError


def bind_s3(listen: str, *, allow_remote: bool) -> socket:
    """As `gateway.api.server.bind`, its sentences about the option of this port."""
    try:
        return bind(listen, allow_remote=allow_remote)
    except InvalidInput as error:
        raise InvalidInput(_renamed(error.message.removeprefix("listen: ")), where="s3_listen") from error
    except PenstockError as error:
        raise type(error)(_renamed(error.message)) from error


def _renamed(message: str) -> str:
    return message.replace("--listen", "--s3-listen")


class S3Server:
    """The part of the platform that `run` keeps going; see `opened`."""

    def __init__(self, access: S3Access, rclone: Rclone) -> None:
        self.access = access
        self._rclone = rclone

    @property
    def pid(self) -> int | None:
        """Rclone's process; None while there is none."""
        return self._rclone.pid

    async def run(self, up: asyncio.Event) -> None:
        """Serve until cancelled; `up` is set while requests are answered. Raises Unavailable: it never starts."""
        await self._rclone.run(up)


@asynccontextmanager
async def opened(sock: socket, buckets: Path, access: S3Access) -> AsyncIterator[S3Server]:
    """Listen on the socket for as long as the block runs. Raises Unsupported when there is no fit rclone."""
    program = find_program(os.environ)
    await check_version(program)
    rclone = Rclone(program, buckets, access)
    try:
        async with Front(rclone.address, buckets).serving(sock):
            yield S3Server(access, rclone)
    finally:
        rclone.close()
