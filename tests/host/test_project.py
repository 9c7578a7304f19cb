"""Bindings: the namespace that a wrangler configuration names, and the message about an unreadable one."""

import pytest

from kvfs.config import CloudflareSource, parse_source
from kvfs.core.errors import UserError
from kvfs.host.project import find_project, read_project
from kvfs.workers import WranglerSource, configured_namespaces, parse_wrangler

JSONC = """{
  // the account of the project
  "account_id": "acc0",
  "kv_namespaces": [
    { "binding": "CONFIG", "id": "1111", "preview_id": "2222" },
    { "binding": "CACHE", "id": "3333", }, /* trailing commas */
    { "binding": "NEW" },
  ],
  "env": {
    "staging": { "kv_namespaces": [{ "binding": "CONFIG", "id": "4444" }] },
    "production": { "account_id": "acc1", "kv_namespaces": [{ "binding": "CONFIG", "id": "5555" }] },
    "empty": {},
  },
}
"""
TOML = """
account_id = "acc0"
[[kv_namespaces]]
binding = "CONFIG"
id = "1111"
preview_id = "2222"
[[env.staging.kv_namespaces]]
binding = "CONFIG"
id = "4444"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project whose configuration is JSONC; the current directory is deep inside it."""
    (tmp_path / "wrangler.jsonc").write_text(JSONC)
    deep = tmp_path / "src" / "deep"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "environ", "expected"),
    [
        ("cloudflare:@CONFIG", {}, CloudflareSource("acc0", "1111")),
        ("cloudflare:@CONFIG/users/", {}, CloudflareSource("acc0", "1111", "users/")),
        ("cloudflare:@CACHE", {"CLOUDFLARE_ACCOUNT_ID": "other"}, CloudflareSource("acc0", "3333")),
        ("cloudflare:@CONFIG@staging", {}, CloudflareSource("acc0", "4444")),
        ("cloudflare:@CONFIG@production", {}, CloudflareSource("acc1", "5555")),
        ("cloudflare:@CONFIG", {"CLOUDFLARE_ENV": "staging"}, CloudflareSource("acc0", "4444")),
        ("cloudflare:@CONFIG@production", {"CLOUDFLARE_ENV": "staging"}, CloudflareSource("acc1", "5555")),
    ],
)
def test_a_binding_is_the_namespace_that_the_configuration_names(place, source, environ, expected):
    """A binding names its namespace.

    The account of the file wins over the variable's, and an environment inherits it.
    """
    assert parse_source(source, environ) == expected


def test_preview_takes_the_preview_id(place):
    """`--preview` names the namespace that `wrangler dev --remote` would use."""
    assert parse_source("cloudflare:@CONFIG", {}, preview=True) == CloudflareSource("acc0", "2222")


@pytest.mark.parametrize(
    ("source", "preview", "message"),
    [
        ("cloudflare:@NOPE", False, "no KV binding 'NOPE' in its top level, which has CONFIG, CACHE, NEW"),
        (
            "cloudflare:@CONFIG@nope",
            False,
            "no environment 'nope': its environments are empty, production, staging",
        ),
        ("cloudflare:@CACHE@empty", False, "kv_namespaces are not inherited from the top level"),
        ("cloudflare:@CACHE", True, "the binding CACHE in .* has no preview_id"),
        ("cloudflare:@NEW", False, "the binding NEW in .* has no id"),
        ("cloudflare:@", False, "no binding is named"),
        ("cloudflare:@A B", False, "'A B' is not the name of a binding"),
        ("cloudflare:a/ns", True, "--preview goes with a binding"),
    ],
)
def test_a_binding_that_is_not_there_is_refused_with_those_there_are(place, source, preview, message):
    """A missing binding is refused with the file, the bindings in it and the way out."""
    with pytest.raises(UserError, match=message):
        parse_source(source, {}, preview=preview)


