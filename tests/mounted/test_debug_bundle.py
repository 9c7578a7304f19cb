"""`kvfs debug-bundle`: it has what a fault's investigation needs, and nothing that others may not see."""

import base64
import json
import stat
import tarfile
from pathlib import Path
from urllib.parse import quote

import pytest
from support.journals import NS, open_journal
from support.mounted import Api, mounted
from support.serving import Served

from kvfs.cli import main
from kvfs.cli.scrub import GONE, Scrubber
from kvfs.core.model import Key
from kvfs.host.state import log_path

pytestmark = pytest.mark.fuse

IN_FILE = "tokenInAFile0123456789ABCDEFGHIJKLMNOPQR"
IN_CONFIG = "tokenInTheConfig0123456789ABCDEFGHIJKLMN"
IN_COMMAND = "passwordOfACommand-77"
IN_LOG = "cfut_tokenThatSomebodyLogged0123456789ABCDEFG"
VALUE, META = "the-value-itself-99", "the-metadata-itself-99"
KEY, TITLE = "customer-12345", "acme & söhne"


def forms(secret: str) -> list[bytes]:
    """Return the forms that a secret may have in a file."""
    raw = secret.encode()
    return [
        raw,
        quote(secret, safe="").encode(),
        base64.b64encode(raw).rstrip(b"="),
        base64.b64encode(b"Bearer " + raw)[12:-4],
        raw.hex().encode(),
        json.dumps(secret)[1:-1].encode(),
    ]


def content(bundle: Path) -> dict[str, bytes]:
    """Return the files of a bundle."""
    with tarfile.open(bundle) as archive:
        found = {member.name: archive.extractfile(member) for member in archive}
        return {
            name.removeprefix("kvfs-debug/"): file.read() for name, file in found.items() if file is not None
        }


def test_no_secret_and_no_value_is_in_it(tmp_path: Path, server: Served, api: Api) -> None:
    """Tokens of the environment, a file, the configuration, a command, a log, keys and values are not in it.

    Names only if wanted.
    """
    api.result("POST", "", json={"title": TITLE})
    token_file = tmp_path / "token"
    token_file.write_text(IN_FILE)
    token_file.chmod(0o600)
    config = tmp_path / "config.toml"
    config.write_text(
        f'[mount]\ntoken-command = "print {IN_COMMAND}"\n\n[profile.x]\ntoken = "{IN_CONFIG}"\n'
    )
    with mounted(tmp_path, "cloudflare:", "--write-back=3600", served=server) as mount:
        api.delete(api.namespace(TITLE), "nothing")
        (mount.path / TITLE / "dir").mkdir()
        (mount.path / TITLE / "dir" / f"{KEY}-{IN_FILE}").write_text(f"{VALUE} {server.token}")
        mount.shell(f"setfattr -n user.note -v {META} {chr(39)}{TITLE}/dir/{KEY}-{IN_FILE}{chr(39)}")
        log = log_path(mount.path, mount.state)
        encoded = base64.b64encode(f"user:{server.token}".encode()).decode()
        lines = [
            f"WARNING kvfs: flush of '{TITLE}/dir/other-{KEY}': EIO: told {server.token} and {IN_LOG}",
            f"WARNING kvfs: Authorization: Bearer {IN_FILE}, Basic {encoded}, {quote(IN_FILE)}",
        ]
        log.write_text("\n".join(lines) + "\n")
        (mount.state / "errors.log").write_text(f"Traceback\n{server.token}\n")
        env = {"KVFS_TOKEN_FILE": str(token_file), "KVFS_CONFIG": str(config)}
        mount.env = {**mount.env, **env}
        made = {}
        for words in ((), ("--with-names",)):
            target = tmp_path / f"bundle{len(words)}.tar.gz"
            done = mount.kvfs("debug-bundle", "-o", str(target), *words, check=False)
            assert done.returncode == 0, done.stderr
            assert stat.S_IMODE(target.stat().st_mode) == 0o600
            made[bool(words)] = content(target), done.stdout
        mount.env = {name: value for name, value in mount.env.items() if name not in env}
        mount.sync()
    secrets = (server.token, IN_FILE, IN_CONFIG, IN_COMMAND, IN_LOG, VALUE, META)
    for with_names, (files, said) in made.items():
        everything = b"\n".join(files.values()) + said.encode()
        for form in (form for secret in secrets for form in forms(secret)):
            assert form not in everything, form
        for name in (KEY, TITLE, quote(TITLE), json.dumps(TITLE)[1:-1]):
            assert with_names or name.encode() not in everything, name
        assert (KEY.encode() in everything) == with_names
        assert GONE.encode() in files["mounts/1/log.txt"]
        check_it_is_of_use(files, said, len(f"{VALUE} {server.token}"))


