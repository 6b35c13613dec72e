/* An engine's HTTP side without an engine: answers chat completions at the cost of a memcpy.
 *
 *   stub PORT[,PORT...]
 *
 * A request whose body has "stream":true gets as many chunks as its "max_tokens" says (16 unless it
 * says), the first at once and the others every "seed" microseconds (20,000 unless it says): both
 * are fields that every gateway passes on. Any other POST gets a whole reply of some 600 bytes; a
 * GET gets what routers ask workers for. Bodies may be chunked. One thread.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_FD 65536
#define BUFFER (256 * 1024)

static const char WHOLE[] =
    "{\"id\":\"chatcmpl-5f0c8e0d7f9b4c0b8f4e6d1a2b3c4d5e\",\"object\":\"chat.completion\","
    "\"created\":1780000000,\"model\":\"bench\",\"choices\":[{\"index\":0,\"message\":{\"role\":"
    "\"assistant\",\"content\":\"A gateway stands between those who ask and those who answer: it "
    "knows who asks, counts what is used, picks who has time, and otherwise keeps out of the way. "
    "What it adds must be small beside what it serves.\",\"refusal\":null,\"tool_calls\":[]},"
    "\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null}],\"usage\":{"
    "\"prompt_tokens\":50,\"completion_tokens\":50,\"total_tokens\":100,"
    "\"prompt_tokens_details\":null},\"prompt_logprobs\":null}";
static const char OTHER[] =
    "{\"status\":\"ok\",\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\","
    "\"created\":1780000000,\"owned_by\":\"stub\",\"max_model_len\":131072}],\"model_path\":"
    "\"bench\",\"served_model_name\":\"bench\",\"model_id\":\"bench\",\"tp_size\":1,\"dp_size\":1,"
    "\"is_generation\":true}";
#define CHUNK(delta, finish)                                                                      \
    "data: {\"id\":\"chatcmpl-5f0c8e0d7f9b4c0b8f4e6d1a2b3c4d5e\",\"object\":"                     \
    "\"chat.completion.chunk\",\"created\":1780000000,\"model\":\"bench\",\"choices\":[{"         \
    "\"index\":0,\"delta\":" delta ",\"logprobs\":null,\"finish_reason\":" finish "}]}\n\n"
static const char FIRST[] = CHUNK("{\"role\":\"assistant\",\"content\":\"\"}", "null");
static const char PIECE[] = CHUNK("{\"content\":\" token\"}", "null");
static const char FINISH[] = CHUNK("{\"content\":\"\"}", "\"stop\"");
static const char USAGE[] =
    "data: {\"id\":\"chatcmpl-5f0c8e0d7f9b4c0b8f4e6d1a2b3c4d5e\",\"object\":"
    "\"chat.completion.chunk\",\"created\":1780000000,\"model\":\"bench\",\"choices\":[],"
    "\"usage\":{\"prompt_tokens\":50,\"completion_tokens\":50,\"total_tokens\":100}}\n\n";
static const char DONE[] = "data: [DONE]\n\n";

struct peer {
    char *in;          /* what was read and not answered yet */
    int used, room;
    char *out;         /* what the socket did not take */
    int queued;
    int chunks_left;   /* of the stream being sent; 0: none */
    int wants_usage;
    int pace_us;
    unsigned turn;     /* counts the streams of this number, so that an old entry is known */
    int is_open;
};

/* A stream that waits for its next chunk, in a heap with the earliest on top. */
struct entry {
    uint64_t due_us;
    int fd;
    unsigned turn;
};

static struct peer peers[MAX_FD];
static struct entry heap[4 * MAX_FD];
static int waiting;
static int poller;
static char reply_whole[2048], reply_other[1024], wire_piece[512], wire_end[2048],
    wire_end_usage[2048], wire_first[2048];
static int whole_len, other_len, piece_len, end_len, end_usage_len, first_len;

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int framed(char *to, const char *data) {
    return sprintf(to, "%zx\r\n%s\r\n", strlen(data), data);
}

