"""Authorisation: the bearer token, its comparison, and the file that holds it."""

import hmac
import os
import re
import secrets
from pathlib import Path
from typing import Final

from starlette.requests import Request

from kvfs.core.errors import UserError
from kvfs.host.token_file import read_token_file, usable_token
from kvfs.server.error_answers import Refusal, recorded
from kvfs.store import codes

_SCHEME: Final = "bearer "


def check_token(request: Request, token: str, *, strict: bool = False) -> None:
    """Raise `Refusal` unless the request carries `token`, in an equal time for every wrong one.

    It is a bearer token, or a key in X-Auth-Key beside any X-Auth-Email. A refusal is 401; in `strict` mode it
    tells what is wrong with the headers, as the API does.
    """
    header, key = request.headers.get("authorization", ""), request.headers.get("x-auth-key", "")
    given = header[len(_SCHEME) :].strip() if header.lower().startswith(_SCHEME) else ""
    if not header and "@" in request.headers.get("x-auth-email", ""):
        given = key
    if not hmac.compare_digest(given.encode(), token.encode()):
        raise _strict_refusal(header, key) if strict else recorded(codes.UNAUTHENTICATED)


def _strict_refusal(authorization: str, key: str) -> Refusal:
    """Return the API's answer to wrong credentials: of no kind, malformed, unknown."""
    if authorization:
        well_formed = re.fullmatch(r"[Bb]earer +[!-~]{20,}", authorization)
        return recorded(codes.UNAUTHENTICATED if well_formed else codes.BAD_HEADERS)
    if key:
        return recorded(codes.UNKNOWN_KEY)
    return Refusal(400, codes.NO_CREDENTIALS, "Missing X-Auth-Key, X-Auth-Email or Authorization headers")


def load_or_create_token(path: Path) -> str:
    """Return the token in the file at `path`, made if there is none.

    Raises `UserError` for a file that others can read, that is not ours, or that holds no token.
    """
    try:
        if not os.path.lexists(path):
            _create(path)
    except OSError as exc:
        raise UserError(f"cannot use the token file {path}: {exc.strerror}") from exc
    token = read_token_file(path, is_ours=True).strip()
    if not usable_token(token):
        raise UserError(f"the token file {path} holds no usable token: delete it and start again")
    return token


def _create(path: Path) -> None:
    """Make a fresh token under `path`, whole from the first moment, unless another process was faster."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        os.unlink(draft)
