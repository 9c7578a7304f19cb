"""The journal's rules for puts, deletions, renames and acknowledgements."""

import pytest
import trio
from msgspec.structs import replace
from support.journal_check import check_journal
from support.journals import NS, START, ack_all, delete, keys, open_journal, put, shown

from kvfs.core.digest import digest
from kvfs.core.errors import JournalError
from kvfs.core.model import ChangeKind, ChangeState, Key, NamespaceId
from kvfs.journal.outbox import FAILURE_CHARS
from kvfs.journal.writer import Move
from kvfs.kept.local import LocalAttrs

A, B, C = Key("a"), Key("b"), Key("c")
ATTRS = LocalAttrs(0o640, 100, 101, None)


@pytest.fixture
def journal(tmp_path):
    """Yield an empty journal whose invariants hold at the end, also after a reopen."""
    path = tmp_path / "state" / "journal.db"
    with open_journal(path) as journal:
        yield journal
        check_journal(journal)
        before = list(journal.under(NS, ""))
    with open_journal(path) as again:
        check_journal(again)
        assert list(again.under(NS, "")) == before


def test_a_put_can_be_read_back_with_all_it_said(journal):
    """A put is read back with the value, metadata, expiration and base that it was given."""
    seq = put(journal, "a", b"\0text", metadata=b'{"x":1}', expiration=1_900_000_000, base=digest(b"old"))

    change = journal.get(NS, A)
    assert (change.seq, change.kind, change.state) == (seq, ChangeKind.PUT, ChangeState.PENDING)
    assert (change.size, change.metadata, change.expiration) == (5, b'{"x":1}', 1_900_000_000)
    assert (change.base, change.attempted, change.recorded_at) == (digest(b"old"), False, START)
    assert journal.value(change) == b"\0text"
    assert journal.digest(change) == digest(b"\0text")


def test_a_value_rewritten_is_one_change(journal):
    """A rewritten value is one change: only the newest is pending, under a higher number, and counts its bytes."""
    first = put(journal, "a", b"one")
    old = journal.get(NS, A)
    second = put(journal, "a", b"second")

    assert second > first
    assert [change.seq for change in journal.pending()] == [second]
    assert (journal.pending_count, journal.pending_bytes) == (1, 6)
    with pytest.raises(KeyError):
        journal.value(old)


def test_keys_of_any_text_are_kept_apart(journal):
    """NUL, other scripts and near-equal keys are different keys, in the order of KV's listings."""
    names = ["a", "a\0", "a\0b", "ä", "日本", "\U0010ffff", "a/b", "A", " "]
    for name in names:
        put(journal, name, name.encode())
    assert shown(journal) == {name: name.encode() for name in names}
    assert keys(journal.under(NS, "")) == sorted(names, key=str.encode)


def test_a_file_made_and_removed_in_the_window_is_never_sent(journal):
    """A file known absent, put, and deleted before any attempt leaves nothing to send."""
    put(journal, "a", base=b"")
    assert delete(journal, "a") is None
    assert journal.get(NS, A) is None
    assert journal.pending() == []


def test_removing_what_is_known_absent_leaves_no_trace(journal):
    """The store need not hear of a key it does not have."""
    assert delete(journal, "a", base=b"") is None
    assert journal.get(NS, A) is None


@pytest.mark.parametrize("base", [None, digest(b"old")], ids=["unknown", "present"])
def test_removing_a_key_the_store_may_have_is_a_tombstone(journal, base):
    """Removing a key that the store may have is a tombstone, if a new value was recorded in between or not."""
    put(journal, "a", base=base)
    seq = delete(journal, "a")
    change = journal.get(NS, A)
    assert change.seq == seq
    assert change.is_tombstone
    assert (change.base, change.size) == (base, 0)


def test_removing_what_may_be_on_the_wire_is_a_tombstone(journal):
    """A put that was attempted may arrive, so its deletion is a tombstone."""
    seq = put(journal, "a", base=b"")
    journal.mark_attempted([seq])
    assert delete(journal, "a") is not None
    assert journal.get(NS, A).is_tombstone


