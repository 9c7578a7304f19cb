"""`kvfs debug-bundle`: the data for the search of a fault, without secrets or values."""

import io
import json
import os
import platform
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import click
from msgspec import to_builtins

from kvfs import __version__
from kvfs.cli.daemons import ask_mount
from kvfs.cli.journal_dump import describe
from kvfs.cli.options import STATE_DIR, flag, option, path
from kvfs.cli.output import say, size_text
from kvfs.cli.pieces import own_command
from kvfs.cli.scrub import Scrubber, secret_variables
from kvfs.cli.status import status_of
from kvfs.core.errors import KvfsError, UserError
from kvfs.host.control import Message
from kvfs.host.mounts import current_mounts, mount_at, real_mountpoint
from kvfs.host.open_conflicts import ConflictFile
from kvfs.host.requests import ErrorsRequest, MetricsRequest, Request, TopRequest, name_of
from kvfs.host.sources import SourceRecord, journals, known_sources, read_source, store_of
from kvfs.host.state import log_path, records
from kvfs.host.token_file import read_token_file
from kvfs.settings import PATH

LOG_BYTES: Final = 256 * 1024  # bytes of the end of each log
_SECONDS: Final = 30.0  # that another command of ours may take
_SILENCE: Final = 5.0
_KERNEL: Final = ("/proc/version", "/proc/meminfo", "/etc/os-release", "/etc/fuse.conf")
_TEXT: Final = """\
A bundle of kvfs {version}, made {at}.

about.txt       this text
system.json     versions, platform, kernel, FUSE, mounts of kvfs, the names of variables that kvfs reads
config.txt      options of a mount, and where each comes from (kvfs config show)
doctor.txt      kvfs doctor
status.json     kvfs status --json
mounts/*        of each mount: metrics, kvfs top, the last errors, the end of its log
journals/*      what has not been sent yet: sizes, digests, states (no values, no metadata)
errors.log      tracebacks of commands

Not in it: values, metadata, tokens. {names}
Paths of this machine, account ids, ids of namespaces and the names of programs are in it. Look through it first:
tar xzf FILE
"""
_HASHED: Final = (
    "Names of keys, directories and namespaces stand as hashes,\n"
    "with a key that was thrown away: one name has one hash."
)
_NAMED: Final = "Names of keys, directories and namespaces ARE in it (--with-names)."

BundleFiles = dict[str, str]


@click.command(name="debug-bundle")
@click.argument("directory", metavar="[DIR]", type=path, required=False)
@click.option(
    "-o",
    "--output",
    type=path,
    metavar="FILE",
    help="Write the bundle there.  [default: ./kvfs-debug-TIME.tar.gz]",
)
@flag("--with-names", "Keep the names of keys and namespaces, which are hashed otherwise.")
@option(PATH, "token-file", "Leave out the token of this file too, besides those of the environment.")
@STATE_DIR
def debug_bundle(
    directory: Path | None,
    output: Path | None,
    with_names: bool,
    token_file: Path | None,
    state: Path,
) -> None:
    """Write one file for a problem report, without values and secrets. Nothing is sent.

    It is about DIR, or about all your mounts and everything that this machine keeps of earlier ones.
    """
    if directory is not None and not _was_mounted(real_mountpoint(directory), state):
        raise UserError(
            f"{directory} is not a kvfs mount, and was none before: kvfs status names your mounts"
        )
    target = output or Path.cwd() / time.strftime("kvfs-debug-%Y%m%d-%H%M%S.tar.gz")
    gathered = _Gathered(state, None if directory is None else real_mountpoint(directory))
    secrets = [*secret_variables(os.environ), *_secrets_of_files(token_file)]
    scrub = Scrubber(secrets, gathered.names(), with_names=with_names)
    files = gathered.files(scrub)
    files = {"about.txt": _about(with_names), **files}
    _write(target, {name: scrub.secrets(text) for name, text in files.items()})
    say(f"wrote {target}, for you alone to read (mode 600):")
    for name, text in files.items():
        say(f"  {name:<32} {size_text(len(text.encode('utf-8', 'replace')))}")
    names = "names of keys are in it" if with_names else "names of keys are hashed"
    say(f"values, metadata and tokens are not in it, {names}; look through it before you send it")


