"""Credentials: where they come from, which ones win, how they are renewed, and that nothing shows them."""

import os
from functools import partial
from pathlib import Path

import pytest
import trio
from support.standing import wait_for
from trio.testing import wait_all_tasks_blocked

from kvfs.config import (
    DEFAULT_BASE_URL,
    CloudflareSource,
    LocalSource,
    base_url_of,
    load_credentials,
    parse_source,
)
from kvfs.core.errors import UserError
from kvfs.host.credentials import (
    Credentials,
    find_credentials,
    from_command,
    from_text,
    to_text,
)
from kvfs.host.renewing import Renewing
from kvfs.host.token_file import read_token_file


def private_file(folder: Path, content: str, name: str = "token") -> Path:
    file = folder / name
    file.write_text(content)
    file.chmod(0o600)
    return file


def token_of(found: Credentials) -> str:
    """Return the bearer token of the headers."""
    return found.headers()["authorization"].removeprefix("Bearer ")


def test_the_token_comes_from_the_environment() -> None:
    """White space around the variable's token, as `echo` and files leave it, is not part of it."""
    found = load_credentials(CloudflareSource("a"), None, {"CLOUDFLARE_API_TOKEN": " abc-123\n"})
    assert found is not None
    assert found.headers() == {"authorization": "Bearer abc-123"}
    assert found.are_in_environment


def test_a_token_file_wins_over_the_environment(tmp_path: Path) -> None:
    """A token file wins over the environment, because the user named it on the command line."""
    found = find_credentials({"CLOUDFLARE_API_TOKEN": "other"}, private_file(tmp_path, "from-file\n"), None)
    assert token_of(found) == "from-file"
    assert not found.are_in_environment


def test_a_command_wins_over_the_environment() -> None:
    """A command wins over the environment, and its last line is the token, because wrangler prints a banner first."""
    command = "sh -c 'echo banner of the tool; echo; echo from-command'"
    found = find_credentials({"CLOUDFLARE_API_TOKEN": "other"}, None, command)
    assert token_of(found) == "from-command"


def test_a_key_needs_its_address_and_comes_after_a_token() -> None:
    """A key and its address become wrangler's two headers, without Authorization, and count after a token."""
    key = {"CLOUDFLARE_API_KEY": "k" * 37, "CLOUDFLARE_EMAIL": "ada@example.com"}
    found = find_credentials(key, None, None)
    assert found.headers() == {"x-auth-key": "k" * 37, "x-auth-email": "ada@example.com"}
    assert token_of(find_credentials(key | {"CLOUDFLARE_API_TOKEN": "t"}, None, None)) == "t"
    with pytest.raises(UserError, match="needs CLOUDFLARE_EMAIL"):
        find_credentials({"CLOUDFLARE_API_KEY": "k"}, None, None)


def test_systemd_gives_a_token_where_nothing_else_does(tmp_path: Path) -> None:
    """LoadCredential= of systemd gives a token where nothing else does, in a file that the group root may read too."""
    private_file(tmp_path, "from-systemd", "kvfs-token").chmod(0o440)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert token_of(find_credentials(environ, None, None)) == "from-systemd"
    assert token_of(find_credentials(environ | {"CLOUDFLARE_API_TOKEN": "t"}, None, None)) == "t"


def test_a_local_source_needs_no_token() -> None:
    """A local source needs no token, because the embedded store asks for none."""
    assert load_credentials(LocalSource(Path("/x")), None, {}) is None


def test_no_token_names_the_ways_to_give_one() -> None:
    """The message about a missing token, which a new user meets first, names the ways to give one."""
    with pytest.raises(UserError, match=r"CLOUDFLARE_API_TOKEN.*--token-file.*--token-command.*api-tokens"):
        find_credentials({"CLOUDFLARE_API_TOKEN": "  "}, None, None)


