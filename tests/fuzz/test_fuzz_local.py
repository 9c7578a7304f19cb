"""Arbitrary content of the environment, of files of this machine and of the control socket."""

import contextlib
import json
import os
from pathlib import Path

import trio
import trio.testing
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import JSON, ODD_TEXT, almost, fuzzed, slowly_fuzzed
from support.rig import open_rig

from kvfs.cli import cli
from kvfs.config import (
    CloudflareSource,
    load_credentials,
    parse_base_url,
    parse_source,
)
from kvfs.core.errors import JournalLockedError, KvfsError, UserError
from kvfs.daemon.conflict_report import ConflictLog
from kvfs.daemon.controls import Controls
from kvfs.daemon.shutdown import Ending
from kvfs.host.control_server import _last_answer
from kvfs.host.mounts import parse_mountinfo
from kvfs.host.requests import handlers_of
from kvfs.host.state import read_record
from kvfs.host.token_file import read_token_file
from kvfs.journal.opener import lock
from kvfs.server.tokens import load_or_create_token

SECRET = "s3cret-t0ken"
REQUESTS = ["status", "sync", "refresh", "rejected_list", "rejected_retry", "rejected_discard", "bogus"]
ENVIRONMENT = st.dictionaries(
    st.sampled_from(
        ["KVFS_CACHE_TTL", "KVFS_WRITE_BACK", "KVFS_TIMEOUT", "KVFS_MAX_PENDING", "KVFS_CACHE_SIZE", "KVFS_SIZES",
         "KVFS_SEPARATOR", "KVFS_SETTLE", "KVFS_STATE_DIR", "KVFS_LOCAL_NAMES", "CLOUDFLARE_API_BASE_URL",
         "CLOUDFLARE_ACCOUNT_ID", "CLOUDFLARE_API_TOKEN", "KVFS_RATE", "KVFS_ON_CONFLICT"]
    ),
    ODD_TEXT.map(lambda text: text.encode("utf-8", "replace").decode().replace("\0", "")),
    max_size=4,
)  # fmt: skip


def said(parse) -> str:
    """Return the refusal, if there was one."""
    try:
        parse()
    except UserError as exc:
        return str(exc)
    return ""


@fuzzed
@given(text=ODD_TEXT, environ=ENVIRONMENT)
def test_sources_urls_sizes_and_tokens_are_read_or_refused(text, environ):
    """Any source, URL, size and token is read, or refused with one clear line that never quotes a token."""
    environ = environ | {"CLOUDFLARE_API_TOKEN": SECRET + text}
    for parse in (
        lambda: parse_source(text, environ),
        lambda: parse_source(f"cloudflare:{text}", environ),
        lambda: parse_base_url(text),
        lambda: parse_base_url(f"https://{text}"),
        lambda: load_credentials(CloudflareSource("a"), None, environ),
    ):
        assert SECRET not in said(parse)


@slowly_fuzzed
@given(environ=ENVIRONMENT)
def test_no_environment_gives_a_traceback(tmp_path_factory, environ):
    """`kvfs mount` of a wrong place is refused in a line, whatever the variables say."""
    home = tmp_path_factory.mktemp("fuzz")
    environ = {"XDG_STATE_HOME": str(home), "CLOUDFLARE_API_TOKEN": SECRET} | environ
    environ.pop("KVFS_STATE_DIR", None)  # it would be made, wherever it says
    done = CliRunner().invoke(cli, ["mount", "cloudflare:a", str(home / "missing")], env=environ)
    assert done.exit_code != 0
    assert isinstance(done.exception, SystemExit | KvfsError), done.exception
    assert SECRET not in f"{done.output}{done.exception}"


@fuzzed
@given(content=st.binary(max_size=5000))
def test_a_token_file_holds_a_token_or_is_refused(tmp_path_factory, content):
    """A token file of client or server holds a token or is refused, and the refusal quotes nothing of it."""
    path = tmp_path_factory.mktemp("fuzz") / "token"
    path.write_bytes(content)
    path.chmod(0o600)
    for read in (read_token_file, load_or_create_token):
        with contextlib.suppress(UserError):
            read(path)


@fuzzed
@given(
    content=st.binary(max_size=60)
    | JSON.map(lambda v: json.dumps(v).encode())
    | almost(b'{"pid":1,"mountpoint":"/"}')
)
def test_leftovers_of_other_daemons_are_read_with_suspicion(tmp_path_factory, content):
    """Arbitrary records of mounts and owners of journals raise no exception."""
    directory = tmp_path_factory.mktemp("fuzz")
    (directory / "record").write_bytes(content)
    read_record(directory / "record")
    journal = directory / "journal"
    held = lock(journal, "/mnt")
    try:
        Path(f"{journal}.lock").write_bytes(content)
        with contextlib.suppress(JournalLockedError):
            os.close(lock(journal, "/mnt"))
            raise AssertionError("the lock was not held")
    finally:
        os.close(held)


@fuzzed
@given(
    content=st.binary(max_size=80)
    | almost(rb"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - fuse.kvfs local:\040x rw,user_id=0,group_id=0")
)
def test_any_table_of_mounts_is_read(content):
    """Any table of mounts is read, because names of mount points are anybody's choice."""
    parse_mountinfo(content)


LINES = (
    st.binary(max_size=80)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.builds(
        lambda request, fields: json.dumps({**fields, "request": request}).encode(),
        st.sampled_from(REQUESTS),
        st.dictionaries(st.sampled_from(["timeout", "path", "seqs", "all", "lazy", "x"]), JSON, max_size=3),
    )
)


@slowly_fuzzed
@given(lines=st.lists(LINES, min_size=1, max_size=10))
def test_every_line_on_the_control_socket_is_answered_in_our_words(tmp_path_factory, lines):
    """The handlers of a real mount do each request or refuse it with a reason, and never report an internal error."""
    base = tmp_path_factory.mktemp("fuzz")

    class Reporter:
        """A reporter that reports nothing, because no test here asks it."""

        def status(self) -> dict:
            return {}

        left = rejected_item = list

    class Sender:
        """A client that records the answers."""

        async def send(self, message: dict) -> None:
            json.dumps(message)

    async def main() -> None:
        async with open_rig(base) as rig:
            ending = Ending(base / "mnt", rig.sender, 1.0)
            reporter = Reporter()
            reporter.conflicts = ConflictLog(lambda namespace, key: key, rig.now, rig.journal)
            handlers = handlers_of(Controls(rig.fs, rig.journal, rig.sender, reporter, ending))
            for line in lines:
                with trio.fail_after(3600):
                    answer = await _last_answer(
                        Sender(), line, {n: h for n, h in handlers.items() if n != "unmount"}
                    )
                assert answer["event"] in ("done", "error")
                assert answer.get("kind") != "internal", line

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