def test_rewriting_does_not_forget_what_may_be_on_the_wire(journal):
    """If an older put was attempted and the newer was not, the key may exist all the same."""
    journal.mark_attempted([put(journal, "a", b"1", base=b"")])
    put(journal, "a", b"2", base=b"")
    assert delete(journal, "a") is not None


def test_a_key_removed_made_and_removed_again_stays_removed(journal):
    """A put between two deletions does not make the first one forgotten."""
    delete(journal, "a", base=digest(b"old"))
    put(journal, "a", base=b"")
    assert delete(journal, "a", base=b"") is not None
    assert journal.get(NS, A).is_tombstone


def test_removing_twice_is_one_tombstone(journal):
    """A second deletion of a key changes nothing."""
    assert delete(journal, "a") == delete(journal, "a")
    ack_all(journal)
    assert delete(journal, "a") is None
    assert journal.get(NS, A).state is ChangeState.SETTLING


def test_a_change_on_the_way_while_its_key_is_rewritten_stays_pending(journal):
    """Acknowledging the older number does nothing to the newer change."""
    old = put(journal, "a", b"old")
    journal.mark_attempted([old])
    new = put(journal, "a", b"new")
    journal.ack([old], START)

    assert [change.seq for change in journal.pending()] == [new]
    assert journal.value(journal.get(NS, A)) == b"new"


def test_an_acknowledged_change_answers_until_it_settles(journal):
    """An acknowledged change answers until it settles, because the store may answer stale for a minute."""
    put(journal, "a", b"mine")
    ack_all(journal, at=START)

    assert journal.pending() == []
    assert journal.settle(START + 89, 90) == []
    assert journal.value(journal.get(NS, A)) == b"mine"
    assert keys(journal.settle(START + 90, 90)) == ["a"]
    assert journal.get(NS, A) is None


def test_a_clock_set_back_does_not_keep_a_settled_change_for_hours(journal):
    """An acknowledgement from the future settles one window from now."""
    put(journal, "a")
    ack_all(journal, at=START + 7200)
    journal.settle(START, 90)
    assert keys(journal.settle(START + 90, 90)) == ["a"]


def test_settling_goes_in_portions(journal):
    """Settling goes in portions, because many thousands at once would hold the loop."""
    for name in "abcde":
        put(journal, name)
    ack_all(journal)
    assert [len(journal.settle(START + 90, 90, 2)) for _ in range(4)] == [2, 2, 1, 0]


def test_a_change_over_a_settling_one_knows_what_the_store_has(journal):
    """The base of a change over a settling one is the value that was just sent, whatever the caller had read before."""
    put(journal, "a", b"sent", base=b"")
    ack_all(journal)
    seq = put(journal, "a", b"next", base=digest(b"long ago"))

    assert journal.get(NS, A).base == digest(b"sent")
    assert digest(b"sent") in journal.row(seq).ancestors


def test_a_change_over_a_settling_tombstone_knows_the_key_is_absent(journal):
    """A change over a settling tombstone knows that the key is absent, but a deletion of it is sent again."""
    delete(journal, "a", base=digest(b"old"))
    ack_all(journal)
    put(journal, "a")
    assert journal.get(NS, A).base == b""
    assert delete(journal, "a") is not None


def test_amending_keeps_the_content(journal):
    """Other metadata or another expiration makes a new change with the same body."""
    put(journal, "a", b"value", metadata=b"1", expiration=1_900_000_000)
    first = journal.get(NS, A)
    seq = journal.amend(NS, A, metadata=None)

    change = journal.get(NS, A)
    assert change.seq == seq > first.seq
    assert (change.metadata, change.expiration) == (None, 1_900_000_000)
    assert journal.value(change) == b"value"
    journal.amend(NS, A, expiration=None)
    assert journal.get(NS, A).expiration is None