def _was_mounted(directory: Path, state: Path) -> bool:
    """Return whether anything is known of a mount at a directory, now or before."""
    mount = mount_at(directory)
    known = {one.mountpoint for one in records(state)} | {one.mountpoint for _, one in known_sources(state)}
    is_kvfs = mount is not None and mount.is_kvfs
    return is_kvfs or str(directory) in known or log_path(directory, state).exists()


def _about(with_names: bool) -> str:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return _TEXT.format(version=__version__, at=at, names=_NAMED if with_names else _HASHED)


def _secrets_of_files(token_file: Path | None) -> Iterator[str]:
    """Return the tokens in files that are known to hold one; a file that cannot be read can leak none."""
    for name in (token_file, os.environ.get("KVFS_TOKEN_FILE")):
        if name:
            try:
                yield read_token_file(Path(name), forbidden=0)
            except (KvfsError, OSError):
                continue


class _Gathered:
    """Collects the parts of a bundle, before names and secrets are taken out."""

    def __init__(self, state: Path, only: Path | None) -> None:
        self._state = state
        known = [Path(record.mountpoint) for record in records(state)]
        self._mounts = known if only is None else [only]
        found = [(journal, read_source(journal)) for journal in journals(state)]
        self._journals = [
            (journal, record)
            for journal, record in found
            if only is None or (record is not None and record.mountpoint == str(only))
        ]
        self._described = {journal: _tried(partial(describe, journal)) for journal, _ in self._journals}
        self._status = [_tried(partial(self._status_of, mount)) for mount in self._mounts]

    def names(self) -> set[str]:
        """Return all names that are known: keys, titles and prefixes."""
        found: set[str] = set()
        for journal, record in self._journals:
            if record is not None:
                found |= _names_of(record)
            for change in self._described[journal].get("changes", []):
                found.add(change["key"])
            for conflict in ConflictFile(journal).read():
                found |= {conflict.key, conflict.copy}
        for status in self._status:
            for group in ("rejected", "conflicts"):
                for item in status.get(group, {}).get("items", []):
                    found |= {str(item.get("path") or ""), str(item.get("copy") or "")}
        return found

    def files(self, scrub: Scrubber) -> BundleFiles:
        """Return the files of a bundle by name."""
        found = {
            "system.json": _json(scrub.value(_system(), scrub.text)),
            "config.txt": scrub.text(_without_commands(_said("config", "show"))),
            "doctor.txt": scrub.log(_said("doctor", f"--state-dir={self._state}")),
            "status.json": _json(scrub.value(self._status)),
        }
        for number, mountpoint in enumerate(self._mounts, 1):
            found |= {
                f"mounts/{number}/{name}": text for name, text in self._mount(mountpoint, scrub).items()
            }
        for number, (journal, record) in enumerate(self._journals, 1):
            described = self._described[journal] | {"mountpoint": record.mountpoint if record else ""}
            found[f"journals/{number}.json"] = _json(scrub.value(_without_contents(described)))
        found["errors.log"] = scrub.log(_end_of(self._state / "errors.log"))
        return found

    def _mount(self, mountpoint: Path, scrub: Scrubber) -> BundleFiles:
        """Collect the answers of one daemon, and the end of its log."""
        answers: Message = {}
        for request in (MetricsRequest(), ErrorsRequest(), TopRequest()):
            answers[name_of(type(request))] = _tried(partial(self._asked, mountpoint, request))
        return {
            "metrics.txt": scrub.metrics(_text_of(answers["metrics"])),
            "errors.txt": scrub.log(_text_of(answers["errors"])),
            "top.json": _json(scrub.value(answers["top"])),
            "log.txt": scrub.log(_end_of(log_path(mountpoint, self._state))),
        }

    def _asked(self, mountpoint: Path, request: Request[Any]) -> Message:
        answer: Message = to_builtins(ask_mount(mountpoint, self._state, request, silence=_SILENCE))
        return answer

    def _status_of(self, mountpoint: Path) -> Message:
        return status_of(mountpoint, self._state, _SILENCE).as_json()


