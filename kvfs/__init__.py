"""kvfs: Cloudflare Workers KV as a file system.

The map: every room in one line (`python tests/test_map.py --write` draws it).

cache/            Knowledge of the store that could be asked again
changes/          Changes in memory: their rules, their records, the newest of each key; no I/O
cli/              The command line: `kvfs COMMAND …`, one file a command (or a few that belong …
core/             Rules. No I/O, no clock, no await, nothing from outside the standard library
daemon/           One mount from start to end: the objects, the tasks, the order of starting …
data/             Data moves: entries copied and compared between stores, directories and …
fuse/             The kernel's face: unpack, one call, pack. It decides nothing
history/          Undo: values that were overwritten or deleted through the mount, for a while
host/             This machine: its state directory, its mounts, and the socket of a daemon
journal/          Changes that the store has not got yet: first in the log, then in memory
kept/             Facts that this machine keeps of keys beside their values: modes, times, …
log/              Bytes on the disk: the log of records, files of large contents, the reserve
sender/           Journal → store: what is pending is sent, repeated, compared and set aside
server/           The REST face: Cloudflare's routes over any `Store`. It decides nothing
store/            Stores of entries: one protocol (`base.Store`), many implementations
store/embedded/   The embedded store: one SQLite file that behaves like Workers KV
store/miniflare/  Namespaces of `wrangler dev`: its state on disk, and the API of its local …
store/rest/       The client of the REST API
store/wire/       Cloudflare's JSON, both ways: used by the client and by the server
verify/           `kvfs verify`: whether an endpoint of the API behaves as kvfs assumes, tried …
vfs/              The file system of POSIX: one view of pending changes, caches and store
vfs/file/         Open files: their bytes, and how these are recorded
vfs/inode/        Inode numbers and what they stand for
vfs/rename/       Rename of a file, and of a directory with everything below it
vfs/view/         One view of a key: pending changes over caches over the store

__main__.py       `python -m kvfs`
background.py     Questions that outlive their askers: a caller may give up, and the answer …
config.py         The settings of a mount: one frozen `Config`, and the source that it names
patches.py        Changes to libraries that offer no option for what we need, with the …
pytest_plugin.py  A plugin for pytest: a server of Workers KV for tests of code that uses it
settings.py       The kinds of settings: how each is read from text, written as text, and …
warmthread.py     A thread that is kept for work of microseconds: a commit, or a sync on a …
workers.py        Sources that a Workers project names: the namespace behind a binding, and …
"""

__version__ = "0.1.0"
