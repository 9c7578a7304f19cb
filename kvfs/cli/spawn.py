"""A mount in the background: the parent starts the daemon, waits for its word, and reports it.

The daemon is `kvfs mount … --ready-fd N --tell`, a session of its own with its log as stdout and stderr. Through
the pipe it says what it is doing, as JSON objects, and then `ready`, or a JSON object with the error. A token is in
the environment if the user put it there, in a file that is named, or comes through another pipe: never in the
arguments.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self, TextIO

import kvfs
from kvfs.cli.exits import describe
from kvfs.cli.options import config_arguments
from kvfs.cli.output import say
from kvfs.cli.waiting import Waiting
from kvfs.config import Config
from kvfs.core.errors import UserError
from kvfs.host.credentials import VARIABLES, Credentials, Secret, from_text, to_text
from kvfs.host.state import log_path

READY = "ready"


class ReadyPipe:
    """The daemon's end of the pipe. Without a descriptor it does nothing, so the foreground needs no case."""

    def __init__(self, descriptor: int | None, *, tells: bool = False) -> None:
        """With `tells` the reader of the pipe wants to know the daemon's work until it is ready."""
        self._descriptor = descriptor
        self._tells = tells
        if descriptor is not None:
            os.set_inheritable(descriptor, False)  # OSError for one that is not open

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if exc is not None and self._descriptor is not None:
            message, _ = describe(exc)
            self._send(json.dumps({"error": message}))

    def ready(self) -> bool:
        """Let the parent go; False when there is none."""
        if self._descriptor is None:
            return False
        self._send(READY)
        return True

    def doing(self, text: str) -> None:
        """Tell the parent what the daemon does now. The text must be short, because a pipe holds 64 KiB."""
        if self._descriptor is not None and self._tells:
            with suppress(OSError):
                os.write(self._descriptor, json.dumps({"doing": text[:200]}).encode() + b"\n")

    def _send(self, line: str) -> None:
        assert self._descriptor is not None
        with suppress(OSError):  # the parent was interrupted: the mount stays all the same
            os.write(self._descriptor, line.encode() + b"\n")
            os.close(self._descriptor)
        self._descriptor = None


def received_secret(descriptor: int) -> Secret:
    """Return the credentials that the parent had from a command, which may ask the user only there."""
    with open(descriptor, encoding="utf-8") as pipe:
        return from_text(pipe.read())


def start_in_background(
    config: Config,
    credentials: Credentials | None,
    extra: list[str],
    command: str | None = None,
    *,
    quiet: bool = False,
) -> int:
    """Start the daemon and return 0 when the mount can be used; raises what the daemon said otherwise.

    `command` prints the token; the daemon runs it again when the API refuses the one at hand.
    """
    log = config.log_file or log_path(config.mountpoint, config.state_dir)
    arguments = [arg for arg in config_arguments(config) if not arg.startswith("--log-file=")]
    places = [f"--log-file={log}", *extra, "--", str(config.source), os.fspath(config.mountpoint)]
    environment = _environment(credentials)
    reading, writing = os.pipe()
    passed = [writing]
    if command and credentials is not None:
        environment["KVFS_TOKEN_COMMAND"] = command
        passed.append(_secret_pipe(credentials))
        arguments.append(f"--secret-fd={passed[-1]}")
    with open(reading, encoding="utf-8") as answers:
        try:
            words = [*arguments, f"--ready-fd={writing}", "--tell", *places]
            process = _spawn(words, log, passed, environment)
        finally:
            for descriptor in passed:
                os.close(descriptor)
        try:
            line = _last_line(answers, config, quiet=quiet)
        except KeyboardInterrupt:
            process.terminate()
            raise
    if line == READY:
        if not quiet:
            say(f"{config.source} is mounted on {config.mountpoint}")
        return 0
    status = process.wait()
    if not line:
        raise UserError(f"the daemon ended before it was ready (status {status}): see {log}")
    raise UserError(json.loads(line)["error"])


def _last_line(answers: TextIO, config: Config, *, quiet: bool) -> str:
    """Return the daemon's word that it is ready, or its error; "" when it ended. What it does until then is shown."""
    with Waiting(f"starting the daemon of {config.mountpoint}", quiet=quiet) as waiting:
        for line in answers:
            if not line.startswith('{"doing"'):
                return line.rstrip("\n")
            waiting.say(str(json.loads(line)["doing"]))
    return ""


def _secret_pipe(credentials: Credentials) -> int:
    """Return the end of a pipe from which the daemon reads the credentials; a pipe holds far more than they are."""
    reading, writing = os.pipe()
    with open(writing, "w", encoding="utf-8") as pipe:
        pipe.write(to_text(credentials.secret))
    return reading


def _spawn(
    arguments: list[str], log: Path, descriptors: list[int], environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise UserError(f"cannot write the log {log}: {exc.strerror}") from exc
    try:
        # -P: a directory that somebody mounts in must not lend its modules to the daemon
        return subprocess.Popen(
            [sys.executable, "-P", "-X", "utf8", "-m", "kvfs", "mount", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=descriptors,
            start_new_session=True,
            cwd="/",
            umask=0o077,
            env=environment,
        )
    finally:
        os.close(output)


def _environment(credentials: Credentials | None) -> dict[str, str]:
    """Return our environment without tokens that the daemon does not use, and with the way to this package."""
    environment = dict(os.environ)
    if credentials is None or not credentials.are_in_environment:
        environment = {name: value for name, value in environment.items() if name not in VARIABLES}
    root = Path(kvfs.__file__).parent.parent
    if root.name not in ("site-packages", "dist-packages"):
        paths = [os.fspath(root), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment
