"""The REST face: Cloudflare's routes over a store. `build_app` makes the ASGI application."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route

from kvfs.core.errors import StoreError
from kvfs.server.bulk_routes import Bulk
from kvfs.server.calls import StoreOf
from kvfs.server.error_answers import Refusal, refusal_of
from kvfs.server.fault_rules import Faults
from kvfs.server.faults import FaultControl, Faulty
from kvfs.server.namespace_routes import Namespaces
from kvfs.server.pacing import PacedStore
from kvfs.server.parameters import check_account
from kvfs.server.shell import App, AsgiSend, Metrics, Observed, Receive, Scope
from kvfs.server.staleness import KeyHistory, StaleStore
from kvfs.server.stubs import LOCAL_ACCOUNT, STRICT_ACCOUNT, Stubs
from kvfs.server.tokens import check_token
from kvfs.server.value_routes import ValueRoutes
from kvfs.store import codes

API: Final = "/client/v4"
FAULTS_PATH: Final = "/_kvfs/faults"

log = logging.getLogger("kvfs.server")

RouteHandler = Callable[[Request], Awaitable[Response]]
Table = list[tuple[str, str, str, RouteHandler]]


def build_app(
    store_of: StoreOf,
    *,
    token: str,
    faults: Faults | None = None,
    strict: bool = False,
    now: Callable[[], float] = time.time,
) -> App:
    """Return the application that serves the stores of `store_of` to whoever has `token`.

    `faults` not None: it may misbehave, and how can be changed through /_kvfs/faults. `strict`: it refuses
    credentials and account ids that the API would refuse. `now` is epoch seconds.
    """
    metrics = Metrics()
    if faults is not None:
        store_of = _misbehaving(store_of, faults)
    table = _routes(store_of, now, STRICT_ACCOUNT if strict else LOCAL_ACCOUNT)
    table.append(("metrics", "GET", "/metrics", _metrics_handler(metrics)))
    if faults is not None:
        control = FaultControl(faults).handle
        table += [
            (f"{method.lower()}_faults", method, FAULTS_PATH, control) for method in ("GET", "PUT", "DELETE")
        ]
    app: App = (dispatcher := Dispatcher(table, token, strict=strict))
    if faults is not None:
        app = Faulty(app, faults, spared=(FAULTS_PATH, "/metrics"))
    return Observed(app, metrics, dispatcher.operation_of)


def _misbehaving(store_of: StoreOf, faults: Faults) -> StoreOf:
    """Return stores that may be slow or stale. Namespace ids are unique, so all share one history."""
    history = KeyHistory(faults.stale_seconds)
    return lambda account: PacedStore(StaleStore(store_of(account), history))


def _routes(store_of: StoreOf, now: Callable[[], float], account: str) -> Table:
    """Name, method, path and handler of each operation."""
    namespaces, values = Namespaces(store_of, now), ValueRoutes(store_of, now)
    bulk, stubs = Bulk(store_of, now), Stubs(account)
    every = API + "/accounts/{account}/storage/kv/namespaces"
    one = every + "/{namespace}"
    return [
        ("list_namespaces", "GET", every, namespaces.list),
        ("create_namespace", "POST", every, namespaces.create),
        ("get_namespace", "GET", one, namespaces.get),
        ("rename_namespace", "PUT", one, namespaces.rename),
        ("delete_namespace", "DELETE", one, namespaces.delete),
        ("bulk_put", "PUT", one + "/bulk", bulk.put),
        ("bulk_delete", "DELETE", one + "/bulk", bulk.delete),
        ("bulk_delete", "POST", one + "/bulk/delete", bulk.delete),
        ("bulk_get", "POST", one + "/bulk/get", bulk.get),
        ("list_keys", "GET", one + "/keys", namespaces.list_keys),
        ("get_metadata", "GET", one + "/metadata/{key}", values.get_metadata),
        ("put_value", "PUT", one + "/values/{key}", values.put),
        ("get_value", "GET", one + "/values/{key}", values.get),
        ("delete_value", "DELETE", one + "/values/{key}", values.delete),
        ("accounts", "GET", API + "/accounts", stubs.accounts),
        ("account", "GET", API + "/accounts/{account}", stubs.account),
        ("memberships", "GET", API + "/memberships", stubs.memberships),
        ("user", "GET", API + "/user", stubs.user),
        ("verify_token", "GET", API + "/user/tokens/verify", stubs.verify_token),
        ("verify_token", "GET", API + "/accounts/{account}/tokens/verify", stubs.verify_token),
    ]


class Dispatcher:
    """Finds the handler, checks the token, and turns whatever goes wrong into an envelope."""

    def __init__(self, table: Table, token: str, *, strict: bool) -> None:
        self._routes = [
            (Route(path, handler, methods=[method], name=name), handler)
            for name, method, path, handler in table
        ]
        self._token = token
        self._strict = strict

    async def __call__(self, scope: Scope, receive: Receive, send: AsgiSend) -> None:
        try:
            response = await self._answer(scope, receive)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        try:
            _, handler = self._find(scope)
            request = Request(scope, receive)
            check_token(request, self._token, strict=self._strict)
            if self._strict and "account" in request.path_params:
                check_account(scope["path"], request.path_params["account"])
            return await handler(request)
        except Refusal as refusal:
            return refusal.response()
        except StoreError as exc:
            return refusal_of(exc).response()
        except ClientDisconnect:
            raise
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            return Refusal(500, codes.INTERNAL, "internal error: see the log of the server").response()

    def operation_of(self, scope: Scope) -> str:
        """Return the name of the operation that a request asks for, "none" when there is no such."""
        try:
            return self._find(scope)[0]
        except Refusal:
            return "none"

    def _find(self, scope: Scope) -> tuple[str, RouteHandler]:
        """Name and handler; what is in the braces of its path is in `path_params`, as it was sent."""
        known = False
        for route, handler in self._routes:
            match, found = route.matches(scope)
            if match is Match.FULL and scope["method"] in (route.methods or ()):
                scope["path_params"] = found["path_params"]
                return route.name, handler
            known = known or match is not Match.NONE
        if known:
            raise Refusal(405, codes.METHOD, f"{scope['method']} method not allowed for this path")
        raise Refusal(404, codes.NO_ROUTE, "No route for that URI")


def _metrics_handler(metrics: Metrics) -> RouteHandler:
    async def handle(request: Request) -> Response:
        return Response(generate_latest(metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})

    return handle