def test_amending_makes_a_settled_or_rejected_change_pending_again(journal):
    """Amending a settled or rejected change makes it pending, because it has to be sent and may now be accepted."""
    put(journal, "a", metadata=b"1")
    ack_all(journal)
    put(journal, "b")
    journal.reject(journal.get(NS, B).seq, "bad")

    journal.amend(NS, A, metadata=b"2")
    journal.amend(NS, B, metadata=b"2")
    assert {change.state for change in journal.pending()} == {ChangeState.PENDING}
    assert keys(journal.pending()) == ["a", "b"]
    assert journal.get(NS, B).error is None


@pytest.mark.parametrize("prepare", [lambda j: None, lambda j: delete(j, "a")], ids=["nothing", "tombstone"])
def test_amending_needs_a_put(journal, prepare):
    """Amending needs a put: without a value here, the caller has to load it first."""
    prepare(journal)
    with pytest.raises(KeyError):
        journal.amend(NS, A, metadata=b"1")


def test_a_rejected_change_is_set_aside_and_readable(journal):
    """A rejected change keeps its reason and its content, is not sent, and can be sent again by the user."""
    seq = put(journal, "a", b"content")
    journal.mark_attempted([seq])
    journal.reject(seq, "metadata must be valid json")

    change = journal.get(NS, A)
    assert journal.pending() == []
    assert journal.rejected() == [change]
    assert (change.state, change.error) == (ChangeState.REJECTED, "metadata must be valid json")
    assert journal.value(change) == b"content"

    again = journal.retry(NS, A)
    assert [c.seq for c in journal.pending()] == [again]
    assert again > seq
    assert journal.retry(NS, A) is None


def test_discarding_lets_the_store_answer_again(journal):
    """After the user discards a change the store answers again."""
    seq = put(journal, "a", attrs=ATTRS)
    journal.reject(seq, "bad")
    assert journal.discard(NS, A)
    assert journal.get(NS, A) is None
    assert journal.attributes.file_attrs(NS, A) is None
    assert not journal.discard(NS, A)


def test_rejecting_an_older_number_does_nothing(journal):
    """Rejecting an older number does nothing, because a newer change of the key may be acceptable."""
    old = put(journal, "a", b"bad")
    put(journal, "a", b"good")
    journal.reject(old, "bad")
    assert journal.rejected() == []


def test_an_error_of_a_pending_change_is_kept_with_it(journal):
    """An error of a pending change is kept for `user.kvfs.error` and the status, until an acknowledgement clears it."""
    seq = put(journal, "a")
    journal.set_error([seq, seq + 99], "try again")
    assert journal.get(NS, A).error == "try again"
    ack_all(journal)
    assert journal.get(NS, A).error is None


def test_the_last_failed_try_is_remembered(tmp_path):
    """With its time, by the next mount too, after a snapshot as well; what arrived has none."""
    path = tmp_path / "failed.db"
    with open_journal(path) as journal:
        seqs = [put(journal, key) for key in "abc"]
        journal.note_failure([*seqs[:2], 99], "HTTP 503" + "x" * 1000, START + 1)
        journal.ack(seqs[1:2], START + 2)
    with open_journal(path) as journal:
        trio.run(journal.tidy)
        failed = journal.get(NS, A).failed
        assert failed.text.startswith("HTTP 503x")
        assert len(failed.text) == FAILURE_CHARS
        assert failed.at == START + 1
        assert journal.get(NS, Key("b")).failed is None
        assert journal.get(NS, Key("c")).failed is None
        check_journal(journal)
    with open_journal(path) as journal:
        assert journal.get(NS, A).failed == failed
        put(journal, "a", b"newer")
        assert journal.get(NS, A).failed is None


def test_an_outage_does_not_fill_the_log(journal):
    """An unchanged reason is written once a minute."""
    seq = put(journal, "a")
    logged = []
    for second in range(121):
        journal.note_failure([seq], "HTTP 503", START + second)
        logged.append(journal.get(NS, A).failed.at - START)
    assert sorted(set(logged)) == [0, 60, 120]
    journal.note_failure([seq], "HTTP 500", START + 121)
    assert journal.get(NS, A).failed.text == "HTTP 500"


