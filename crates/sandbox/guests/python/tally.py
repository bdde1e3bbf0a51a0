"""What agents have of the host: tools, and HTTP to the hosts that were granted."""

import json
from urllib.parse import urlsplit

import wit_world
from componentize_py_types import Err, Ok
from wit_world.imports import outgoing_handler, streams
from wit_world.imports import types as http

__all__ = ["FetchError", "Response", "ToolError", "call_tool", "fetch"]

_METHODS = {
    "GET": http.Method_Get,
    "HEAD": http.Method_Head,
    "POST": http.Method_Post,
    "PUT": http.Method_Put,
    "DELETE": http.Method_Delete,
    "OPTIONS": http.Method_Options,
    "PATCH": http.Method_Patch,
}
_SCHEMES = {"http": http.Scheme_Http, "https": http.Scheme_Https}
_CHUNK_BYTES = 65536
# The most that one blocking write of WASI takes.
_WRITE_BYTES = 4096


class ToolError(Exception):
    """Why a tool gave no result: `code` is stable and lower-case."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code
        self.message = message


class FetchError(OSError):
    """Why a request has no answer: `code` is a kind of WASI's HTTP, such as `HttpRequestDenied`."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def call_tool(name, args=None, /, **named):
    """Calls a tool with arguments, a dict or named ones, and gives its result."""
    if args is not None and named:
        raise TypeError("call_tool: give the arguments as a dict or by name, not both")
    text = json.dumps(named if args is None else args, allow_nan=False)
    try:
        return json.loads(wit_world.call_tool(name, text))
    except Err as error:
        failure = json.loads(error.value)
    raise ToolError(failure["code"], failure["message"])


class Response:
    """An answer: `status`, `headers` (names in lower case, repeats joined by commas), `body`."""

    def __init__(self, url, status, headers, body):
        self.url = url
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def ok(self):
        return 200 <= self.status < 300

    def text(self, encoding="utf-8"):
        return self.body.decode(encoding)

    def json(self):
        return json.loads(self.body)


def fetch(url, method="GET", headers=None, body=None, timeout_s=None):
    """Asks a granted host and reads the whole answer. Redirects are not followed. `body` is bytes,
    text, or a value that is sent as JSON."""
    fields = {name.lower(): value for name, value in (headers or {}).items()}
    if body is not None and not isinstance(body, (bytes, bytearray, str)):
        body = json.dumps(body, allow_nan=False)
        fields.setdefault("content-type", "application/json")
    body = body.encode() if isinstance(body, str) else body
    try:
        future = _send(url, method.upper(), fields, body, timeout_s)
        with future, future.subscribe() as arrival:
            arrival.block()
            return _receive(url, future.get())
    except Err as error:
        raise _failure(url, error.value) from None


def _send(url, method, fields, body, timeout_s):
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError(f"fetch: `{url}` is no http or https URL")
    if body:
        fields["content-length"] = str(len(body))
    listed = [(name, str(value).encode()) for name, value in fields.items()]
    request = http.OutgoingRequest(http.Fields.from_list(listed))
    known = _METHODS.get(method)
    request.set_method(known() if known else http.Method_Other(method))
    request.set_scheme(_SCHEMES[parts.scheme]())
    request.set_authority(parts.netloc.rpartition("@")[2])
    request.set_path_with_query((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
    outgoing = request.body()
    future = outgoing_handler.handle(request, _options(timeout_s))
    try:
        if body:
            with outgoing.write() as stream:
                for at in range(0, len(body), _WRITE_BYTES):
                    stream.blocking_write_and_flush(bytes(body[at : at + _WRITE_BYTES]))
        http.OutgoingBody.finish(outgoing, None)
    except Err:
        # Whoever reads no further has answered or failed, which the future tells.
        pass
    return future


def _options(timeout_s):
    if timeout_s is None:
        return None
    options = http.RequestOptions()
    nanoseconds = int(timeout_s * 1_000_000_000)
    options.set_connect_timeout(nanoseconds)
    options.set_first_byte_timeout(nanoseconds)
    options.set_between_bytes_timeout(nanoseconds)
    return options


def _receive(url, result):
    # The outer result says whether the future was read before, which it was not.
    if isinstance(result, Ok):
        result = result.value
    if isinstance(result, Err):
        raise result
    with result.value as response:
        fields = {}
        with response.headers() as headers:
            for name, value in headers.entries():
                text = value.decode("latin-1")
                name = name.lower()
                fields[name] = f"{fields[name]}, {text}" if name in fields else text
        return Response(url, response.status(), fields, _read(response.consume()))


def _read(body):
    chunks = []
    with body, body.stream() as stream:
        while True:
            try:
                chunks.append(stream.blocking_read(_CHUNK_BYTES))
            except Err as error:
                if isinstance(error.value, streams.StreamError_Closed):
                    return b"".join(chunks)
                raise


def _failure(url, reason):
    if isinstance(reason, streams.StreamError_LastOperationFailed):
        with reason.value as error:
            reason = http.http_error_code(error) or reason
    kind = type(reason).__name__.rpartition("_")[2]
    if kind == "HttpRequestDenied":
        return FetchError(kind, f"{url}: the host was not granted")
    detail = getattr(reason, "value", None)
    return FetchError(kind, f"{url}: {detail if isinstance(detail, str) else kind}")
