"""Every error of kvfs, by what the caller must do about it.

    KvfsError
    ├── UserError                     wrong use: one clear line on the terminal, no traceback
    ├── StoreError                    the store did not do what was asked
    │   ├── UnavailableError          retry later (network, 429, 5xx, nonsense); may carry retry_after seconds
    │   │   ├── RateLimitedError      429: everybody waits
    │   │   ├── UncertainError        a bulk answer whose counts do not add up: ask, or send all again
    │   │   ├── BodyTooLargeError     413, 524 and time-outs of big bodies: retry in smaller pieces
    │   │   ├── OutOfTimeError        the caller's own time was over: it says nothing about the service
    │   │   ├── UnreachableError      no answer at all: it says nothing about what was asked
    │   │   │   ├── NoAnswerError     not in time: the service is away, or stuck on this one request
    │   │   │   └── NotSentError      there was no connection
    │   │   │       └── UntrustedError TLS: the certificate is not accepted, or it is no TLS
    │   │   ├── BlockedError          401, 403 that are no answer of the API: halve to the culprit
    │   │   └── UnknownRefusalError   4xx with a code that nobody knows: it proves nothing
    │   ├── DeniedError               credentials: keep everything, tell the user
    │   │   ├── QuotaError            the account's allowance is used up (10048)
    │   │   └── AccountError          the account's plan or settings (10017, 10026)
    │   ├── RejectedError             this content never
    │   │   └── NotTextError          bulk get met a binary value (10029): ask singly
    │   ├── OvertakenError            somebody else has written meanwhile: compare, and write again
    │   ├── FixedNamespacesError      the store's namespaces are made elsewhere, by a configuration file
    │   ├── NamespaceNotFoundError    the namespace is gone (10013)
    │   └── TitleExistsError          another namespace has the title (10014)
    ├── JournalError                  the journal cannot be used as it is; never deleted
    │   ├── JournalLockedError        another daemon has it: carries pid and mount point
    │   └── JournalUnreadableError    damaged, or of a newer version
    └── FileError                     a system call cannot be answered with success; `fuse/convert.py` maps
        └── (one class a reason)      each class to its errno in one table

A message names the thing, the limit and the way out, and never holds a token.
"""

from collections.abc import Iterator
from typing import TypeVar

ErrorT = TypeVar("ErrorT", bound=BaseException)


class KvfsError(Exception):
    """Base of everything kvfs raises on purpose."""


class UserError(KvfsError):
    """Wrong use or a missing prerequisite; the message is shown as it is."""


