"""Health: named checks, asked in the background, answered over gRPC and over HTTP.

*Ready* is a process whose checks all pass; *live* is one whose event loop still turns.  The HTTP answers have
SPIRE's shape: status 200 or 500, and a JSON object with an entry for each check.
"""

import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import structlog

from spiffe_core.errors import InvalidConfig, SpiffeError
from spiffe_core.runtime.clock import Clock
from spiffe_core.runtime.settings import HealthChecks

CHECK_EVERY: Final = 1.0
"""Seconds between two rounds of checks."""
_STALE: Final = 30.0
"""Seconds without a round after which the event loop counts as stuck."""

Check = Callable[[], Awaitable[None]]
"""Returns if all is well, raises an error of ours if not."""

log: Final = structlog.get_logger()


class Health:
    """The checks of one process and how they last went."""

    def __init__(self, checks: Mapping[str, Check], clock: Clock) -> None:
        self._checks = checks
        self._clock = clock
        self._failures: Mapping[str, str] = dict.fromkeys(checks, "not checked yet")
        self._checked_at = clock.monotonic()

    @property
    def failures(self) -> Mapping[str, str]:
        """The checks that did not pass, and why."""
        return self._failures

    def is_ready(self) -> bool:
        """Whether all checks pass."""
        return not self._failures and self.is_live()

    def is_live(self) -> bool:
        """Whether checks are made at all."""
        return self._clock.monotonic() - self._checked_at < _STALE

    async def check(self) -> None:
        """Make one round; what begins or ceases to fail is logged."""
        failures = {}
        for name, check in self._checks.items():
            try:
                await check()
            except SpiffeError as exc:
                failures[name] = str(exc)
        for name, reason in failures.items():
            if self._failures.get(name) != reason:
                log.warning("Health check failed", check=name, error=reason)
        for name in self._failures.keys() - failures.keys():
            log.info("Health check passed", check=name)
        self._failures = failures
        self._checked_at = self._clock.monotonic()

    def report(self) -> dict[str, Any]:
        """An object with an entry for each check: empty if it passes, else the error."""
        return {name: {"err": self._failures[name]} if name in self._failures else {} for name in self._checks}


class HealthListener:
    """Answers for the health of a process over HTTP, in a thread, so that a stuck event loop is seen."""

    def __init__(self, config: HealthChecks, health: Health) -> None:
        """Listen.

        Raises:
            InvalidConfig: if the address cannot be listened on.
        """
        answers = {
            config.live_path: (health.is_live, health.report),
            config.ready_path: (health.is_ready, health.report),
        }

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = answers.get(self.path.partition("?")[0])
                if answer is None:
                    self.send_error(HTTPStatus.NOT_FOUND)
                    return
                is_well, report = answer
                body = json.dumps(report()).encode()
                self.send_response(HTTPStatus.OK if is_well() else HTTPStatus.INTERNAL_SERVER_ERROR)
                self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                """Probes come every few seconds: no line for each."""

        Handler.timeout = 5
        try:
            self._server = ThreadingHTTPServer((config.bind_address, config.bind_port), Handler)
        except OSError as exc:
            raise InvalidConfig(
                f"health_checks: cannot listen on {config.bind_address}:{config.bind_port}: {exc.strerror}"
            ) from exc
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
