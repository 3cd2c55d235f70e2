"""uvicorn's HTTP/1.1 protocol with the bounds and the courtesies that it lacks.

A head may not grow or take for ever, nor what follows a body; connections are counted, what is
malformed gets a problem document too, and a client that sent its whole body and left still has it
stored.
"""

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from molia.api.problems import problem_answer
from molia.base import limits
from molia.base.errors import BadInput, Busy, MoliaError

_REASONS: Final = {400: b"Bad Request", 503: b"Service Unavailable"}
_LEAVE_CHECK_S: Final = 0.05
_LEAVE_CHECKS_MAX: Final = int(limits.WRITE_WAIT_S / _LEAVE_CHECK_S)


class _GoneTransport(asyncio.Transport):
    """Where the answer to a client goes that has left: nowhere."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Drop the bytes."""

    def is_closing(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Do nothing."""


_GONE: Final = _GoneTransport()


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    _head_size = 0
    _head_deadline: asyncio.TimerHandle | None = None
    _aside_size = 0
    """Bytes that came since the last ones of a body, and are none: what else is in a message."""
    _leave_checks = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, unless there are too many."""
        super().connection_made(transport)
        self._begin_head()
        if len(self.connections) > limits.CONNECTIONS_MAX:
            self._refuse(Busy("too many connections are open"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a connection, but not before a body that came whole has been read."""
        if self._has_unread_body() and self._leave_checks < _LEAVE_CHECKS_MAX:
            self._leave_checks += 1
            self.cycle.transport = _GONE
            self.loop.call_later(_LEAVE_CHECK_S, self.connection_lost, exc)
            return
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came. A head that is still not whole after too many bytes is refused."""
        self._aside_size += len(data)
        super().data_received(data)
        if self._head_deadline is not None:
            self._head_size += len(data)
            if self._head_size > limits.REQUEST_HEAD_MAX:
                text = f"a request's head has at most {limits.REQUEST_HEAD_MAX} bytes"
                self._refuse(BadInput(text))
        elif self._aside_size > limits.REQUEST_HEAD_MAX:
            self.transport.close()  # without a word: the answer may be under way
        elif self._is_idle():
            self._begin_keep_alive()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._aside_size = 0
        super().on_body(body)

    def on_message_begin(self) -> None:
        """Start the clock of a request's head."""
        if self._head_deadline is None:
            self._begin_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop the clock; the body has its own."""
        self._end_head()
        self._aside_size = 0
        super().on_headers_complete()
        if getattr(self.config, "lingering", False):
            self.say_last()

    def say_last(self) -> None:
        """Tell the client with the answer under way that the connection ends with it."""
        cycle = getattr(self, "cycle", None)
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP with a problem document."""
        del msg
        self._refuse(BadInput("the bytes are no HTTP/1.1 request"))

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: curl offers HTTP/2 in every request when it is told to."""

    def _has_unread_body(self) -> bool:
        cycle = getattr(self, "cycle", None)
        if cycle is None or cycle.response_complete or cycle.more_body:
            return False
        return cycle.scope["method"] in ("PUT", "POST") and bool(cycle.message_event.is_set())

    def _is_idle(self) -> bool:
        """Whether all was answered, and what came since is the beginning of no request."""
        cycle = getattr(self, "cycle", None)
        return cycle is not None and bool(cycle.response_complete)

    def _begin_keep_alive(self) -> None:
        """Start the clock of an idle connection again: whatever comes stops it."""
        self._unset_keepalive_if_required()
        if not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _begin_head(self) -> None:
        self._head_size = 0
        self._head_deadline = self.loop.call_later(limits.REQUEST_HEAD_WAIT_S, self._head_is_late)

    def _end_head(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _head_is_late(self) -> None:
        self._head_deadline = None
        if not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, error: MoliaError) -> None:
        """Write an answer past the application and close."""
        self._end_head()
        if self.transport.is_closing():
            return
        status, headers, body = problem_answer(error)
        head = b"HTTP/1.1 %d %s\r\n" % (status, _REASONS[status])
        fields = b"".join(b"%s: %s\r\n" % field for field in headers)
        self.transport.write(head + fields + b"connection: close\r\n\r\n" + body)
        self.transport.close()
