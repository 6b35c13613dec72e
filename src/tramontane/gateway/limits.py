"""Every limit of a gateway by name, with the reason for its default."""

from dataclasses import dataclass
from typing import Final

RECORD_BYTES_MAX: Final = 1_024  # one usage event as a line: seven ids, a name, twenty keys


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds. Tests shorten the times; nothing else changes them."""

    # What a client may send.
    head_bytes_max: int = 32 * 1024  # request line and headers; the usual limit of servers
    body_bytes_max: int = 32 * 1024 * 1024  # some eight million tokens of text, or a few images
    early_check_bytes: int = 64 * 1024  # a longer body is not read before the key is checked
    pipelined_bytes_max: int = 256 * 1024  # read ahead of the request being served
    connections_max: int = 16_384
    head_s: float = 10.0  # from the first byte of a request to the end of its headers
    body_grace_s: float = 30.0  # for any body, and between two pieces of one
    body_rate_min: int = 1_024  # bytes per second that a longer body must keep up
    keep_alive_s: float = 75.0  # between two requests; longer than the clients' own pools keep
    stall_s: float = 60.0  # a client that takes no byte of its reply for this long is gone
    linger_s: float = 2.0  # reads on after an early refusal, so that the client sees it

    # What an engine may do.
    connect_s: float = 2.0  # a replica is near; a SYN lost twice is a dead one
    first_byte_s: float = 600.0  # as long as the official clients wait
    idle_s: float = 120.0  # between two pieces of a stream
    comment_s: float = 15.0  # a silent stream gets a comment; proxies hang up after 60 s or so
    first_comment_s: float = 30.0  # before the first piece; the reply's head goes out with it
    reply_bytes_max: int = 256 * 1024 * 1024  # 2,048 embeddings of 8,192 numbers as text
    error_bytes_max: int = 1024 * 1024  # an engine's error body
    stream_event_bytes_max: int = 8 * 1024 * 1024  # one event: a whole tool call, log-probs
    attempts_max: int = 3  # replicas tried for one request
    replica_inflight_max: int = 1_024  # what waits longer in an engine's queue is given up on
    aside_s: float = 2.0  # a replica that refused a connection is skipped for this long
    eject_failures: int = 5  # in a row, and a replica is ejected: fewer happen to a healthy one
    eject_share_percent: int = 50  # or so many of its answers within the window,
    eject_seen_min: int = 20  # of at least so many,
    eject_window_s: float = 10.0
    eject_s: float = 5.0  # the first time; then twice as long each time, as it fails its probes
    eject_s_max: float = 300.0
    eject_calm_s: float = 60.0  # after so long without, the next time is a first time again
    pool_idle_s: float = 4.0  # below the 5 s after which llama.cpp and uvicorn hang up
    reuse_race_s: float = 1.0  # a kept connection that closes this soon had closed before

    # Waiting for a replica with room.
    queue_max: int = 1_024  # requests: a quarter of what may be served at a time
    queue_bytes_max: int = 128 * 1024 * 1024  # of their bodies, a project at most half of it
    queue_s_min: float = 20.0  # at least so long, however short the measured start is
    queue_s_max: float = 300.0  # at most so long: as long as the least patient client waits

    # Limits and budgets: what a gateway asks the control plane for.
    waiting_s: float = 2.0  # a request waits this long for room; clients take longer to try again
    waiting_max: int = 4_096  # requests that wait: as many as may be served at a time
    waiting_project_max: int = 2_048  # of one project: half, so that one cannot fill it
    bindings_max: int = 65_536  # pairs of key and model that are remembered: some 30 MB
    slices_look_s: float = 0.1  # how often what is held is looked at
    slices_reply_s: float = 2.0  # a report without an answer for so long is sent again
    slices_away_s: float = 1.0  # without an answer for so long, each keeps to its share
    slices_retry_s_max: float = 1.0  # between two tries
    slices_asks_max: int = 256  # in one report; more go with the next one
    slices_close_s: float = 1.0  # what is not given back by then is told by the next start

    # The control plane.
    forward_buffer_bytes: int = 256 * 1024  # of an upload, before its reading pauses
    poll_wait_s: int = 20  # of the long poll for the route table
    retry_s_max: float = 5.0  # between two tries to reach it: a revoked key must go in 5 s
    ready_cache_s: float = 1.0  # /ready asks an engine at most this often
    not_ready_cache_s: float = 0.1  # a start is waited for
    probe_s: float = 2.0

    # Metering.
    inflight_max: int = 4_096  # requests being served at a time
    spool_bytes_max: int = 1024 * 1024 * 1024  # about two million events without control plane
    segment_bytes: int = 1024 * 1024  # of one spool file: what is shipped again after a crash
    spool_step_bytes: int = 256 * 1024  # how far ahead room is reserved on the disk
    sync_s: float = 0.01  # a group of events is on the disk this soon
    ship_pause_s: float = 0.2  # between two batches, so that they fill
    ship_batch: int = 500

    # What an operator sees.
    metric_series_max: int = 500  # pairs of project and model: some 4 MB a scrape if all are busy

    sweep_s: float = 1.0  # how often deadlines are looked at
    drain_s: float = 30.0  # streams may take this long after SIGTERM
    drain_idle_s: float = 0.5  # an idle connection stays so long: a request may be on its way