static void prepare(void) {
    whole_len = sprintf(reply_whole,
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                        "content-length: %zu\r\n\r\n%s", strlen(WHOLE), WHOLE);
    other_len = sprintf(reply_other,
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                        "content-length: %zu\r\n\r\n%s", strlen(OTHER), OTHER);
    first_len = sprintf(wire_first, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; "
                                    "charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n");
    first_len += framed(wire_first + first_len, FIRST);
    piece_len = framed(wire_piece, PIECE);
    end_len = framed(wire_end, FINISH);
    end_usage_len = framed(wire_end_usage, FINISH);
    end_usage_len += framed(wire_end_usage + end_usage_len, USAGE);
    end_len += framed(wire_end + end_len, DONE);
    end_usage_len += framed(wire_end_usage + end_usage_len, DONE);
    end_len += sprintf(wire_end + end_len, "0\r\n\r\n");
    end_usage_len += sprintf(wire_end_usage + end_usage_len, "0\r\n\r\n");
}

static void hang_up(int fd) {
    struct peer *p = &peers[fd];
    p->is_open = 0;
    p->chunks_left = 0;
    p->turn++; /* its entry in the heap is left out when it comes */
    p->used = p->queued = 0;
    close(fd);
}

static void send_all(int fd, const char *data, int length) {
    struct peer *p = &peers[fd];
    int sent = 0;
    if (!p->queued) {
        sent = write(fd, data, length);
        if (sent < 0 && errno != EAGAIN) {
            hang_up(fd);
            return;
        }
        if (sent < 0) sent = 0;
        if (sent == length) return;
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
    }
    p->out = realloc(p->out, p->queued + length - sent);
    memcpy(p->out + p->queued, data + sent, length - sent);
    p->queued += length - sent;
}

static void flush_queued(int fd) {
    struct peer *p = &peers[fd];
    int sent = write(fd, p->out, p->queued);
    if (sent < 0) {
        if (errno != EAGAIN) hang_up(fd);
        return;
    }
    memmove(p->out, p->out + sent, p->queued - sent);
    p->queued -= sent;
    if (!p->queued) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
    }
}

