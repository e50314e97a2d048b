"""A local HTTP server that behaves, and misbehaves, as servers do."""

import contextlib
import http.server
import threading
import time

PATHS = ("/whole", "/plain", "/cut", "/cut-once", "/cut-plain", "/corrupt", "/busy", "/slow")
CUT = 300_000  # bytes after which a connection breaks off


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by path.

    /plain and /cut-plain ignore Range, the others honour it; /cut breaks off, /cut-once and /cut-plain the first time;
    /corrupt ends in a wrong byte; /busy refuses twice; /slow sends a byte every 50 ms; any other path is a 404.
    """

    def log_message(self, *_):
        pass

    def do_GET(self):
        """Answer with `server.content`; a path that is a whole address is what a proxy is asked."""
        seen, content, start = self.server.seen, self.server.content, 0
        asked = self.headers.get("Range")
        seen.append((self.path, asked))
        self.server.authorized.append(self.headers.get("Authorization"))
        path = "/" + self.path.rpartition("/")[2].partition("?")[0]
        if asked and not path.endswith("plain"):
            start = int(asked[len("bytes=") :].rstrip("-"))
        if path == "/corrupt":
            content = content[:-1] + b"?"
        if path == "/busy" and sum(path == "/busy" for path, _ in seen) < 3:
            return self.send_error(503)
        if path not in PATHS:
            return self.send_error(404)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        first = sum(other == self.path for other, _ in seen) == 1
        end = CUT if path == "/cut" or (path in ("/cut-once", "/cut-plain") and first) else len(content)
        if path == "/slow":
            end = start
            self._trickle(content[start:])
        self.wfile.write(content[start:end])
        self.close_connection = True

    def _trickle(self, content):
        with contextlib.suppress(ConnectionError):
            for byte in content:
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)


@contextlib.contextmanager
def serving(content):
    """Yield a running server of some bytes: `url` is its address, `seen` the (path, Range) that it was asked."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.seen, server.authorized = content, [], []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
