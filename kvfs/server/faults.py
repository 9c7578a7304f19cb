"""Faults at work: the middleware that lets them loose on requests, and their control over HTTP.

Which request meets which fault is in `fault_rules.py`; what a fault does is in `effects.py`, `quotas.py`,
`moods.py` and `odd_shapes.py`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from kvfs.core.errors import UserError
from kvfs.server.bodies import SMALL_BODY, read_body
from kvfs.server.calls import TALLY, json_answer
from kvfs.server.effects import BROKEN, Effect
from kvfs.server.error_answers import Refusal, invalid
from kvfs.server.fault_rules import Armed, Faults, Rule
from kvfs.server.fault_words import parse_faults
from kvfs.server.moods import MOODS
from kvfs.server.odd_shapes import SHAPES
from kvfs.server.quotas import LIMITS
from kvfs.server.shell import App, AsgiSend, Receive, Scope
from kvfs.store.wire import codec

DIRECT: Final = b"kvfs-direct"
"""Header of requests that meet no fault and are not counted: a test's own, beside those of its subject."""

_EFFECTS: Final[dict[str, Effect]] = {**BROKEN, **LIMITS, **MOODS, **SHAPES}
_OUTERMOST: Final = frozenset({*SHAPES, "no_retry_after", "ratelimit"})
"""They change answers, also those of other faults, so they are around those."""


class Faulty:
    """Lets the rules of `faults` loose on every request, except those to the `spared` paths."""

    def __init__(self, app: App, faults: Faults, *, spared: Sequence[str]) -> None:
        self._app = app
        self._faults = faults
        self._spared = frozenset(spared)

    async def __call__(self, scope: Scope, receive: Receive, send: AsgiSend) -> None:
        app = self._app
        if any(name == DIRECT for name, _ in scope["headers"]):
            scope[TALLY].direct = True
        elif scope["path"] not in self._spared:
            for armed in reversed(self._fired(scope)):
                app = partial(_meet, armed, app)
        try:
            await app(scope, receive, send)
        except ClientDisconnect:
            return

    def _fired(self, scope: Scope) -> list[Armed]:
        """Return the rules that pick this request, the outermost first."""
        fired = self._faults.fire(scope["method"], scope["path"])
        return sorted(fired, key=lambda armed: armed.rule.fault not in _OUTERMOST)


async def _meet(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    try:
        await _EFFECTS[armed.rule.fault](armed, app, scope, receive, send)
    except Refusal as refusal:
        await refusal.response()(scope, receive, send)


class FaultControl:
    """The rules over HTTP: GET shows them with their counts, PUT replaces them, DELETE ends them."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    async def handle(self, request: Request) -> Response:
        """Answer one of the three."""
        if request.method == "DELETE":
            self._faults.replace([])
        elif request.method == "PUT":
            try:
                self._faults.replace(_rules(await read_body(request, SMALL_BODY)))
            except (UserError, ValueError) as exc:
                raise invalid(f"faults: {exc}") from exc
        shown = [
            {"rule": armed.rule, "seen": armed.seen, "fired": armed.fired} for armed in self._faults.armed
        ]
        return json_answer(codec.encode_success(shown))


def _rules(body: bytes) -> list[Rule]:
    """Return the rules of a JSON list, or of a JSON string in the words of `--faults`."""
    if body.lstrip().startswith(b'"'):
        return [armed.rule for armed in parse_faults(msgspec.json.decode(body, type=str)).armed]
    return Faults.decode(body)
