"""The node, as the command reaches it: a thin, synchronous HTTP client.

Every wait has a timeout. An upload that the node answers early, because it has
no space, say, stops at once and shows that answer.
"""

import http.client
import json
import select
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

from molia.base.errors import (
    BadAnswer,
    ConnectionLost,
    MoliaError,
    NodeNotRunning,
    TimedOut,
)
from molia.base.limits import ANSWER_SIZE_MAX
from molia.cli.output import NodeRefused
from molia.cli.target import START_HINT, Target, find_targets
from molia.cli.verb import Session

PROBLEM_SIZE_MAX: Final = 64 * 1024
CHUNK_SIZE: Final = 1 << 20


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes

    def object(self) -> dict[str, object]:
        """Return the JSON object of the body. Raises BadAnswer."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise BadAnswer("the node's answer is no JSON object", hint="check --node")
        return value


class Node:
    """A running node. Each request has a connection of its own."""

    def __init__(self, targets: list[Target], timeout_s: float) -> None:
        assert targets, "there is somewhere to try"
        self._targets, self._timeout_s = targets, timeout_s

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, object] | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return the answer to a small request. Raises NodeRefused on an error status.

        body: what goes out as JSON; data: what goes out as it is.
        """
        sent = json.dumps(body).encode() if body is not None else data or b""
        named = {"Accept": "application/json", **(headers or {})}
        if body is not None:
            named["Content-Type"] = "application/json"
        if body is not None or data is not None:
            named["Content-Length"] = str(len(sent))
        with self._connected() as connection:
            self._start(connection, method, path, named)
            with _answer_may_be_there():
                connection.send(sent)
            return _whole(connection.getresponse())

    @contextmanager
    def stream(
        self, method: str, path: str, headers: Mapping[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """Give the answer with its body still to be read. Raises NodeRefused on an error status."""
        with self._connected() as connection:
            self._start(connection, method, path, headers or {})
            response = connection.getresponse()
            if response.status >= 400:
                raise refusal(_whole_raw(response))
            yield response

    def upload(
        self,
        path: str,
        pieces: Iterable[bytes | memoryview],
        *,
        size: int | None,
        on_sent: Callable[[int], None],
    ) -> Answer:
        """Return the answer to a PUT of `pieces`; size None sends them chunked.

        on_sent: told how many bytes of the body went out since the last call.
        """
        framing = {"Content-Length": str(size)} if size is not None else {}
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/octet-stream",
            **(framing or {"Transfer-Encoding": "chunked"}),
        }
        with self._connected() as connection:
            self._start(connection, "PUT", path, headers)
            whole = _send_body(connection.sock, _framed(pieces, size), self._timeout_s, on_sent)
            answer = _whole(connection.getresponse())
            if not whole:
                raise ConnectionLost("the node answered before the upload ended")
            return answer

    def _start(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        more: Mapping[str, str],
    ) -> None:
        token = self._targets[0].token
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in more.items():
            connection.putheader(name, value)
        if token:
            connection.putheader("Authorization", f"Bearer {token}")
        with _answer_may_be_there():
            connection.endheaders()

    @contextmanager
    def _connected(self) -> Iterator[http.client.HTTPConnection]:
        connection = self._connect()
        try:
            yield connection
        except TimeoutError:
            raise TimedOut(
                f"the node sent nothing for {self._timeout_s:g} s",
                hint="--timeout sets how long to wait",
            ) from None
        except (ConnectionError, http.client.HTTPException) as error:
            raise ConnectionLost(
                f"the connection to {self._targets[0].label} broke ({type(error).__name__})",
                hint="check that the node runs, then try again",
            ) from None
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        failures: list[str] = []
        for index, target in enumerate(self._targets):
            connection = _UnixConnection(target, timeout=self._timeout_s)
            try:
                connection.connect()
            except TimeoutError:
                connection.close()
                raise TimedOut(f"{target.label} does not take connections") from None
            except OSError as error:
                connection.close()
                failures.append(f"{target.label} ({error.strerror or error})")
                continue
            self._targets = self._targets[index:]
            return connection
        raise NodeNotRunning(f"no node answers at {', '.join(failures)}", hint=START_HINT)


def find_node(session: Session) -> Node:
    """Return the node that `--node`, `MOLIA_NODE` or the home's node.json names.

    Raises NodeNotRunning when none is named there, HomeUnsafe when others could have named it.
    """
    return Node(find_targets(session.options), session.timeout_s)


def refusal(answer: Answer) -> NodeRefused:
    """Return the error that an answer of status 400 and above stands for."""
    problem: dict[str, object] = {}
    if "json" in answer.headers.get("content-type", ""):
        try:
            problem = answer.object()
        except BadAnswer:
            problem = {}
    reason = http.client.responses.get(answer.status, "error")
    title = str(problem.get("title") or reason)
    return NodeRefused(
        str(problem.get("detail") or f"the node answered {answer.status} {title}"),
        hint=str(problem.get("hint") or ""),
        code=str(problem.get("code") or ""),
        status=answer.status,
        title=title,
    )


# ---------------------------------------------------------------------------- the wire


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a target, over its Unix socket when it has one."""

    def __init__(self, target: Target, *, timeout: float) -> None:
        super().__init__(target.host or "localhost", target.port or 80, timeout=timeout)
        self._path = target.socket_path

    def connect(self) -> None:
        if not self._path:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@contextmanager
def _answer_may_be_there() -> Iterator[None]:
    """Let a send fail: who hung up on us may have said why, and reading will tell."""
    try:
        yield
    except (BrokenPipeError, ConnectionResetError):
        return


def _framed(
    pieces: Iterable[bytes | memoryview], size: int | None
) -> Iterator[tuple[int, bytes | memoryview]]:
    """Yield what goes out and how many bytes of the body it carries."""
    for piece in pieces:
        if size is None:
            yield 0, b"%x\r\n" % len(piece)
        yield len(piece), piece
        if size is None:
            yield 0, b"\r\n"
    if size is None:
        yield 0, b"0\r\n\r\n"


def _send_body(
    sock: socket.socket,
    pieces: Iterable[tuple[int, bytes | memoryview]],
    timeout_s: float,
    on_sent: Callable[[int], None],
) -> bool:
    """Send the body and return True, or False as soon as the node answers or hangs up."""
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLOUT)
    for carried, piece in pieces:
        rest = memoryview(piece)
        while rest:
            events = poll.poll(int(timeout_s * 1000))
            if not events:
                raise TimeoutError
            if events[0][1] & ~select.POLLOUT:
                return False
            try:
                rest = rest[sock.send(rest) :]
            except (BrokenPipeError, ConnectionResetError):
                return False
        if carried:
            on_sent(carried)
    return True


def _whole(response: http.client.HTTPResponse) -> Answer:
    answer = _whole_raw(response)
    if answer.status >= 400:
        raise refusal(answer)
    return answer


def _whole_raw(response: http.client.HTTPResponse) -> Answer:
    bound = ANSWER_SIZE_MAX if response.status < 400 else PROBLEM_SIZE_MAX
    try:
        body = response.read(bound)
        if response.length and len(body) < bound:  # read() with a bound says nothing of a cut
            raise http.client.IncompleteRead(body, response.length)
    except (ConnectionError, http.client.HTTPException):
        if response.status < 400:
            raise
        body = b""  # the status alone tells enough: the node hung up on an upload it refused
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, body)


def as_error(problem: Exception) -> MoliaError:
    """Return a failure while reading a streamed answer as one of ours."""
    if isinstance(problem, MoliaError):
        return problem
    if isinstance(problem, TimeoutError):
        return TimedOut("the node sent nothing in time", hint="--timeout sets how long to wait")
    return ConnectionLost(f"the connection broke ({type(problem).__name__})")