def test_a_local_file_is_never_sent(journal):
    """A local file is kept like any other and never sent, and removing it leaves nothing."""
    put(journal, ".a.swp", b"swap", local=True)
    assert journal.pending() == []
    assert journal.get(NS, Key(".a.swp")).state is ChangeState.LOCAL
    assert shown(journal) == {".a.swp": b"swap"}
    assert delete(journal, ".a.swp") is None
    assert shown(journal) == {}


def test_a_local_file_over_a_deletion_under_way_is_an_ordinary_one(journal):
    """A local file over a deletion under way is an ordinary one, or the deletion would be forgotten."""
    delete(journal, "x~", base=digest(b"published"))
    put(journal, "x~", b"new", local=True)
    assert journal.get(NS, Key("x~")).state is ChangeState.PENDING


def test_a_local_file_over_a_deletion_that_arrived_stays_local(journal):
    """A local file over a deletion that arrived stays local, because the store does not have the key any more."""
    delete(journal, "x~", base=digest(b"published"))
    ack_all(journal)
    put(journal, "x~", b"new", local=True)
    assert journal.get(NS, Key("x~")).state is ChangeState.LOCAL


def test_renaming_a_pending_file_moves_the_value_without_copying_it(journal):
    """A rename of a pending file copies no value, and one that was never sent leaves no deletion of its old name."""
    put(journal, "a", b"value", metadata=b"1", attrs=ATTRS)
    journal.move(NS, [Move(A, B, b"1", None, base_new=b"")])

    assert shown(journal) == {"b": b"value"}
    assert journal.get(NS, B).metadata == b"1"
    assert journal.attributes.file_attrs(NS, B) == ATTRS
    assert journal.attributes.file_attrs(NS, A) is None


def test_renaming_a_file_of_the_store_puts_first_and_deletes_after(journal):
    """A rename of a file of the store puts first, and the deletion of the old name waits for that put."""
    journal.move(NS, [Move(A, B, None, None, body=journal.stage(b"read"), base_old=digest(b"read"))])

    put_b, tombstone = journal.pending()
    assert (put_b.key, tombstone.key, tombstone.is_tombstone) == ("b", "a", True)
    assert journal.blocker(tombstone) == put_b
    ack = [put_b.seq]
    journal.mark_attempted(ack)
    journal.ack(ack, START)
    assert journal.blocker(tombstone) is None


def test_a_refused_put_keeps_the_old_name_of_a_rename(journal):
    """A refused put has not landed, so the deletion of the old name goes on waiting."""
    journal.move(NS, [Move(A, B, None, None, body=journal.stage(b"x"), base_old=None)])
    put_b, tombstone = journal.pending()
    journal.reject(put_b.seq, "never")
    assert journal.blocker(tombstone).key == "b"


def test_what_waits_for_a_put_follows_it(journal):
    """A deletion follows the put that it waits for when that is rewritten, renamed on or kept under another key."""
    journal.move(NS, [Move(A, B, None, None, body=journal.stage(b"x"), base_old=None, base_new=b"")])
    tombstone = journal.get(NS, A)
    put(journal, "b", b"rewritten")
    assert journal.blocker(tombstone).seq == journal.get(NS, B).seq
    journal.move(NS, [Move(B, C, None, None, base_new=b"")])
    assert journal.get(NS, B) is None
    assert journal.blocker(tombstone).seq == journal.get(NS, C).seq
    journal.set_beside(journal.get(NS, C), Key("copy"))
    assert journal.blocker(tombstone).key == "copy"


def test_what_waits_for_a_put_that_was_deleted_is_free(journal):
    """`mv a b; rm b` frees the deletion of a, because both names are to be absent."""
    journal.move(NS, [Move(A, B, None, None, body=journal.stage(b"x"), base_old=None, base_new=b"")])
    tombstone = journal.get(NS, A)
    delete(journal, "b")
    assert journal.blocker(tombstone) is None


