"""The embedded store against a dict, for any sequence of operations and any keys."""

from pathlib import Path

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clock import Clock
from support.inline import open_inline

from kvfs.core.model import Entry, Key, KeyInfo
from kvfs.store.embedded.sqlite_store import SqliteStore

KEYS = st.one_of(
    st.text(st.sampled_from("ab/%.\0\uffff\U00010000\U0010ffff"), min_size=1, max_size=4),
    st.text(min_size=1, max_size=8),
).filter(lambda key: key not in (".", ".."))
ENTRIES = st.builds(
    Entry,
    st.binary(max_size=20),
    st.sampled_from([None, b"1", b'{"a":[]}']),
    st.one_of(st.none(), st.integers(0, 200)),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, ENTRIES),
        st.tuples(st.just("bulk_put"), st.dictionaries(KEYS, ENTRIES, max_size=8)),
        st.tuples(st.just("delete"), KEYS),
        st.tuples(st.just("bulk_delete"), st.lists(KEYS, max_size=5)),
        st.tuples(st.just("advance"), st.integers(1, 100)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, prefix=KEYS, limit=st.integers(1, 4))
def test_it_agrees_with_a_dict(tmp_path_factory, steps, prefix, limit):
    """After any puts, deletes and passing of time, listings, pages, prefixes and values are those of a dict."""
    path = tmp_path_factory.mktemp("store") / "store.db"
    trio.run(_compare_with_a_dict, path, steps, prefix, limit)


async def _compare_with_a_dict(path: Path, steps: list, prefix: str, limit: int) -> None:
    clock, model = Clock(0), {}
    with open_inline(path, now=clock) as store:
        namespace = (await store.create_namespace("n")).id
        for operation, *arguments in steps:
            if operation == "advance":
                clock.advance(*arguments)
            else:
                await getattr(store, operation)(namespace, *arguments)
            _apply(model, operation, *arguments)
        live = {key: e for key, e in model.items() if e.expiration is None or e.expiration > clock()}

        for start in ("", prefix):
            expected = sorted((key for key in live if key.startswith(start)), key=str.encode)
            infos = [KeyInfo(Key(key), live[key].metadata, live[key].expiration) for key in expected]
            assert await _list(store, namespace, start, limit) == infos
        asked = [*model, Key("missing")][:100]
        assert await store.bulk_get(namespace, asked) == {key: live.get(key) for key in asked}


def _apply(model: dict, operation: str, *arguments) -> None:
    if operation == "put":
        model[arguments[0]] = arguments[1]
    elif operation == "bulk_put":
        model.update(arguments[0])
    elif operation == "delete":
        model.pop(arguments[0], None)
    elif operation == "bulk_delete":
        for key in arguments[0]:
            model.pop(key, None)


async def _list(store: SqliteStore, namespace, prefix: str, limit: int) -> list[KeyInfo]:
    page = await store.list_keys(namespace, prefix=prefix, limit=limit)
    infos = list(page.keys)
    while page.cursor is not None:
        page = await store.list_keys(namespace, prefix=prefix, limit=limit, cursor=page.cursor)
        assert 0 < len(page.keys) <= limit
        infos += page.keys
    return infos