class StoreError(KvfsError):
    """The store did not do what was asked.

    `code` is the API's own error code (0 when there is none), `status` its HTTP status (0 likewise).
    """

    def __init__(self, message: str, *, code: int = 0, status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class UnavailableError(StoreError):
    """Try again later. `retry_after` is what the server asked for, in seconds, or None."""

    def __init__(
        self, message: str, *, code: int = 0, status: int = 0, retry_after: float | None = None
    ) -> None:
        super().__init__(message, code=code, status=status)
        self.retry_after = retry_after


class RateLimitedError(UnavailableError):
    """HTTP 429: the budget of requests is used up, or a key was written twice within a second."""


class UncertainError(UnavailableError):
    """A bulk write was answered, and which of its keys were done cannot be told from the answer."""


class BodyTooLargeError(UnavailableError):
    """The request was too much for the server (413, 524): the same in smaller pieces may pass."""


class OutOfTimeError(UnavailableError):
    """The system call that asked had no time left to wait for the answer. The service may be well."""


class UnreachableError(UnavailableError):
    """No answer came: no connection, none in time, or not a whole one. Other requests would fare the same."""


class NoAnswerError(UnreachableError):
    """The request left and nothing came back in time: the service is away, or stuck on what was asked."""


class NotSentError(UnreachableError):
    """There was no connection: nothing of the request left this machine."""


class UntrustedError(NotSentError):
    """TLS failed: the certificate is not accepted, or the other side speaks no TLS. Waiting rarely helps."""


class BlockedError(UnavailableError):
    """HTTP 401 or 403 with a page that is not the API's: something in between refused this one request.

    Cloudflare's firewall chooses by the body, so this says nothing about the token or the other values of a
    batch. `is_firewall` is true when the page is Cloudflare's, `ray` is its id of the request ("" without one).
    """

    def __init__(self, message: str, *, status: int = 0, ray: str = "", is_firewall: bool = False) -> None:
        super().__init__(message, status=status)
        self.ray = ray
        self.is_firewall = is_firewall


class UnknownRefusalError(UnavailableError):
    """HTTP 4xx with an error code that is not in the table (store/codes.py).

    It proves nothing about the content: a write may be set aside for it only when the store took another write
    to the same namespace in the same round.
    """


class DeniedError(StoreError):
    """The credentials do not permit it (401, 403). Nothing is lost; somebody must act."""


class QuotaError(DeniedError):
    """The account's allowance for the day is used up (10048); it comes back at 00:00 UTC."""


class AccountError(DeniedError):
    """The account's plan or settings do not allow it (10017, 10026). Nothing is lost; somebody must act."""


class RejectedError(StoreError):
    """The server will never take this content (400): set it aside and say so."""


class NotTextError(RejectedError):
    """A bulk get named a key whose value is not text (10029)."""


class OvertakenError(StoreError):
    """Somebody else has written to the store since it was last compared, so nothing was written."""


class FixedNamespacesError(StoreError):
    """The namespaces of this store cannot be made, renamed or deleted through it; the message says where."""


class NamespaceNotFoundError(StoreError):
    """No namespace of that id (10013)."""


class TitleExistsError(StoreError):
    """Another namespace of the account has that title (10014)."""


class JournalError(KvfsError):
    """The journal cannot be used as it is. It is kept, whatever its state."""


class JournalLockedError(JournalError):
    """Another daemon holds the journal; `pid` and `mountpoint` name it (0 and "" when unknown)."""

    def __init__(self, message: str, *, pid: int = 0, mountpoint: str = "") -> None:
        super().__init__(message)
        self.pid = pid
        self.mountpoint = mountpoint


class JournalUnreadableError(JournalError):
    """The journal is damaged or of a newer version; the message says what to do."""


class JournalFullError(JournalError):
    """No room on the disk, or the pending changes reached their bound."""


class FileError(KvfsError):
    """A system call that cannot succeed; subclasses say why."""


class NotFoundError(FileError):
    """No such file or directory."""


class ExistsError(FileError):
    """There is one already."""


class NotEmptyError(FileError):
    """A directory or namespace still has entries."""


class NotADirectoryError_(FileError):
    """A directory was needed."""


class IsADirectoryError_(FileError):
    """A file was needed."""


class NameTooLongError(FileError):
    """A name above 255 bytes, or a key above 512."""


class NameNotTextError(FileError):
    """A name that is not UTF-8: keys are text."""


class InvalidError(FileError):
    """An argument KV cannot keep: a forbidden key, a time below the floor, malformed JSON, unknown flags."""


class FileTooBigError(FileError):
    """A value above 25 MiB."""


class NoSpaceError(FileError):
    """Metadata above 1,024 bytes, the disk is full, or too much is pending."""


class NoAttributeError(FileError):
    """No such extended attribute."""


class NotSupportedError(FileError):
    """Something KV has no place for: attributes of directories, other attribute classes."""


class NotPermittedError(FileError):
    """Links, devices, sockets; reserved names."""


class CrossDeviceError(FileError):
    """A rename from one namespace to another: `mv` copies instead."""


class StaleError(FileError):
    """The inode is no longer what the kernel takes it for; it looks the name up again."""


class BadHandleError(FileError):
    """The handle is not open, or not for this."""


class TimedOutError(FileError):
    """The bound of a request passed without an answer from the store."""


def first_error(group: BaseExceptionGroup[ErrorT]) -> ErrorT:
    """Return the first exception in a group, or in the groups in it."""
    error = group.exceptions[0]
    return first_error(error) if isinstance(error, BaseExceptionGroup) else error


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what led to it, the nearest first; each member of a group as well."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions


def without_frames(error: ErrorT) -> ErrorT:
    """Return the error without the frames that it and its causes passed; whoever keeps an error must call this.

    They hold the values of the request that failed, and often the error itself: nothing of it would be freed until
    Python looks for cycles.
    """
    for each in causes(error):
        each.__traceback__ = None
    return error
