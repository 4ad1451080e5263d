"""The launcher as it runs in pods, as plain processes under three shells: the supervisor here is the test."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parents[2] / "dispatcher" / "sidecar" / "launcher.sh"
SHELLS = [["dash"], ["bash", "--posix"], ["busybox", "sh"]]
PATIENCE_S = 20.0


class Pod:
    """The supervisor's side: FIFOs, items, words."""

    def __init__(
        self, folder: Path, shell: list[str], *, path: str | None = None, prefix: tuple[str, ...] = ()
    ) -> None:
        self.run = folder / "run"
        (self.run / "items").mkdir(parents=True)
        for name in ("alive", "ack"):
            os.mkfifo(self.run / name)
        self.script = folder / "script.sh"
        self.alive = os.open(self.run / "alive", os.O_RDWR | os.O_NONBLOCK)
        self.ack = os.open(self.run / "ack", os.O_RDWR | os.O_NONBLOCK)
        self._rest = b""
        environment = dict(os.environ) | ({} if path is None else {"PATH": path})
        program = shutil.which(shell[0])
        assert program is not None, f"{shell[0]} is needed for these tests"
        command = [*prefix, program, *shell[1:], str(LAUNCHER), str(self.run), str(self.script)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )

    def item(self, number: int, script: str | None = None, **variables: str) -> Path:
        folder = self.run / "items" / str(number)
        folder.mkdir()
        lines = [f"export {name}='{value}'\n" for name, value in variables.items()]
        (folder / "env").write_text("".join(lines))
        if script is not None:
            self.script.write_text(script)
        return folder

    def say(self, words: str) -> None:
        os.write(self.ack, f"{words}\n".encode())

    def hear(self) -> str:
        """The launcher's next word."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                if line:
                    return line.decode()
                continue
            ready, _, _ = select.select([self.alive], [], [], deadline - time.monotonic())
            assert ready, f"the launcher says nothing; so far {self._rest!r}"
            self._rest += os.read(self.alive, 4096)

    def end(self) -> tuple[int, str]:
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out.decode()

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        os.close(self.alive)
        os.close(self.ack)


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def pod(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pod]:
    made = Pod(tmp_path, request.param)
    yield made
    made.close()


def test_items_run_in_order_and_codes_are_kept(pod: Pod) -> None:
    script = 'echo "$WHO $#"; echo err >&2; cat; exit $CODE'
    assert pod.hear() == "hello"
    for number, code in enumerate((0, 5, 9)):
        folder = pod.item(number, script, WHO=f"item{number}", CODE=str(code))
        pod.say(f"ready {number}")
        assert pod.hear() == f"exit {number} {code}"
        assert (folder / "code").read_text() == f"{code}\n"
        assert (folder / "log").read_text() == f"item{number} 0\nerr\n"
    pod.say("done")
    assert pod.end() == (0, "item0 0\nerr\nitem1 0\nerr\nitem2 0\nerr\n")


def test_skipped_items_are_not_run_and_the_last_code_is_the_supervisors(pod: Pod) -> None:
    pod.item(1, "exit 0")
    pod.say("skip 0")
    pod.say("ready 1")
    assert [pod.hear(), pod.hear()] == ["hello", "exit 1 0"]
    pod.say("done 121")
    assert pod.end()[0] == 121


def test_words_that_are_not_waited_for_are_dropped(pod: Pod) -> None:
    pod.item(0, "exit 4")
    for word in ("ready 7", "skip x", "published", "", "end 0", "cancel 0", "ready 0 and more", "done"):
        pod.say(word)
    assert [pod.hear(), pod.hear()] == ["hello", "exit 0 4"]
    pod.say("done")
    assert pod.end()[0] == 0


def test_a_cancel_ends_the_item_and_the_list_goes_on(pod: Pod) -> None:
    pod.item(0, 'echo up; [ "$SLOW" ] || exit 0; exec sleep 1000', SLOW="1")
    pod.item(1, None, SLOW="")
    pod.say("ready 0")
    assert pod.hear() == "hello"
    _wait_for((pod.run / "items/0/log"), "up\n")
    pod.say("cancel 5")
    pod.say("cancel 0")
    assert pod.hear() == "exit 0 143"
    pod.say("ready 1")
    assert pod.hear() == "exit 1 0"


def test_the_second_cancel_kills_a_script_that_ignores_the_first(pod: Pod) -> None:
    pod.item(0, "trap '' TERM; echo up; while :; do sleep 0.05; done")
    pod.say("ready 0")
    assert pod.hear() == "hello"
    _wait_for((pod.run / "items/0/log"), "up\n")
    pod.say("cancel 0")
    pod.say("cancel 0")
    assert pod.hear() == "exit 0 137"


def test_an_end_forged_by_user_code_changes_nothing(pod: Pod) -> None:
    pod.item(0, f'echo "end 0" >{pod.run}/ack; printf garbage >{pod.run}/alive; sleep 0.2; exit 6')
    pod.say("ready 0")
    assert pod.hear() == "hello"
    assert pod.hear() == "garbage"
    assert pod.hear() == "exit 0 6"


def test_a_background_child_that_holds_the_output_is_waited_for(pod: Pod) -> None:
    folder = pod.item(0, "(sleep 0.5; echo late) & echo done")
    pod.say("ready 0")
    assert [pod.hear(), pod.hear()] == ["hello", "exit 0 0"]
    assert (folder / "log").read_text() == "done\nlate\n"


def test_a_daemon_that_closed_the_output_is_not_waited_for(pod: Pod) -> None:
    pod.item(0, "sleep 1000 >/dev/null 2>&1 </dev/null & exit 0")
    pod.say("ready 0")
    assert [pod.hear(), pod.hear()] == ["hello", "exit 0 0"]


def test_the_script_inherits_no_control_descriptor_and_no_variable_of_ours(pod: Pod) -> None:
    folder = pod.item(0, "ls /proc/self/fd; env")
    pod.say("ready 0")
    assert [pod.hear(), pod.hear()] == ["hello", "exit 0 0"]
    lines = (folder / "log").read_text().splitlines()
    assert [line for line in lines if line.isdigit()] == ["0", "1", "2", "3"]  # 3 is the folder that ls reads
    assert not [line for line in lines if line.startswith("_pk")]


def test_a_script_killed_by_a_signal_has_128_and_its_number(pod: Pod) -> None:
    pod.item(0, "kill -SEGV $$")
    pod.say("ready 0")
    assert [pod.hear(), pod.hear()] == ["hello", "exit 0 139"]


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_without_tee_and_cat_the_log_is_still_whole(tmp_path: Path, shell: list[str]) -> None:
    """Images without coreutils: busybox would still find its own applets, so only what the file holds is compared."""
    empty = tmp_path / "bin"
    empty.mkdir()
    pod = Pod(tmp_path, shell, path=str(empty))
    try:
        folder = pod.item(0, "echo one; echo two >&2; exit 3")
        pod.say("ready 0")
        assert [pod.hear(), pod.hear()] == ["hello", "exit 0 3"]
        assert (folder / "log").read_text() == "one\ntwo\n"
    finally:
        pod.close()


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_without_tee_the_output_is_relayed_by_cat(tmp_path: Path, shell: list[str]) -> None:
    if shell[0] == "busybox":
        shell = ["busybox", "sh"]
    (tmp_path / "bin").mkdir()
    cat = shutil.which("cat")
    assert cat is not None
    (tmp_path / "bin" / "cat").symlink_to(cat)
    pod = Pod(tmp_path, shell, path=str(tmp_path / "bin"))
    try:
        pod.item(0, "echo relayed")
        pod.say("ready 0")
        assert [pod.hear(), pod.hear()] == ["hello", "exit 0 0"]
        pod.say("done")
        assert pod.end() == (0, "relayed\n")
    finally:
        pod.close()


def test_term_without_an_item_ends_it_and_with_one_reaches_the_script(pod: Pod) -> None:
    pod.item(0, 'trap "exit 42" TERM; echo up; while :; do sleep 0.05; done')
    pod.say("ready 0")
    assert pod.hear() == "hello"
    _wait_for((pod.run / "items/0/log"), "up\n")
    pod.process.send_signal(signal.SIGTERM)
    assert pod.hear() == "exit 0 42 term"
    pod.process.send_signal(signal.SIGTERM)
    pod.say("look")  # a shell may only act on a signal between two reads
    assert pod.end()[0] == 143


def _wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not (path.exists() and path.read_text() == text):
        assert time.monotonic() < deadline, f"{path} never held {text!r}"
        time.sleep(0.01)


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def container(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pod]:
    """The launcher as PID 1 of a namespace of its own, as in a pod."""
    as_user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    made = Pod(tmp_path, request.param, prefix=("unshare", *as_user, "--pid", "--fork", "--kill-child"))
    yield made
    made.close()


def test_as_pid_1_a_cancel_reaches_everything_and_the_list_goes_on(container: Pod) -> None:
    container.item(0, 'echo "$PPID"; [ "$SLOW" ] || exit 0; setsid sleep 1000 & sleep 1000', SLOW="1")
    container.item(1, None, SLOW="")
    container.say("ready 0")
    assert container.hear() == "hello"
    deadline = time.monotonic() + PATIENCE_S
    while not (container.run / "items/0/log").exists() or not (container.run / "items/0/log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    container.say("cancel 0")
    assert container.hear() == "exit 0 143"
    container.say("ready 1")
    assert container.hear() == "exit 1 0"
    container.say("done")
    assert container.end()[0] == 0


def test_as_pid_1_the_second_cancel_kills(container: Pod) -> None:
    container.item(0, "trap '' TERM; echo up; while :; do sleep 0.05; done")
    container.item(1, None)
    container.say("ready 0")
    assert container.hear() == "hello"
    _wait_for(container.run / "items/0/log", "up\n")
    container.say("cancel 0")
    container.say("cancel 0")
    assert container.hear() == "exit 0 137"
    assert (container.run / "items/0/code").read_text() == "137\n"
