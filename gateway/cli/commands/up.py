"""`penstock up`: hands the command line to `gateway.up`, which runs the product."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.options import command

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@command(
    """
    penstock up
    penstock up --data ~/penstock --apply digits.yaml
    penstock up --s3 --listen 127.0.0.1:8080
    """
)
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Data folder (default penstock-data).")
@click.option("--listen", metavar="HOST:PORT", help="Where to serve (default 127.0.0.1:8080); port 0 = any free one.")
@click.option(
    "--apply", "files", type=_FILE, multiple=True, metavar="FILE", help="FDL file to deploy first; may be repeated."
)
@click.option("--drain", type=click.FloatRange(min=0), metavar="S", help="Seconds running items get at a stop (30).")
@click.option("--s3", is_flag=True, default=None, help="Serve the buckets as S3 too (needs penstock[s3]).")
@click.option("--s3-listen", metavar="HOST:PORT", help="Where to serve S3 (default 127.0.0.1:9000).")
@click.option("--config", type=_FILE, metavar="FILE", help="Settings file (TOML).")
@click.option("--allow-remote", is_flag=True, default=None, help="Permit an address that other machines can reach.")
def up(
    *,
    data: Path | None,
    listen: str | None,
    files: tuple[Path, ...],
    drain: float | None,
    s3: bool | None,
    s3_listen: str | None,
    config: Path | None,
    allow_remote: bool | None,
) -> int:
    """Run the whole product in one process, until Ctrl-C.

    Buckets are the folders of DIR/buckets: any program that writes a file there uploads it. The credential lies in
    DIR/credentials, with --s3 the key pair of S3 too; the other commands on this machine find it by themselves. The
    first Ctrl-C lets running items end for --drain seconds, a second one does not wait. What was queued goes on at the
    next start.
    """
    import asyncio  # noqa: PLC0415 - the server's imports take a second, which help must not pay

    from gateway.up import UpOptions, serve  # noqa: PLC0415

    options = UpOptions(
        data=data,
        listen=listen,
        allow_remote=allow_remote,
        drain_s=drain,
        # Naming the port of S3 says that it is wanted.
        s3=True if s3_listen is not None else s3,
        s3_listen=s3_listen,
        config=config,
        apply=files,
        announce=_announce,
        announce_s3=_announce_s3,
    )
    return asyncio.run(serve(options))


def _announce(address: str, data: Path) -> None:
    click.echo(f"Penstock is up at {address}, data in {data}")
    click.echo(f"Drop files into {data / 'buckets'}; 'penstock status' shows what happens. Ctrl-C stops.")


def _announce_s3(endpoint: str) -> None:
    click.echo(f"S3 is served at {endpoint}; its key pair is in the credentials file of the data folder.")
