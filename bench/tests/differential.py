"""Mutated pipelines through a sidecar to h11, and the same bytes to h11 directly: both must read the same messages.

Usage: differential.py SIDECAR ORIGIN [SEED], the first two HOST:PORT; the origin is made here. Ends with 0 and a line of counts,
or with 1 and every pipeline of which the origin saw something else.

h11 is the reference. It differs from a strict reader of RFC 9112 in these ways, each handled where it is named:
- laxer: LF alone ends a line; obs-fold is unfolded; a list of equal Content-Lengths; Content-Length beside Transfer-Encoding;
  Transfer-Encoding in HTTP/1.0; any HTTP/x.y; control characters in values; any Host; userinfo and "#" in a target. The sidecar
  may refuse what h11 takes, so nothing is to be done.
- stricter: an empty line before a request is refused, where RFC 9112 section 2.2 asks servers to skip it (LEADING_LINES).
- stricter: bytes from 0x80 in a target are refused; the sidecar passes them as they came (OBS_TARGET).
- stricter: a chunk's extension is held against the grammar of RFC 9112 section 7.1.1; the sidecar ignores any text without
  control characters (EXTENSION).
- stricter: Content-Length and Transfer-Encoding in trailers are held against the rules of a head; the sidecar drops both there
  (TRAILER).
"""

import random
import re
import socket
import sys
import threading

import h11

SEED = 20260911
PIPELINES = 800
# Fields that are for one hop or that the next hop's framing says anew (RFC 9110 section 7.6.1).
HOP = {
    b"connection", b"content-length", b"host", b"keep-alive", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
}
PATIENCE = 10.0


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


# ---- the reference

class Message:
    """What must be the same for every reader."""

    def __init__(self, request, body, trailers):
        self.method = request.method
        self.target = request.target
        named = b",".join(value for name, value in request.headers if name == b"connection")
        self.dropped = HOP | {option.strip().lower() for option in named.split(b",")}
        self.host = [value for name, value in request.headers if name == b"host"]
        absolute = re.match(rb"(?i)https?://([^/?]*)(.*)", self.target)
        if absolute:
            self.host = [absolute[1]]
            self.target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
        self.fields = [(name, value) for name, value in request.headers if name not in self.dropped]
        self.body = body
        self.trailers = [(name, value) for name, value in trailers if name not in HOP]

    def differs(self, seen):
        """Why the origin saw another message than this one."""
        fields = [field for field in seen.fields if field[0] not in self.dropped]
        trailers = [field for field in self.trailers if field[0] not in self.dropped]
        for what, sent, got in [
            ("method", self.method, seen.method),
            ("target", self.target, seen.target),
            ("host", self.host or seen.host, seen.host),
            ("body", self.body, seen.body),
            ("fields", self.fields, fields),
            ("trailers", trailers, seen.trailers),
        ]:
            if sent != got:
                return f"{what}: {got!r} instead of {sent!r}"
        return None


class Trailer(Exception):
    """A difference that is known."""