def test_without_a_project_a_binding_is_refused(tmp_path, monkeypatch):
    """A binding without a project is refused with the files that were looked for."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"wrangler\.json, wrangler\.jsonc, wrangler\.toml"):
        parse_source("cloudflare:@CONFIG", {})


def test_toml_says_the_same_as_jsonc(tmp_path):
    """TOML and JSONC, the formats that wrangler reads, mean the same."""
    (tmp_path / "wrangler.toml").write_text(TOML)
    project = read_project(tmp_path / "wrangler.toml")
    assert project.binding("CONFIG", "").preview_id == "2222"
    assert project.binding("CONFIG", "staging").id == "4444"
    assert project.environment("staging").account == "acc0"


def test_json_counts_before_jsonc_and_toml(tmp_path):
    """JSON wins over JSONC and TOML, as for wrangler, and a file in a directory above counts as well."""
    below = tmp_path / "below"
    below.mkdir()
    for name in ("wrangler.toml", "wrangler.jsonc"):
        (below / name).write_text("")
    assert find_project(below) == below / "wrangler.jsonc"
    (tmp_path / "wrangler.json").write_text("{}")
    assert find_project(below) == tmp_path / "wrangler.json"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("wrangler.jsonc", '{\n "a": 1,\n "b": }', r"wrangler\.jsonc:3: Unexpected"),
        ("wrangler.jsonc", "[]", r"the file is not an object"),
        ("wrangler.jsonc", '{\n\n"kv_namespaces": {}}', r"wrangler\.jsonc:3: kv_namespaces is not a list"),
        ("wrangler.jsonc", '{"kv_namespaces": [\n1]}', r"kv_namespaces\[0\] is not an object"),
        ("wrangler.jsonc", '{"kv_namespaces": [{"id": "x"}]}', r"kv_namespaces\[0\] has no binding"),
        (
            "wrangler.jsonc",
            '{"kv_namespaces": [{"binding": "A"},\n{"binding": "A"}]}',
            r"the binding A twice",
        ),
        ("wrangler.jsonc", '{\n"account_id": 5}', r"wrangler\.jsonc:2: account_id is not a text"),
        ("wrangler.jsonc", '{"env": []}', "env is not an object"),
        ("wrangler.jsonc", '{"env": {"x": 1}}', r"env\.x is not an object"),
        ("wrangler.jsonc", "[" * 100_000, "nested too deeply"),
        ("wrangler.toml", "a = 1\nb = = 2\n", r"wrangler\.toml:2: "),
    ],
)
def test_a_configuration_that_cannot_be_read_is_refused_with_its_line(tmp_path, name, text, message):
    """A malformed configuration is refused, with FILE:LINE wherever the parser knows the line."""
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_project(file)


def test_a_configuration_that_is_not_utf_8_is_refused(tmp_path):
    """A configuration that is not UTF-8 is refused, and nothing of it is guessed."""
    (tmp_path / "wrangler.json").write_bytes(b'{"account_id": "\xff"}')
    with pytest.raises(UserError, match="it is not UTF-8"):
        read_project(tmp_path / "wrangler.json")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {"namespace": None, "environment": ""}),
        ("@CONFIG", {"namespace": "CONFIG", "environment": ""}),
        ("@CONFIG@staging/a/b", {"namespace": "CONFIG", "environment": "staging", "prefix": "a/b"}),
        ("@@staging", {"namespace": None, "environment": "staging"}),
    ],
)
def test_wrangler_names_the_state_of_the_project(place, text, expected):
    """`wrangler` means by default the project around the current directory, and its `.wrangler/state`."""
    source = parse_wrangler(text, {})
    assert source.state == place / ".wrangler" / "state"
    assert source.project == place / "wrangler.jsonc"
    assert {name: getattr(source, name) for name in expected} == expected


@pytest.mark.parametrize("text", ["", "@CONFIG", "@CONFIG@staging/a/b", "@@staging"])
def test_a_wrangler_source_says_itself_so_that_it_can_be_read_again(place, monkeypatch, text):
    """A wrangler source is written so that it can be read again by the daemon, which starts in another directory."""
    source = parse_wrangler(text, {})
    monkeypatch.chdir("/")
    assert parse_source(str(source), {}) == source


def test_a_wrangler_source_can_be_a_url_or_a_state_directory(tmp_path):
    """A wrangler source can be a URL or the state directory of `wrangler dev --persist-to DIR`."""
    assert parse_wrangler("http://localhost:8787/", {}) == WranglerSource(origin="http://localhost:8787")
    assert parse_wrangler("http://[::1]:8787/@A/b", {}) == WranglerSource(
        origin="http://[::1]:8787", namespace="A", prefix="b"
    )
    (tmp_path / "v3").mkdir()
    assert parse_wrangler(str(tmp_path), {}) == WranglerSource(state=tmp_path)
    with pytest.raises(UserError, match="neither a state directory of wrangler"):
        parse_wrangler(str(tmp_path / "v3"), {})
    for url in ("http://user@host", "http://host?q", "http://:80", "http://host:x"):
        with pytest.raises(UserError, match="URL"):
            parse_wrangler(url, {})


def test_the_ids_are_those_of_wrangler_dev(place):
    """The ids are those of `wrangler dev`: preview_id wins over id, and a binding without either is its own id."""
    rows = configured_namespaces(parse_wrangler("", {}))
    assert [(row.title, row.id) for row in rows] == [("CONFIG", "2222"), ("CACHE", "3333"), ("NEW", "NEW")]