def test_discarding_the_new_name_of_a_rename_keeps_the_old_one(journal):
    """Discarding the new name of a rename keeps the old one, because it is then the only copy."""
    journal.move(NS, [Move(A, B, None, None, body=journal.stage(b"x"), base_old=None)])
    journal.reject(journal.get(NS, B).seq, "never")
    journal.discard(NS, B)
    assert shown(journal) == {}


def test_renaming_many_is_one_transaction(journal):
    """A rename of many names is one transaction, and one that cannot be done undoes them all."""
    put(journal, "d/1", b"1")
    with pytest.raises(KeyError):
        journal.move(
            NS,
            [Move(Key("d/1"), Key("e/1"), None, None), Move(Key("d/2"), Key("e/2"), None, None)],
        )
    assert shown(journal) == {"d/1": b"1"}
    check_journal(journal)


def test_a_name_cannot_be_moved_and_moved_over_at_once(journal):
    """A name cannot be moved and moved over at once, because its final content would depend on the order."""
    put(journal, "a")
    put(journal, "b")
    with pytest.raises(ValueError, match="moved over"):
        journal.move(NS, [Move(A, B, None, None), Move(B, C, None, None)])


def test_renaming_over_a_file_replaces_it(journal):
    """A rename over a file replaces it, and keeps what is known of the store's value under that name."""
    put(journal, "b", b"old", base=digest(b"theirs"), attrs=LocalAttrs(0o600, 1, 1, None))
    put(journal, "a", b"new", base=b"")
    journal.move(NS, [Move(A, B, None, None)])
    assert shown(journal) == {"b": b"new"}
    assert journal.get(NS, B).base == digest(b"theirs")
    assert journal.attributes.file_attrs(NS, B) is None


def test_renaming_between_local_and_ordinary_names(journal):
    """A rename to a local name deletes the old name at the store and keeps the file here.

    The rename back sends it whole.
    """
    body = journal.stage(b"text")
    journal.move(NS, [Move(A, Key("a~"), None, None, body=body, base_old=digest(b"text"), local=True)])
    assert journal.get(NS, Key("a~")).state is ChangeState.LOCAL
    assert keys(journal.pending()) == ["a"]
    assert journal.blocker(journal.get(NS, A)) is None

    journal.move(NS, [Move(Key("a~"), A, None, None)])
    assert shown(journal) == {"a": b"text"}
    assert journal.get(NS, A).state is ChangeState.PENDING


def test_a_transaction_is_all_or_nothing(journal):
    """A failed transaction takes back memory and file together, attributes and directories as well."""
    put(journal, "a", b"before", attrs=ATTRS)

    def half():
        with journal.transaction():
            put(journal, "a", b"after")
            delete(journal, "a")
            put(journal, "b")
            journal.attributes.set_file_attrs(NS, A, replace(ATTRS, mode=0))
            raise LookupError

    with pytest.raises(LookupError):
        half()
    assert shown(journal) == {"a": b"before"}
    assert keys(journal.pending()) == ["a"]
    assert journal.attributes.file_attrs(NS, A) == ATTRS
    check_journal(journal)


def test_order_survives_a_rollback(journal):
    """Pending changes come by number, even if a failed transaction had taken some away."""
    for name in "abc":
        put(journal, name)

    def fails():
        with journal.transaction():
            delete(journal, "a")
            raise LookupError

    with pytest.raises(LookupError):
        fails()
    assert keys(journal.pending()) == ["a", "b", "c"]


def test_a_part_that_failed_dooms_the_whole(journal):
    """A part that failed dooms the whole, so an error caught inside does not commit half of a rename."""

    def swallows():
        with journal.transaction():
            put(journal, "b")
            with pytest.raises(KeyError):
                journal.amend(NS, A, metadata=b"1")

    with pytest.raises(JournalError, match="part"):
        swallows()
    assert shown(journal) == {}