def _text_of(answer: Message) -> str:
    return str(answer.get("text", answer.get("error", "")))


def _names_of(record: SourceRecord) -> set[str]:
    """Return titles, the prefix, and the names of a source below its account."""
    found = {*record.namespaces.values(), record.prefix}
    if not record.source.startswith("local:"):
        found |= set(record.source.partition("/")[2].split("/", 1))
    return {name for name in found if name}


def _tried(work: Callable[[], Mapping[str, Any]]) -> Message:
    """Collect one part; on a failure keep its reason, because a bundle is made where things are broken."""
    try:
        return dict(work())
    except (KvfsError, OSError, ValueError) as exc:
        return {"error": str(exc)}


def _system() -> Message:
    libraries = (
        "pyfuse3",
        "trio",
        "httpx",
        "httpcore",
        "msgspec",
        "click",
        "rich",
        "prometheus-client",
        "hypercorn",
    )
    return {
        "kvfs": __version__,
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in libraries},
        "platform": platform.platform(),
        "fusermount3": _output(["fusermount3", "-V"]),
        "files": {name: _end_of(Path(name)) for name in _KERNEL},
        "mounts": [str(mount) for mount in current_mounts() if mount.is_kvfs],
        "variables": sorted(n for n in os.environ if n.startswith(("KVFS_", "CLOUDFLARE_", "XDG_"))),
        "uid": os.geteuid(),
        "time": time.time(),
    }


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def _said(*words: str) -> str:
    """Return the output of another command of ours."""
    return _output([*own_command(), *words])


def _output(command: Iterable[str]) -> str:
    try:
        done = subprocess.run([*command], capture_output=True, text=True, errors="replace", timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"{exc}\n"
    return done.stdout + done.stderr


def _without_commands(text: str) -> str:
    """Return `kvfs config show` without the words of a token command, because they may hold a secret."""
    lines = text.splitlines(keepends=True)
    return "".join(
        "token-command  (left out)\n" if line.startswith("token-command") else line for line in lines
    )


def _without_contents(described: Message) -> Message:
    """Return a journal as `kvfs journal --json` has it, with only the size of metadata."""
    described["file"] = described.pop("path", "")  # a path of this machine, and no name of a key
    described["source"] = store_of(str(described.get("source", "")))  # no namespace, and no prefix
    for change in described.get("changes", []):
        text = change.pop("metadata", None)
        change["metadata_bytes"] = None if text is None else len(text.encode())
    return described


def _end_of(file: Path) -> str:
    try:
        with open(file, "rb") as stream:
            try:
                stream.seek(-LOG_BYTES, os.SEEK_END)
            except OSError:  # shorter, or of /proc
                stream.seek(0)
            return stream.read(LOG_BYTES).decode(errors="replace")
    except OSError as exc:
        return f"({file}: {exc.strerror})\n"


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


def _write(target: Path, files: BundleFiles) -> None:
    """Write a new file of mode 600; an existing one stays as it is."""
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UserError(f"{target} exists: name another file with -o") from None
    except OSError as exc:
        raise UserError(f"cannot write {target}: {exc.strerror}") from exc
    with os.fdopen(descriptor, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, text in files.items():
            content = text.encode("utf-8", "replace")
            member = tarfile.TarInfo(f"kvfs-debug/{name}")
            member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
            archive.addfile(member, io.BytesIO(content))
