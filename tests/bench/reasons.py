"""Reasons why kvfs is behind somewhere, and the least that it could cost there. The page shows those that apply.

There is a text for each workload and measure, or for all workloads alike; no text has a number that a run could
change.
"""

from bench.workloads import (
    BIG_READ,
    BIG_WRITE,
    COMMAND,
    CREATE,
    CREATE_INTO,
    DELETE,
    LIST,
    READ,
    RENAME,
    RENAME_FILES,
    RENAME_WARM,
    SAVE,
    STAT_WARM,
    UNCHECKED,
)

REQUESTS, TIME, TENFOLD = "requests", "time", "ten times rclone"

_LOOKED_UP = (
    "A file must be looked up before it is opened or made: a listing, then the value, one after the other."
)
_RENAME = (
    "WebDAV has MOVE, Workers KV has no rename: a list, a bulk get for every hundred values, a bulk put and a bulk "
    "delete are the least, four round trips one after the other."
)
_COMPARED = (
    "Before kvfs writes a new name, it asks whether somebody else made it meanwhile: one list for a thousand names, or "
    "one bulk get where there are a hundred or fewer. Nobody else looks."
)
_TAKEN_AWAY = (
    " kvfs also compares the values that a rename takes away before it deletes them, a bulk get for every hundred, and "
    "asks once whether the new names are free: nobody's change is lost unseen. Nobody else looks."
)
_READ = "A list, and a bulk get for every hundred keys, are the least; "
_OWN_WORK = (
    "What is not waiting for requests is the daemon's own work, in Python; *memfs* in the table of wall times does "
    "nothing else."
)

_REASONS = {
    (CREATE, REQUESTS): "The namespace is made, and a bulk put sends the tree: two are the least. "
    + _COMPARED,
    (
        CREATE,
        TIME,
    ): "Every file is made, written and journalled, one after the other, through the kernel, in Python.",
    (CREATE_INTO, REQUESTS): (
        "`cp` asks whether a directory of that name is there before it makes one, so the namespace is listed; who "
        "uploads blindly does not look. With that, two requests are the least. " + _COMPARED
    ),
    (CREATE_INTO, TIME): (
        "`cp` asks whether a directory of that name is there before it makes one: a round trip more than uploading "
        "blindly. Every file is made, written and journalled, in Python."
    ),
    (
        LIST,
        TIME,
    ): "The one request is the least; the rest is the kernel asking the daemon about every directory.",
    (STAT_WARM, TIME): "No request; what is left is the daemon, in Python, answering `readdir`.",
    (READ, REQUESTS): _READ
    + "what reading ahead asks for before it knows that all will be read comes on top.",
    (READ, TIME): _READ + "`grep` opens the next file after the last, so that reading ahead has to guess.",
    (SAVE, REQUESTS): (
        "Before a value that was read is written over, kvfs asks whether somebody else changed it, a bulk get each; "
        f"nobody else looks. *{COMMAND[UNCHECKED]}* is the same without."
    ),
    (SAVE, TIME): (
        "Before a value that was read is written over, kvfs asks whether somebody else changed it: a round trip more "
        f"for each save than those who write blindly. *{COMMAND[UNCHECKED]}* is the same without."
    ),
    (BIG_WRITE, REQUESTS): "A put is the least. " + _COMPARED,
    (BIG_WRITE, TIME): (
        _COMPARED
        + " One request is the least. 25 MiB pass through the kernel, the journal on disk, and Python, before they are "
        "sent; rclone is compiled."
    ),
    (BIG_READ, REQUESTS): _LOOKED_UP + " Two are the least for a file system; the SDK is told the key.",
    (BIG_READ, TIME): _LOOKED_UP + " Two round trips are the least; then 25 MiB pass through Python.",
    (RENAME, REQUESTS): _RENAME + _TAKEN_AWAY,
    (RENAME, TIME): _RENAME + _TAKEN_AWAY,
    (RENAME_WARM, REQUESTS): "Workers KV has no rename: a bulk put and a bulk delete are the least."
    + _TAKEN_AWAY,
    (RENAME_WARM, TIME): (
        "Workers KV has no rename: every value is sent again under its new name, and then the old names are deleted; "
        "two round trips, one after the other, are the least. WebDAV moves a directory without its content."
        + _TAKEN_AWAY
    ),
    (RENAME_FILES, REQUESTS): _RENAME + _TAKEN_AWAY,
    (RENAME_FILES, TIME): _RENAME + _TAKEN_AWAY,
    (DELETE, REQUESTS): "A list and a bulk delete are the least for who does not know the keys.",
    (DELETE, TIME): "A list and a bulk delete are the least; `rm` removes file by file, through the kernel.",
}
_OTHERWISE = {
    REQUESTS: "Not explained: it should not be so.",
    TIME: _OWN_WORK,
    TENFOLD: (
        "Not ten times as fast: rclone makes a request for every file, kvfs a few for all, so it takes many files to "
        "make the difference."
    ),
}


def reason(workload: str, measure: str) -> str:
    """Return why kvfs is behind there, and the floor."""
    return _REASONS.get((workload, measure)) or _OTHERWISE[measure]