def test_children_are_found_by_prefix(journal):
    """Children are found by prefix in key order, as they were at the call, and tombstones are no children."""
    for name in ["d/1", "d/2", "d", "d0", "c/1"]:
        put(journal, name)
    changes = journal.under(NS, "d/")
    delete(journal, "d/1")
    assert keys(changes) == ["d/1", "d/2"]
    assert journal.any_under(NS, "d/")
    delete(journal, "d/2", base=None)
    assert not journal.any_under(NS, "d/")
    assert not journal.any_under(NamespaceId("other"), "")


def test_a_deleted_namespace_leaves_nothing(journal):
    """A deleted namespace leaves nothing, and the others stay as they are."""
    other = NamespaceId("other")
    put(journal, "a")
    put(journal, "a", namespace=other, attrs=ATTRS)
    journal.attributes.namespace_first_seen(other, START)
    journal.drop_namespace(other)
    assert shown(journal, other) == {}
    assert journal.attributes.file_attrs(other, A) is None
    assert keys(journal.pending()) == ["a"]


def test_an_expired_change_becomes_what_the_store_must_hear(journal):
    """An expired change becomes a deletion where the store may have the key, and nothing where it never did."""
    put(journal, "a", expiration=int(START) + 1, base=b"")
    put(journal, "b", expiration=int(START) + 1, base=digest(b"old"))
    for change in journal.pending():
        journal.expire(change)
    assert shown(journal) == {"b": None}


def test_a_conflicting_change_moves_beside_its_key(journal):
    """A conflicting change moves beside its key with its metadata and expiration, and the store's value shows again."""
    put(journal, "a", b"mine", metadata=b"1", expiration=1_900_000_000, base=digest(b"x"), attrs=ATTRS)
    journal.set_beside(journal.get(NS, A), B)
    change = journal.get(NS, B)
    assert shown(journal) == {"b": b"mine"}
    assert (change.metadata, change.expiration, change.base) == (b"1", 1_900_000_000, b"")
    assert journal.attributes.file_attrs(NS, B) == ATTRS


def test_how_long_a_key_waits_counts_from_its_first_rewrite(tmp_path):
    """The age of a change counts from its first rewrite, so a file appended to every second is still sent."""
    now = START
    with open_journal(tmp_path / "j.db", now=lambda: now) as journal:
        seq = put(journal, "a")
        now += 20
        seq = put(journal, "a")
        assert (journal.totals.oldest_pending_at, journal.news.last_change_at) == (START, START + 20)
        journal.mark_attempted([seq])
        now += 20
        put(journal, "a")
        assert journal.totals.oldest_pending_at == START + 40


def test_totals_count_by_state(journal):
    """Totals count changes by state, as `kvfs status` prints them."""
    put(journal, "s")
    ack_all(journal)
    put(journal, "p", b"12345")
    put(journal, "l", local=True)
    journal.reject(put(journal, "r"), "bad")
    found = journal.totals
    assert (found.pending_count, found.pending_bytes) == (1, 5)
    assert (found.settling_count, found.rejected_count, found.local_count) == (1, 1, 1)
    assert (found.oldest_pending_at, journal.news.last_change_at) == (START, START)
    assert "1 pending" in repr(journal)


async def test_waiting_for_a_change_ends_with_one(journal, autojump_clock):
    """A wait for a change ends with one and not before.

    An acknowledgement is one, because it may free a change that waited.
    """
    seen = []

    async def watch():
        while True:
            await journal.news.wait_changed()
            seen.append(journal.news.generation.number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.sleep(10)
        assert seen == []
        put(journal, "a")
        await trio.sleep(1)
        assert len(seen) == 1
        ack_all(journal)
        await trio.sleep(1)
        assert len(seen) == 2
        nursery.cancel_scope.cancel()


async def test_waiting_for_a_full_body_ends_with_it(journal, autojump_clock):
    """A wait for a full body ends by count or by bytes, at once when it is full already."""
    put(journal, "a", b"12345")
    await journal.news.wait_full(1, 1000)
    await journal.news.wait_full(1000, 5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.news.wait_full, 2, 1000)
        await trio.sleep(1)
        put(journal, "b")
