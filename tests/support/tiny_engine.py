"""A tiny engine for tests of the runner and the drivers: HTTP, health, load, and faults on demand.

Run as a script; standard library only. ``/sleep?s=N`` is a request that takes N seconds and counts
as load. Faults: ``--ignore-term``, ``--daemonize`` (double fork), ``--grandchild`` (leaves a child
in its own session), ``--exit-after S``, ``--exit-code N``, ``--say TEXT``, ``--unhealthy``,
``--ready-after S``, ``--flood N`` (bytes of log), ``--take-port-once FILE`` (fails once as if its
port were taken), ``--elsewhere`` (another process serves the port), ``--mark FILE`` (adds a line at
each start), ``--busy`` (after the first health check it only computes).
"""

import argparse
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

RUNNING = "tiny:requests_running"
WAITING = "tiny:requests_waiting"


class Engine(http.server.ThreadingHTTPServer):
    daemon_threads = True
    running = 0
    healthy = True
    lock = threading.Lock()


class Answer(http.server.BaseHTTPRequestHandler):
    server: Engine

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/health":
            self._send(200 if self.server.healthy else 503, "ok")
        elif url.path == "/metrics":
            self._send(200, f'{RUNNING}{{model="x y"}} {self.server.running}.0\n{WAITING} 0\n')
        elif url.path == "/environ":
            self._send(200, "\n".join(f"{name}={value}" for name, value in os.environ.items()))
        elif url.path == "/argv":
            self._send(200, "\n".join(sys.argv))
        elif url.path == "/secret":
            self._send(200, self.headers.get("Authorization", ""))
        elif url.path == "/sleep":
            with self.server.lock:
                self.server.running += 1
            time.sleep(float(parse_qs(url.query)["s"][0]))
            with self.server.lock:
                self.server.running -= 1
            self._send(200, "slept")
        else:
            self._send(404, "nothing here")

    def _send(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--daemonize", action="store_true")
    parser.add_argument("--grandchild", action="store_true")
    parser.add_argument("--unhealthy", action="store_true")
    parser.add_argument("--ready-after", type=float, default=0)
    parser.add_argument("--exit-after", type=float)
    parser.add_argument("--exit-code", type=int, default=0)
    parser.add_argument("--say", default="")
    parser.add_argument("--flood", type=int, default=0)
    parser.add_argument("--take-port-once")
    parser.add_argument("--elsewhere", action="store_true")
    parser.add_argument("--mark")
    parser.add_argument("--busy", action="store_true")
    args = parser.parse_args()
    if args.mark:
        with Path(args.mark).open("a") as file:
            file.write("started\n")
    if args.say:
        print(args.say, flush=True)
    if args.take_port_once and not Path(args.take_port_once).exists():
        Path(args.take_port_once).touch()
        print("OSError: [Errno 98] Address already in use", file=sys.stderr, flush=True)
        sys.exit(1)
    if args.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if args.grandchild:
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
        )
    if args.daemonize and os.fork():
        time.sleep(0.5)
        os._exit(0)
    elif args.daemonize:
        os.setsid()
    if args.elsewhere and os.fork():
        time.sleep(600)
    elif args.elsewhere:
        os.setsid()
    if args.exit_after is not None:
        threading.Timer(args.exit_after, lambda: os._exit(args.exit_code)).start()
    for _ in range(args.flood // 1000):
        print("x" * 999, flush=False)
    sys.stdout.flush()
    time.sleep(args.ready_after)
    with Engine((args.host, args.port), Answer) as engine:
        engine.healthy = not args.unhealthy
        if args.busy:
            for _ in range(3):  # the look at the port, the health check, the load
                engine.handle_request()
            time.sleep(0.5)  # for its answering threads
            while True:
                sum(range(10_000))
        engine.serve_forever()


if __name__ == "__main__":
    main()
