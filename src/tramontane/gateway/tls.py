"""TLS on the public port and towards replicas, from files that may change while we serve.

A changed file counts for new connections; those that are open keep what they began with. Files
that do not fit together, as in the middle of a renewal, are looked at again a second later.
"""

import logging
import ssl
from pathlib import Path
from typing import Final

LOG: Final = logging.getLogger("tramontane.gateway.tls")
_Stamp = tuple[tuple[int, int, int] | None, ...]


class TlsError(Exception):
    """Certificate files cannot be used; the message names them and says why."""


class ServerTls:
    """What the public port shows to clients: TLS 1.2 or newer, HTTP/1.1."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """``certificate`` holds the chain, ``key`` has no passphrase. Raises `TlsError`."""
        self._files = (certificate, key)
        self._stamp = _stamp_of(self._files)
        self._fresh = self._load()
        # Who listens keeps one context for ever; it hands each connection over to the fresh one.
        self.context = self._load()
        self.context.sni_callback = self._pass_over

    def look(self) -> None:
        """Take the files up again when they have changed."""
        stamp = _stamp_of(self._files)
        if stamp == self._stamp:
            return
        try:
            self._fresh = self._load()
        except TlsError as error:
            LOG.error("the certificate before stays in use: %s", error)
        else:
            LOG.info("new connections get the certificate of %s", self._files[0])
        self._stamp = stamp

    def _pass_over(
        self,
        connection: ssl.SSLObject,
        name: str | None,  # noqa: ARG002 - one certificate for all names
        context: ssl.SSLContext,  # noqa: ARG002
    ) -> None:
        connection.context = self._fresh

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        _load_pair(context, *self._files)
        return context


class ReplicaTls:
    """How replicas are spoken to: their certificate is checked, ours is shown if there is one."""

    def __init__(self, ca: Path, certificate: Path | None, key: Path | None) -> None:
        """``ca`` signs the replicas' certificates. Raises `TlsError`."""
        self._ca = ca
        self._pair = (certificate, key) if certificate is not None and key is not None else None
        self._stamp = _stamp_of((ca, *(self._pair or ())))
        self.context = self._load()

    def look(self) -> None:
        """Take the files up again when they have changed."""
        stamp = _stamp_of((self._ca, *(self._pair or ())))
        if stamp == self._stamp:
            return
        try:
            self.context = self._load()
        except TlsError as error:
            LOG.error("what is shown to replicas stays as before: %s", error)
        self._stamp = stamp

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_verify_locations(self._ca)
        except (OSError, ssl.SSLError) as error:
            msg = f"the CA of replicas {self._ca} cannot be used: {_reason(error)}"
            raise TlsError(msg) from error
        if self._pair is not None:
            _load_pair(context, *self._pair)
        return context


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        # An empty passphrase fails where the default would ask at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ssl.SSLError) as error:
        msg = (
            f"the certificate {certificate} and the key {key} cannot be used: {_reason(error)}; "
            "both must be PEM files, the key that of the certificate and without a passphrase"
        )
        raise TlsError(msg) from error


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        reason: str | None = getattr(error, "reason", None)  # None, whatever its type says
        return (reason or "not PEM").lower().replace("_", " ")
    return (error.strerror or str(error)).lower()


def _stamp_of(files: tuple[Path, ...]) -> _Stamp:
    """Return what differs when a file was written or replaced."""
    found: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(found)