static void wait_until(int fd, uint64_t due_us) {
    if (waiting >= 4 * MAX_FD) abort();
    int at = waiting++;
    for (; at && heap[(at - 1) / 2].due_us > due_us; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
    heap[at] = (struct entry){due_us, fd, peers[fd].turn};
}

static struct entry take_earliest(void) {
    struct entry first = heap[0], last = heap[--waiting];
    int at = 0;
    for (;;) {
        int child = 2 * at + 1;
        if (child >= waiting) break;
        if (child + 1 < waiting && heap[child + 1].due_us < heap[child].due_us) child++;
        if (heap[child].due_us >= last.due_us) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return first;
}

/* Returns what stands behind the colon of `name` in either window: a number, true as 1. */
static long number_of(const char *front, const char *tail, int window, const char *name, long or) {
    const char *windows[2] = {front, tail};
    for (int i = 0; i < 2; i++) {
        const char *at = memmem(windows[i], window, name, strlen(name));
        if (!at) continue;
        at += strlen(name);
        const char *end = windows[i] + window;
        while (at < end && (*at == ':' || *at == ' ')) at++;
        if (at < end) return *at == 't' ? 1 : atol(at);
    }
    return or;
}

static void answer(int fd, const char *head, const char *body, int length) {
    struct peer *p = &peers[fd];
    if (memcmp(head, "POST", 4) != 0) {
        send_all(fd, reply_other, other_len);
        return;
    }
    /* What matters stands before or behind the prompt; a long one is not searched. */
    int window = length > 4096 ? 4096 : length;
    const char *tail = body + length - window;
    if (number_of(body, tail, window, "\"stream\"", 0) != 1) {
        send_all(fd, reply_whole, whole_len);
        return;
    }
    p->wants_usage = number_of(body, tail, window, "\"include_usage\"", 0) == 1;
    p->chunks_left = number_of(body, tail, window, "\"max_tokens\"", 16);
    p->pace_us = number_of(body, tail, window, "\"seed\"", 20000);
    send_all(fd, wire_first, first_len);
    if (p->is_open) wait_until(fd, now_us() + p->pace_us);
}

static int sends_chunked(const char *head, int length) {
    const char *at = memmem(head, length, "chunked", 7);
    return at != NULL;
}

static long content_length(const char *head, int length) {
    for (const char *at = head; (at = memchr(at, '\n', head + length - at)); at++)
        if (!strncasecmp(at + 1, "content-length:", 15)) return atol(at + 16);
    return 0;
}

/* Removes the chunk framing in place; returns bytes taken, 0 when the body is not whole. */
static int unchunk(char *data, int length, int *body_length) {
    int at = 0, to = 0;
    for (;;) {
        char *end = memmem(data + at, length - at, "\r\n", 2);
        if (!end) return 0;
        long size = strtol(data + at, NULL, 16);
        at = end - data + 2;
        if (at + size + 2 > length) return 0;
        if (size == 0) {
            *body_length = to;
            return at + 2;
        }
        memmove(data + to, data + at, size); /* only once the whole body is here, see below */
        to += size;
        at += size + 2;
    }
}

static int is_whole_chunked(const char *data, int length) {
    return length >= 5 && memcmp(data + length - 5, "0\r\n\r\n", 5) == 0;
}

static void take(int fd) {
    struct peer *p = &peers[fd];
    while (p->is_open && p->used > 0) {
        char *end = memmem(p->in, p->used, "\r\n\r\n", 4);
        if (!end) return;
        int head = end - p->in + 4, body, taken;
        if (sends_chunked(p->in, head)) {
            if (!is_whole_chunked(p->in + head, p->used - head)) return;
            taken = unchunk(p->in + head, p->used - head, &body);
            if (!taken) return;
            taken += head;
        } else {
            body = content_length(p->in, head);
            taken = head + body;
            if (p->used < taken) return;
        }
        answer(fd, p->in, p->in + head, body);
        if (!p->is_open) return;
        memmove(p->in, p->in + taken, p->used - taken);
        p->used -= taken;
    }
}

static void hear(int fd) {
    struct peer *p = &peers[fd];
    for (;;) {
        if (p->room - p->used < BUFFER / 4) p->in = realloc(p->in, p->room += BUFFER);
        int got = read(fd, p->in + p->used, p->room - p->used);
        if (got == 0 || (got < 0 && errno != EAGAIN)) {
            hang_up(fd);
            return;
        }
        if (got < 0) return;
        p->used += got;
        int was_full = p->used == p->room;
        take(fd);
        if (!p->is_open || !was_full) return;
    }
}

static void greet(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) return;
        if (fd >= MAX_FD) {
            close(fd);
            continue;
        }
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct peer *p = &peers[fd];
        p->is_open = 1;
        p->used = p->queued = p->chunks_left = 0;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

static void send_due(void) {
    uint64_t now = now_us();
    while (waiting && heap[0].due_us <= now) {
        struct entry due = take_earliest();
        struct peer *p = &peers[due.fd];
        if (!p->is_open || p->turn != due.turn) continue;
        if (--p->chunks_left > 0) {
            send_all(due.fd, wire_piece, piece_len);
            if (p->is_open) wait_until(due.fd, due.due_us + p->pace_us);
        } else {
            p->turn++;
            send_all(due.fd, p->wants_usage ? wire_end_usage : wire_end,
                     p->wants_usage ? end_usage_len : end_len);
        }
    }
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (void *)&address, sizeof address) || listen(fd, 4096)) {
        perror("stub: listen");
        exit(1);
    }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    return fd;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: stub PORT[,PORT...]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prepare();
    poller = epoll_create1(0);
    int highest = 0, listeners[16], count = 0;
    for (char *port = strtok(argv[1], ","); port && count < 16; port = strtok(NULL, ","))
        highest = listeners[count++] = listen_on(atoi(port));
    struct epoll_event events[1024];
    for (;;) {
        int wait_ms = -1;
        if (waiting) {
            uint64_t now = now_us(), due = heap[0].due_us;
            wait_ms = due <= now ? 0 : (int)((due - now + 999) / 1000);
        }
        int ready = epoll_wait(poller, events, 1024, wait_ms);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd <= highest && fd >= listeners[0]) {
                greet(fd);
                continue;
            }
            if (!peers[fd].is_open) continue;
            if (events[i].events & EPOLLOUT) flush_queued(fd);
            if (peers[fd].is_open && (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
                hear(fd);
        }
        send_due();
    }
}