def test_a_file_and_a_command_exclude_each_other(tmp_path: Path) -> None:
    """A file and a command exclude each other, because one of them would be ignored in silence."""
    with pytest.raises(UserError, match="exclude"):
        find_credentials({}, private_file(tmp_path, "t"), "echo t")


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "schlüssel", "nul\0"])
def test_a_token_that_no_header_can_hold_is_refused_without_showing_it(token: str) -> None:
    """A token with a line break, which would be another header, is refused without showing it."""
    with pytest.raises(UserError, match="empty or holds spaces") as caught:
        find_credentials({"CLOUDFLARE_API_TOKEN": token}, None, None)
    assert token not in str(caught.value)


def test_a_global_api_key_is_said_to_be_one() -> None:
    """A global API key given as a token is recognised by its prefix, because the API would only ever refuse it."""
    with pytest.raises(UserError, match=r"Global API key.*CLOUDFLARE_API_KEY") as caught:
        find_credentials({"CLOUDFLARE_API_TOKEN": "cfk_0123456789"}, None, None)
    assert "0123456789" not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("/no/such/program", "cannot run /no/such/program"),
        ("sh -c 'echo s3cret-word; echo s3cret-word >&2; exit 3'", "failed with status 3"),
        ("true", "empty"),
        ("echo two words", "spaces"),
        ("echo '{'", "neither a token nor JSON"),
        ("sh -c 'unclosed", "quotation"),
        ("''", "cannot run"),
    ],
)
def test_a_command_that_gives_no_token_is_named_and_not_quoted(command: str, reason: str) -> None:
    """A command that gives no token is named, and its output is not quoted because it may hold the token."""
    with pytest.raises(UserError, match=reason) as caught:
        find_credentials({}, None, command)
    assert "s3cret-word" not in str(caught.value)


def test_a_command_may_answer_json() -> None:
    """A command may answer JSON as `wrangler auth token --json` does: a token, or a key with its address."""
    assert token_of(find_credentials({}, None, """echo '{"type":"oauth","token":"abc"}'""")) == "abc"
    found = find_credentials({}, None, """echo '{"key":"k1","email":"a@b"}'""")
    assert found.headers() == {"x-auth-key": "k1", "x-auth-email": "a@b"}


def test_the_word_wrangler_alone_is_short_for_its_command(tmp_path: Path, monkeypatch) -> None:
    """`--token-command wrangler` is short for wrangler's whole command."""
    program = private_file(tmp_path, '#!/bin/sh\n[ "$*" = "auth token" ] && echo from-wrangler\n', "wrangler")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert token_of(find_credentials({}, None, "wrangler")) == "from-wrangler"


async def test_a_file_is_read_again_after_a_refusal(tmp_path: Path) -> None:
    """After a refusal the file is read again, and its earlier content stays a secret that no text may hold."""
    file = private_file(tmp_path, "first-token")
    found = find_credentials({}, file, None)
    assert not found.has_changed()
    file.write_text("second-token")
    assert found.has_changed()
    assert token_of(found) == "second-token"
    assert not await Renewing(found).renew()
    assert set(found.secrets()) == {"first-token", "second-token"}


async def test_a_file_that_is_gone_or_unsafe_leaves_the_token_as_it_is(tmp_path: Path, expect_log) -> None:
    """A file that is gone or unsafe leaves the token as it is, so an edit of the file does not end a mount."""
    expect_log("token file")
    file = private_file(tmp_path, "first-token")
    found = find_credentials({}, file, None)
    file.chmod(0o644)
    assert not found.has_changed()
    file.unlink()
    assert not await Renewing(found).renew()
    assert token_of(found) == "first-token"


async def test_a_command_is_asked_again_and_not_in_between(tmp_path: Path) -> None:
    """A command is asked again after a refusal and not in between, because it may be slow or ask for a fingerprint."""
    count = tmp_path / "count"
    found = find_credentials({}, None, f"sh -c 'echo x >> {count}; wc -l < {count}'")
    assert not found.has_changed()
    assert token_of(found) == "1"
    with trio.fail_after(10):
        assert await Renewing(found).renew()
    assert token_of(found) == "2"


