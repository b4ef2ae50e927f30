"""A client that goes away before its answer: nobody computes for it any longer than a moment."""

import asyncio
from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.visit import ABANDONED
from errors import Overloaded

_WATCH_FOR_DISCONNECT_AFTER_S: Final = 0.25
_LONGEST_REQUEST_S: Final = 30.0  # before BentoML's own limit, whose answer would not be ours


class Replay:
    """Gives the body that was read already to whoever reads it next, then what the client sends after."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def run_unless_disconnected(app: ASGIApp, scope: Scope, receive: Replay, send: Send) -> None:
    """Run the application; when it takes long, watch the client, and give up once it has gone.

    A prediction that nobody waits for any more would only make the others wait longer.
    """
    loop = asyncio.get_running_loop()
    running = asyncio.current_task()
    assert running is not None
    watcher: asyncio.Task[None] | None = None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        running.cancel()

    def start_watching() -> None:
        nonlocal watcher
        watcher = loop.create_task(watch())

    timer = loop.call_later(_WATCH_FOR_DISCONNECT_AFTER_S, start_watching)
    try:
        async with asyncio.timeout(_LONGEST_REQUEST_S):
            await app(scope, receive, send)
    except TimeoutError as error:
        raise Overloaded("The answer took too long.", retry_after_s=5) from error
    except asyncio.CancelledError:
        if not gone:
            raise
        running.uncancel()
        # To nobody, but BentoML's layers around this one wait for an answer until their own time limit.
        await Response(status_code=ABANDONED)(scope, receive, send)
    finally:
        timer.cancel()
        if watcher is not None:
            watcher.cancel()
