"""A server of files that is slow, drops connections, lies about lengths, and is busy: each so many times per file."""

import threading
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("drop", "short", "429", "503", "slow", "lie", "gone")


@contextmanager
def serving(files, fault=None, times=2):
    """The address of a server of files (bytes by name); it makes a fault in the first `times` answers to a GET of each
    file, None: never. Yields the address and a counter of answers by name."""
    asked = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            content = files[self.path[1:]]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) + (7 if fault == "lie" else 0)))
            self.end_headers()

        def do_GET(self):
            name = self.path[1:]
            content, asked[name] = files[name], asked[name] + 1
            kind = fault if asked[name] <= times else None
            if kind in ("429", "503"):
                self.send_response(int(kind))
                self.send_header("Retry-After", "0.01")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if kind == "gone":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if kind == "drop":
                self.wfile.write(content[: len(content) // 2])
                self.connection.close()
                return
            if kind == "short":  # one byte too few, and then nothing more
                self.wfile.write(content[:-1])
                self.wfile.flush()
                self.connection.shutdown(2)
                return
            if kind == "slow":
                for at in range(0, len(content), 1 + len(content) // 20):
                    self.wfile.write(content[at : at + 1 + len(content) // 20])
                    self.wfile.flush()
                    threading.Event().wait(0.01)
                return
            self.wfile.write(content)

        def log_message(self, *_):
            pass

        def handle(self):
            with suppress(OSError):
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