def check_it_is_of_use(files: dict[str, bytes], said: str, size: int) -> None:
    """Check that the bundle has what the search for a fault needs, and that its content was announced."""
    [status] = json.loads(files["status.json"])
    assert status["pending"]["count"] == 1
    [change] = json.loads(files["journals/1.json"])["changes"]
    assert change["size"] == size
    assert change["metadata_bytes"] > len(META)
    assert b"kvfs_pending_changes" in files["mounts/1/metrics.txt"]
    assert json.loads(files["system.json"])["libraries"]["trio"] != "not installed"
    assert b"/dev/fuse can be opened" in files["doctor.txt"]
    assert [line.split()[0] for line in said.splitlines() if line.startswith("  ")] == list(files)
    assert all(name.partition("/")[0].encode() in files["about.txt"] for name in files)


def test_it_is_made_where_everything_is_broken(tmp_path: Path) -> None:
    """A killed daemon and an unreadable journal are reported in the bundle, and an existing file is not overwritten."""
    with mounted(tmp_path, f"local:{tmp_path}/store.sqlite", "--write-back=3600") as mount:
        mount.shell("mkdir ns; echo 1 > ns/a")
        mount.kill()
        for segment in (mount.state / "sources").glob("*/journal.sqlite*"):
            if segment.is_file() and segment.suffix != ".json":
                segment.write_bytes(b"damaged")
        target = tmp_path / "bundle.tar.gz"
        assert mount.kvfs("debug-bundle", "-o", str(target), check=False).returncode == 0
        files = content(target)
        assert "error" in json.loads(files["journals/1.json"])
        again = mount.kvfs("debug-bundle", "-o", str(target), check=False)
        assert again.returncode == 1
        assert "exists: name another file with -o" in again.stderr
        assert content(target) == files


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("lookup of 'ns/some key': EIO", ("lookup of", "EIO")),
        ('said "a key" twice', ("said", "twice")),
        ("known is known-key here", ("known is", "here")),
    ],
)
def test_names_in_a_log_are_hashed_whatever_is_known_of_them(text: str, kept: tuple[str, ...]) -> None:
    """In a log quoted texts and known names are hashed, and the words around stay."""
    scrub = Scrubber([], {"known-key"}, with_names=False)
    found = scrub.log(text)
    assert all(word in found for word in kept)
    assert not any(name in found for name in ("some key", "a key", "known-key"))
    assert "name-" in found
    assert scrub.log(text) == found
    assert Scrubber([], {"known-key"}, with_names=False).log(text) != found


def test_a_key_that_is_a_word_of_ours_hides_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key `token` is hashed wherever it stands, and the words of a token command are left out all the same."""
    monkeypatch.setenv("KVFS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("KVFS_TOKEN_COMMAND", f"print {IN_COMMAND}")
    journal = tmp_path / "sources" / "abc" / "journal.sqlite"
    with open_journal(journal) as opened:
        opened.record_put(NS, Key("token"), opened.stage(b"v"), metadata=None, expiration=None, base=None)
    assert main(["debug-bundle", "-o", str(tmp_path / "bundle.tar.gz")]) == 0
    found = content(tmp_path / "bundle.tar.gz")
    assert IN_COMMAND.encode() not in b"".join(found.values())


@pytest.mark.parametrize(
    "text", ["cloudflare:acc/dev/x is mounted", 'source="cloudflare:/dev"', "cloudflare:/dev"]
)
def test_a_source_keeps_its_account_and_loses_its_names(text: str) -> None:
    """A source keeps its account and loses its names, however short; a name that is hashed already is hashed once."""
    scrub = Scrubber([], {"known"}, with_names=False)
    assert "dev" not in scrub.text(text)
    assert scrub.text("cloudflare:acc/known") == f"cloudflare:acc/{scrub.name('known')}"
    assert Scrubber([], set(), with_names=True).text(text) == text