def read_one(data):
    """The first message, whether the connection stays after it, and what follows it; None while it is incomplete."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    request, body, trailers = None, b"", []
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            if request and re.search("Content-Length|Transfer-Encoding", str(error)):
                raise Trailer(str(error)) from error
            raise
        if event is h11.NEED_DATA:
            return None
        if isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            trailers = event.headers
            stays = connection.their_state is not h11.MUST_CLOSE
            return Message(request, body, trailers), stays, connection.trailing_data[0]


def reference(data):
    """All messages, and why there are no more."""
    messages = []
    while True:
        while data.startswith(b"\r\n"):  # LEADING_LINES
            data = data[2:]
        if not data:
            return messages, "end"
        try:
            read = read_one(data)
        except Trailer:
            return messages, "TRAILER"
        except h11.RemoteProtocolError as error:
            return messages, known_difference(data) or f"refused: {error}"
        if read is None:
            return messages, "incomplete"
        message, stays, data = read
        if message.method == b"CONNECT":
            return messages, "CONNECT"
        messages.append(message)
        if not stays:
            return messages, "close"


def known_difference(data):
    """The name of the difference for which h11 refuses what stands here, if it is one."""
    line = data.split(b"\r\n", 1)[0]
    if re.fullmatch(rb"[!-~]+ [!-~\x80-\xff]*[\x80-\xff][!-~\x80-\xff]* HTTP/1\.[01]", line):
        return "OBS_TARGET"
    if re.search(rb"\r\n[0-9A-Fa-f]+[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*\r\n", data):
        return "EXTENSION"
    return None


# ---- the origin

class Origin:
    """Answers every message with an empty 200 and keeps what it read."""

    def __init__(self, where):
        self.seen = []
        self.lock = threading.Lock()
        self.listener = socket.create_server(where, backlog=64)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=[connection], daemon=True).start()

    def serve(self, connection):
        with connection:
            data = b""
            while True:
                try:
                    read = read_one(data) if data else None
                except (Trailer, h11.RemoteProtocolError) as error:
                    self.keep(f"not a message: {error}: {data!r}")
                    return
                if read is None:
                    try:
                        more = connection.recv(1 << 16)
                    except OSError:
                        return
                    if not more:
                        return
                    data += more
                    continue
                message, stays, data = read
                self.keep(message)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                if not stays:
                    return

    def keep(self, what):
        with self.lock:
            self.seen.append(what)

    def taken(self):
        """What was seen since this was last asked."""
        with self.lock:
            seen, self.seen = self.seen, []
        return seen


# ---- the pipelines

WELL_FORMED = [
    b"GET /a?b=c HTTP/1.1\r\nHost: orders\r\nX-A: 1\r\nAccept: x\r\nx-a: 2\r\n\r\n",
    b"GET http://orders:80/abs HTTP/1.1\r\nHost: orders:80\r\nX-A: 1\r\n\r\n",
    b"POST /l HTTP/1.1\r\nHost: orders\r\nContent-Length: 11\r\nX-B: 3\r\n\r\nhello world",
    b"POST /g HTTP/1.1\r\nHost: orders\r\nContent-Length: 34\r\n\r\nGET /in HTTP/1.1\r\nHost: inner\r\n\r\n\r\n",
    b"PUT /c HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n",
    b"POST /t HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\n",
    b"DELETE /d HTTP/1.1\r\nHost: orders\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nX-A: 1\r\n\r\n",
    b"BREW /pot HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\n\r\n",
    b"GET /close HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n",
    b"GET /old HTTP/1.0\r\nHost: orders\r\nConnection: keep-alive\r\n\r\n",
]
FIELDS = [
    b"Content-Length: 5", b"Content-Length: +5", b"Content-Length: 0x5", b"Content-Length: 5, 5", b"Content-Length: 5,6",
    b"Content-Length:", b"Content-Length: 0", b"Content-Length: 18446744073709551617", b"content-length: 11",
    b"Content-Length: 1 1", b"Content-Length : 5", b"Content-Length\t: 5", b"X: y\rContent-Length: 5",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity, chunked", b"Transfer-Encoding: xchunked", b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding : chunked", b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding: \"chunked\"",
    b"transfer-encoding: CHUNKED", b"Transfer_Encoding: chunked", b"Transfer-Encoding: chunked;q=1",
    b"Host: other", b"Host: a@b", b"Host:", b"Connection: close", b"Connection: content-length", b"Connection: host, x-a",
    b"Expect: 100-continue", b"Upgrade: websocket", b"Connection: Upgrade", b"TE: trailers", b"Trailer: x-sum",
    b"X: \x00", b"X: \xe9", b"X: a\x7fb", b" X: folded", b": nothing", b"X", b"X: a\nY: b", b"GET / HTTP/1.1",
]
SIZES = [b"0x5", b"+5", b"-5", b"5 ", b" 5", b"05", b"5;", b"5;a", b"5 ;a=b", b"5;a=\"b;c\"", b"5;\x01", b"5\x0b", b"", b"G",
         b"ffffffffffffffff", b"10000000000000005", b"000000000000000000005", b"5\n", b"5\r", b"4", b"6", b"5;\n"]
BYTES = [b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b"\x0b", b"\x7f", b"\x80", b":", b";", b",", b"0", b"#", b"@", b"\r\n\r\n"]
LINE_ENDS = [b"\n", b"\r", b"", b"\r\r\n", b"\n\r", b"\r\n ", b"\r\n\r\n", b" \r\n"]
COLONS = [b" : ", b":", b":\t", b"\t:", b":  ", b": \r\n ", b":\x0b", b":\x0c"]


def spots(data, pattern):
    return [match.span() for match in re.finditer(pattern, data)]


def mutate(random, data):
    """One edit."""
    kind = random.randrange(9)
    lines = spots(data, rb"\r\n")
    if kind == 0:  # a field more
        heads = spots(data, rb"HTTP/1\.[01]\r\n|[^\r\n]\r\n(?=[A-Za-z-]+: )")
        if heads:
            _, at = random.choice(heads)
            return data[:at] + random.choice(FIELDS) + b"\r\n" + data[at:]
    if kind == 1:  # another chunk size
        sizes = spots(data, rb"(?<=\r\n)[0-9a-f]+(?:;a=b)?(?=\r\n)")
        if sizes:
            start, end = random.choice(sizes)
            return data[:start] + random.choice(SIZES) + data[end:]
    if kind == 2:  # another length
        lengths = spots(data, rb"(?<=Content-Length: )[0-9]+")
        if lengths:
            start, end = random.choice(lengths)
            number = int(data[start:end]) + random.choice([-11, -2, -1, 1, 2, 5, 30])
            return data[:start] + str(max(number, 0)).encode() + data[end:]
    if kind == 3:  # a line end
        if lines:
            start, end = random.choice(lines)
            return data[:start] + random.choice(LINE_ENDS) + data[end:]
    if kind == 4:  # whitespace around a colon
        colons = spots(data, rb": ")
        if colons:
            start, end = random.choice(colons)
            return data[:start] + random.choice(COLONS) + data[end:]
    if kind == 5 and len(lines) > 1:  # a line twice
        first = random.randrange(len(lines) - 1)
        start, end = lines[first][1], lines[first + 1][1]
        return data[:end] + data[start:end] + data[end:]
    if kind == 6:  # any byte
        at = random.randrange(len(data) + 1)
        return data[:at] + random.choice(BYTES) + data[at + random.randrange(2):]
    if kind == 7:  # a piece of another request
        other = random.choice(WELL_FORMED)
        start = random.randrange(len(other))
        at = random.randrange(len(data) + 1)
        return data[:at] + other[start:start + random.randrange(1, 60)] + data[at:]
    # a piece less
    at = random.randrange(len(data) + 1)
    return data[:at] + data[at + random.randrange(1, 20):]


def pipelines(seed):
    """Every well-formed request, then rows of them, more and more mutated."""
    source = random.Random(seed)
    yield from WELL_FORMED
    for count in range(PIPELINES):
        data = b"".join(source.choice(WELL_FORMED[:8]) for _ in range(source.randrange(1, 4)))
        for _ in range(min(count // 20, source.randrange(1, 4))):
            data = mutate(source, data)
        yield data + source.choice([b"", WELL_FORMED[0]])


def send(sidecar, data):
    """Sends everything, says so, and waits for the end; answers what came back."""
    with socket.create_connection(sidecar, PATIENCE) as connection:
        answers = b""
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(1 << 16):
                answers += piece
        except ConnectionError:
            pass  # Refused before all of it was sent.
        return answers


def main():
    sidecar, origin = address(sys.argv[1]), Origin(address(sys.argv[2]))
    counts = {"pipelines": 0, "messages": 0, "forwarded": 0, "refused": 0}
    failures = 0
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else SEED
    for data in pipelines(seed):
        wanted, end = reference(data)
        answers = send(sidecar, data)
        seen = origin.taken()
        counts["pipelines"] += 1
        counts["messages"] += len(wanted)
        counts["forwarded"] += len(seen)
        counts["refused"] += end.startswith("refused")
        known = end in ("OBS_TARGET", "EXTENSION", "TRAILER")
        wrong = None
        for at, message in enumerate(seen):
            if isinstance(message, str):
                wrong = None if known and at >= len(wanted) else message
            elif at < len(wanted):
                wrong = wanted[at].differs(message)
            elif not known:
                wrong = f"{message.method!r} {message.target!r}, where the reference says {end}"
            if wrong:
                break
        well_formed = counts["pipelines"] <= len(WELL_FORMED)
        if well_formed and len(seen) != len(wanted):
            wrong = f"{len(seen)} of {len(wanted)} well-formed messages were forwarded"
        if wrong:
            failures += 1
            print(f"pipeline {counts['pipelines']}: message {len(seen)}: {wrong}\n  sent {data!r}\n  answered {answers[:300]!r}")
    print(" ".join(f"{name}={count}" for name, count in counts.items()))
    if counts["forwarded"] < PIPELINES // 2:
        failures += 1
        print("fewer messages than half the pipelines were forwarded: the test says little")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
