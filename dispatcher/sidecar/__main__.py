"""Starts a sidecar: `python -m dispatcher.sidecar input|output`.

Nothing is imported here before the FIFOs exist, since the launcher waits for them; and what is imported later is kept
from bringing along what nobody uses. Both sidecars start with every Job, so each millisecond here counts for each file.
"""

import os
import signal
import sys

ROLES = ("input", "output")


def main() -> None:
    """Runs until the Job is over and ends the process. Exit code 2 = used wrongly."""
    role = sys.argv[1] if len(sys.argv) == 2 else ""
    if role not in ROLES:
        print("usage: python -m dispatcher.sidecar input|output", file=sys.stderr)  # noqa: T201 - a command's own words
        sys.exit(2)
    # Kept for whoever will handle it: as the first process of a container we would not even be told.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # What is made in the shared folder is for every user id: scripts run as the image's user, whoever that is.
    os.umask(0)
    if role == "input":
        make_fifos(os.environ.get("PENSTOCK_POD_RUN", "/oscar/run"))
    code = _run(role)
    sys.stderr.flush()
    # Nothing is left to be tidied up, and the interpreter would take its time over it.
    os._exit(code)


def make_fifos(run: str) -> None:
    """The launcher waits for the last one. Raises OSError."""
    for path in (f"{run}/items", f"{run}/alive", f"{run}/ack"):
        try:
            if path.endswith("items"):
                os.mkdir(path, 0o777)  # noqa: PTH102 - pathlib is not imported here
            else:
                os.mkfifo(path, 0o666)
        except FileExistsError:  # the container was started again
            pass


def _run(role: str) -> int:
    # msgspec takes this one when it is there, and it is a third of the start-up time. `typing` has all that is needed.
    sys.modules.setdefault("typing_extensions", None)  # type: ignore[arg-type]
    import gc  # noqa: PLC0415 - see above

    gc.disable()  # nothing of what the imports make is garbage
    import msgspec  # noqa: PLC0415 - see above

    from penstock.errors import PenstockError  # noqa: PLC0415 - see above

    try:
        if role == "input":
            from dispatcher.sidecar import input as program  # noqa: PLC0415 - each loads its own parts alone
        else:
            from dispatcher.sidecar import output as program  # type: ignore[no-redef]  # noqa: PLC0415
        from dispatcher.sidecar.pod import places  # noqa: PLC0415 - see above

        gc.freeze()
        gc.enable()
        return program.main(places(os.environ), os.environ)
    except PenstockError as error:
        print(f"{role}: {error}", file=sys.stderr)  # noqa: T201 - the kubelet keeps it as the container's last words
    except (OSError, msgspec.DecodeError) as error:
        print(f"{role}: the pod cannot be read or written: {error}", file=sys.stderr)  # noqa: T201 - the same
    return 1


if __name__ == "__main__":
    main()
