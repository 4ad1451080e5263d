"""`python -m tests.testbed build|up|doctor|clean`: the bed for people, outside any test run.

`build` makes what is missing, `up` starts components and stays until Ctrl-C, `doctor` tells what is found where and
what is missing, `clean` removes what earlier beds left, and with `--cache` the finished binaries too.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.testbed import images
from tests.testbed.bed import COMPONENTS, Bed
from tests.testbed.building import say
from tests.testbed.catalog import PARTS
from tests.testbed.errors import BedError, MissingPart
from tests.testbed.leftovers import remove_old_runs
from tests.testbed.lookup import artifact_named, find, how_to_get, require
from tests.testbed.paths import cache_folder


def build(parts: list[str]) -> int:
    """Make what is missing; a part that this machine cannot have does not keep the others from being built."""
    started = time.monotonic()
    lacking = 0
    for part in parts or PARTS:
        try:
            require(part)
        except MissingPart as missing:
            say(str(missing))
            lacking += 1
    if "images" in (parts or PARTS) and images.dockerfile() is None:
        images.without_dockerfile()
    have = len(parts or PARTS) - lacking
    say(f"{have} part{'s' if have != 1 else ''} ready after {time.monotonic() - started:.0f} s")
    return 1 if lacking else 0


def doctor(parts: list[str]) -> int:
    """One line per artifact; 0 exactly when every part is present."""
    missing = 0
    for part in parts or PARTS:
        sys.stdout.write(f"{part}\n")
        for name in PARTS[part].artifacts:
            artifact = artifact_named(name)
            if artifact is None:
                sys.stdout.write(f"  -  {name}: the repository has no Dockerfile yet\n")
                continue
            found = find(artifact)
            if found is None:
                missing += 1
                sys.stdout.write(f"  no {name}: {how_to_get(artifact)}\n")
            else:
                sys.stdout.write(f"  ok {name}: {found.path} ({found.source})\n")
    sys.stdout.write("every part is present\n" if not missing else f"{missing} missing\n")
    return 1 if missing else 0


def write_private(target: Path, text: str) -> None:
    """Write a file that only this user reads: the environment holds credentials."""
    target.touch(mode=0o600)
    target.write_text(text)


async def up(parts: list[str], env: Path | None) -> int:
    """Start components, tell how to find them, stay until Ctrl-C."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    async with Bed() as bed:
        for part in parts:
            started = time.monotonic()
            await bed.start(part)
            say(f"{part} is up after {time.monotonic() - started:.1f} s")
        lines = "".join(f"{name}='{value}'\n" for name, value in bed.env().items())
        sys.stdout.write(lines)
        sys.stdout.flush()
        if env is not None:
            write_private(env, lines)
        say(f"logs are in {bed.logs}; Ctrl-C ends it")
        await ended.wait()
    return 0


def clean(*, cache: bool) -> int:
    """Remove what ended beds left behind."""
    say(f"removed {remove_old_runs()} folders of ended beds")
    for draft in cache_folder().glob(".draft-*"):
        shutil.rmtree(draft, ignore_errors=True)
    if cache:
        shutil.rmtree(cache_folder())
        say("removed the cache of finished binaries")
    return 0


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.testbed", description="The test bed of real parts.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("build", "make what is missing"), ("doctor", "tell what is found and what is missing")):
        command = commands.add_parser(name, help=text)
        command.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    command = commands.add_parser("up", help="start components and stay until Ctrl-C")
    command.add_argument("parts", nargs="+", choices=COMPONENTS, metavar="PART", help=f"of {', '.join(COMPONENTS)}")
    command.add_argument("--env", type=Path, metavar="FILE", help="also write the environment to use into this file")
    command = commands.add_parser("clean", help="remove what ended beds left behind")
    command.add_argument("--cache", action="store_true", help="the finished binaries too")
    asked = parser.parse_args()
    unknown = set(getattr(asked, "parts", [])) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return asked


def main() -> int:
    """Run one command; an error is one sentence, not a traceback."""
    asked = arguments()
    try:
        if asked.command == "build":
            return build(asked.parts)
        if asked.command == "doctor":
            return doctor(asked.parts)
        if asked.command == "up":
            return asyncio.run(up(asked.parts, asked.env))
        return clean(cache=asked.cache)
    except BedError as error:
        say(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