def test_another_process_of_ours_need_not_ask_the_command() -> None:
    """The daemon gets the token that its parent had, and need not ask the command."""
    secret = from_text(to_text(find_credentials({}, None, "echo handed-on").secret))
    found = Credentials(from_command(["/no/such/program"]), secret)
    assert token_of(found) == "handed-on"


def test_credentials_do_not_show_the_token() -> None:
    """The repr of credentials hides the token, because a repr ends in logs and tracebacks."""
    found = find_credentials({"CLOUDFLARE_API_TOKEN": "s3cret-word"}, None, None)
    assert "s3cret-word" not in f"{found!r} {found} {found.secret!r} {found.origin!r}"


def test_a_token_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A token file that others can read is refused, and the message says how to change that."""
    file = private_file(tmp_path, "abc")
    file.chmod(0o640)
    with pytest.raises(UserError, match=f"chmod 600 {file}"):
        read_token_file(file)


def test_a_token_file_that_is_none_is_refused(tmp_path: Path) -> None:
    """A token file that is missing, a directory, or a pipe that would never answer is refused."""
    with pytest.raises(UserError, match="No such file"):
        read_token_file(tmp_path / "missing")
    with pytest.raises(UserError, match="directory"):
        read_token_file(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(UserError, match="not a regular file"):
        read_token_file(tmp_path / "pipe")


def test_the_region_names_the_api() -> None:
    """The region chooses the API as wrangler's variable does, and a given base URL wins over it."""
    region = {"CLOUDFLARE_COMPLIANCE_REGION": "fedramp_high"}
    assert base_url_of({}) == DEFAULT_BASE_URL
    assert base_url_of(region) == "https://api.fed.cloudflare.com/client/v4"
    assert base_url_of(region | {"CLOUDFLARE_API_BASE_URL": "https://x/y"}) == "https://x/y"
    assert parse_source("cloudflare:a", region).base_url == base_url_of(region)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="one of public, fedramp_high"):
        base_url_of({"CLOUDFLARE_COMPLIANCE_REGION": "moon"})


async def test_who_gives_up_leaves_the_command_to_the_others(tmp_path: Path) -> None:
    """A caller that gives up leaves the command to others: it runs once at a time, and its answer serves the next."""
    count = tmp_path / "count"
    script = tmp_path / "token"
    script.write_text(
        f"#!/bin/sh\necho x >> {count}\n[ $(wc -l < {count}) = 1 ] || sleep 1\nwc -l < {count}\n"
    )
    script.chmod(0o700)
    found = find_credentials({}, None, str(script))
    renewing = Renewing(found)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(renewing.background.serve)
        await wait_all_tasks_blocked()
        with trio.move_on_after(0.2) as scope:
            await renewing.renew()
        assert scope.cancelled_caught
        with trio.fail_after(20):
            assert await renewing.renew()
        assert token_of(found) == "2"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("served", [True, False])
async def test_a_command_that_hangs_ends_with_the_daemon(tmp_path: Path, served: bool) -> None:
    """A hanging command and the processes it started end at once with the daemon."""
    script, pid = tmp_path / "token", tmp_path / "pid"
    script.write_text(f"#!/bin/sh\nif [ -e {pid} ]; then sleep 100 & echo $! > {pid}; wait; fi\necho first\n")
    script.chmod(0o700)
    found = find_credentials({}, None, str(script))
    renewing = Renewing(found)
    pid.touch()
    begun = trio.current_time()
    with trio.move_on_after(60) as scope:
        async with trio.open_nursery() as nursery:
            if served:
                nursery.start_soon(renewing.background.serve)
                await wait_all_tasks_blocked()
            nursery.start_soon(renewing.renew)
            await trio.to_thread.run_sync(wait_for, pid.read_text)
            scope.cancel()
    assert trio.current_time() - begun < 30
    await trio.to_thread.run_sync(wait_for, partial(is_gone, int(pid.read_text())))


def is_gone(process: int) -> bool:
    """Return True if there is no process, or one that has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True
