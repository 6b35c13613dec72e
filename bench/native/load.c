/* Loads one HTTP endpoint and measures it, with what it costs the processes that serve it.
 *
 *   load PORT REQUEST_FILE CONNECTIONS WARM_S SECONDS [rate=N] [stream=1] [pids=1,2,...] [ramp_s=N]
 *
 * Each connection sends the bytes of REQUEST_FILE again and again, the next as soon as the reply is
 * there; with rate=N, N a second over all connections, and a latency counts from the moment when
 * the request was due. With stream=1 replies are streams: the time to the first event and the
 * events are counted. CPU time of `pids` is read from /proc at both ends of the window, by this
 * program itself, so that it belongs to what was counted. With ramp_s connections open evenly over
 * so many seconds, which keeps streams of one length apart. Prints one JSON object. One thread.
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

#define MAX_CONNECTIONS 8192
#define SAMPLES_MAX (1 << 22)
#define READ_BYTES (256 * 1024)
#define GIVE_UP_US 30000000ULL

enum state { IDLE, HEAD, LENGTH, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, UNTIL_CLOSE };

struct connection {
    int fd;
    enum state state;
    int sent;                 /* bytes of the request that went out */
    uint64_t due_us, began_us;
    char head[16384];
    int head_used;
    long left;                /* of a body with a length, or of a chunk */
    char line[32];
    int line_used, status, closes, is_connecting;
    int matched;              /* how much of "data:" at a line's start was seen */
    int events, is_first_seen, is_done_seen;
};

static const char EVENT[] = "\ndata:";
static struct connection *all;
static char *request;
static int request_length, port, poller, is_stream;
static uint64_t *waits, waits_used, *firsts, firsts_used;
static uint64_t requests, errors, events_seen, cut, reconnects, window_start, window_end;
static uint64_t *due_queue, due_head, due_tail, due_room;
static int *idle, idle_used;
static double rate;
static long pids[256];
static int pid_count;
static char last_error[160] = "";

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int is_counted(uint64_t now) { return now >= window_start && now < window_end; }

static void start(struct connection *c, uint64_t due_us);

static uint64_t cpu_ticks(void) {
    uint64_t total = 0;
    for (int i = 0; i < pid_count; i++) {
        char path[64], text[1024];
        snprintf(path, sizeof path, "/proc/%ld/stat", pids[i]);
        int fd = open(path, O_RDONLY);
        if (fd < 0) continue;
        int got = read(fd, text, sizeof text - 1);
        close(fd);
        if (got <= 0) continue;
        text[got] = 0;
        char *at = strrchr(text, ')');
        unsigned long user, system;
        if (at && sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
                         &system) == 2)
            total += user + system;
    }
    return total;
}

static void dial(struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int on = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    c->is_connecting = connect(c->fd, (void *)&address, sizeof address) < 0;
    if (c->is_connecting && errno != EINPROGRESS) {
        perror("load: connect");
        exit(1);
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void watch(struct connection *c, int events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

static void next_request(struct connection *c) {
    c->state = IDLE;
    if (rate == 0) {
        uint64_t now = now_us();
        start(c, now);
    } else if (due_head < due_tail) {
        start(c, due_queue[due_head++ % due_room]);
    } else {
        idle[idle_used++] = c - all;
    }
}

static void fail(struct connection *c, const char *why) {
    uint64_t now = now_us();
    if (is_counted(now)) errors++;
    snprintf(last_error, sizeof last_error, "%s (status %d)", why, c->status);
    close(c->fd);
    reconnects++;
    enum state before = c->state;
    dial(c);
    if (before != IDLE) next_request(c);
}

static void push(struct connection *c) {
    int sent = write(c->fd, request + c->sent, request_length - c->sent);
    if (sent < 0) {
        if (errno == EAGAIN) {
            watch(c, EPOLLIN | EPOLLOUT);
            return;
        }
        fail(c, "could not send");
        return;
    }
    c->sent += sent;
    watch(c, c->sent < request_length ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void start(struct connection *c, uint64_t due_us) {
    c->state = HEAD;
    c->sent = c->head_used = c->line_used = c->status = c->closes = 0;
    c->events = c->is_first_seen = c->is_done_seen = 0;
    c->matched = 1; /* the body's first byte begins a line */
    c->due_us = due_us;
    c->began_us = now_us();
    if (!c->is_connecting) push(c);
}

static void finish(struct connection *c) {
    uint64_t now = now_us();
    if (is_counted(now)) {
        if (c->status != 200) {
            errors++;
            snprintf(last_error, sizeof last_error, "status %d: %.100s", c->status, c->head);
        } else {
            requests++;
            if (is_stream && !c->is_done_seen) cut++;
            if (waits_used < SAMPLES_MAX) waits[waits_used++] = now - c->due_us;
        }
    }
    if (c->closes) {
        close(c->fd);
        reconnects++;
        dial(c);
    }
    next_request(c);
}

static void look_at_body(struct connection *c, const char *data, int length, uint64_t now) {
    if (!is_stream) return;
    if (memmem(data, length, "[DONE]", 6)) c->is_done_seen = 1;
    int found = 0;
    for (int i = 0; i < length; i++) {
        if (data[i] == EVENT[c->matched]) {
            if (++c->matched == sizeof EVENT - 1) {
                found++;
                c->matched = 0;
            }
        } else {
            c->matched = data[i] == '\n';
        }
    }
    if (!found) return;
    if (!c->is_first_seen) {
        c->is_first_seen = 1;
        if (is_counted(now) && firsts_used < SAMPLES_MAX) firsts[firsts_used++] = now - c->due_us;
    }
    if (is_counted(now)) events_seen += found;
}

static const char *header_of(struct connection *c, const char *name) {
    int length = strlen(name);
    for (char *at = c->head; (at = strchr(at, '\n')); at++)
        if (!strncasecmp(at + 1, name, length) && at[1 + length] == ':') {
            at += 2 + length;
            while (*at == ' ') at++;
            return at;
        }
    return NULL;
}

static void read_head(struct connection *c) {
    c->head[c->head_used] = 0;
    c->status = atoi(c->head + 9);
    const char *coding = header_of(c, "transfer-encoding"), *length = header_of(c, "content-length");
    const char *connection = header_of(c, "connection");
    c->closes = connection && !strncasecmp(connection, "close", 5);
    if (coding && !strncasecmp(coding, "chunked", 7)) c->state = CHUNK_SIZE;
    else if (length) {
        c->left = atol(length);
        c->state = LENGTH;
        if (!c->left) finish(c);
    } else c->state = UNTIL_CLOSE;
}

static void take(struct connection *c, const char *data, int length) {
    uint64_t now = now_us();
    int at = 0;
    while (at < length) {
        int rest = length - at;
        switch (c->state) {
        case IDLE:
            fail(c, "bytes that nobody asked for");
            return;
        case HEAD: {
            if (c->head_used >= (int)sizeof c->head - 1) {
                fail(c, "a head without end");
                return;
            }
            c->head[c->head_used++] = data[at++];
            if (c->head_used >= 4 && !memcmp(c->head + c->head_used - 4, "\r\n\r\n", 4)) {
                if (!memcmp(c->head, "HTTP/1.1 1", 10)) c->head_used = 0;
                else read_head(c);
            }
            break;
        }
        case UNTIL_CLOSE:
            look_at_body(c, data + at, rest, now);
            return;
        case LENGTH:
        case CHUNK_DATA: {
            int piece = rest < c->left ? rest : c->left;
            look_at_body(c, data + at, piece, now);
            at += piece;
            c->left -= piece;
            if (!c->left) {
                if (c->state == LENGTH) finish(c);
                else {
                    c->state = CHUNK_END;
                    c->line_used = 0;
                }
            }
            break;
        }
        case CHUNK_END:
            if (data[at++] == '\n') c->state = CHUNK_SIZE;
            break;
        case CHUNK_SIZE: {
            char byte = data[at++];
            if (byte == '\n') {
                c->line[c->line_used] = 0;
                c->left = strtol(c->line, NULL, 16);
                c->line_used = 0;
                c->state = c->left ? CHUNK_DATA : TRAILER;
            } else if (c->line_used < (int)sizeof c->line - 1) c->line[c->line_used++] = byte;
            break;
        }
        case TRAILER: {
            char byte = data[at++];
            if (byte == '\n') {
                if (!c->line_used) finish(c);
                c->line_used = 0;
            } else if (byte != '\r') c->line_used = 1;
            break;
        }
        }
    }
}

static void hear(struct connection *c) {
    static char data[READ_BYTES];
    int got = read(c->fd, data, sizeof data);
    if (got > 0) take(c, data, got);
    else if (got == 0 && c->state == UNTIL_CLOSE) {
        c->closes = 1;
        finish(c);
    } else if (got == 0 && (c->state == IDLE || (c->state == HEAD && !c->head_used))) {
        /* A kept connection that the server has closed: dial again, and say it again. */
        close(c->fd);
        reconnects++;
        uint64_t due = c->due_us;
        int was_idle = c->state == IDLE;
        dial(c);
        if (!was_idle) start(c, due);
    } else if (got == 0 || errno != EAGAIN) fail(c, got ? "connection broken" : "reply cut short");
}

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static double quantile_ms(uint64_t *values, uint64_t count, double part) {
    if (!count) return 0;
    return values[(uint64_t)((count - 1) * part)] / 1000.0;
}

static void load_request(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror("load: request file");
        exit(1);
    }
    fseek(file, 0, SEEK_END);
    request_length = ftell(file);
    rewind(file);
    request = malloc(request_length);
    if (fread(request, 1, request_length, file) != (size_t)request_length) exit(1);
    fclose(file);
}

int main(int argc, char **argv) {
    if (argc < 6) {
        fprintf(stderr, "usage: load PORT REQUEST_FILE CONNECTIONS WARM_S SECONDS [rate=N] "
                        "[stream=1] [pids=1,2] [ramp_s=N]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    port = atoi(argv[1]);
    load_request(argv[2]);
    int count = atoi(argv[3]);
    double ramp_s = 0.1;
    double warm_s = atof(argv[4]), seconds = atof(argv[5]);
    for (int i = 6; i < argc; i++) {
        if (!strncmp(argv[i], "rate=", 5)) rate = atof(argv[i] + 5);
        if (!strncmp(argv[i], "stream=", 7)) is_stream = atoi(argv[i] + 7);
        if (!strncmp(argv[i], "ramp_s=", 7)) ramp_s = atof(argv[i] + 7);
        if (!strncmp(argv[i], "pids=", 5))
            for (char *at = strtok(argv[i] + 5, ","); at && pid_count < 256; at = strtok(NULL, ","))
                pids[pid_count++] = atol(at);
    }
    if (count > MAX_CONNECTIONS) count = MAX_CONNECTIONS;
    all = calloc(count, sizeof *all);
    idle = calloc(count + 1, sizeof *idle);
    waits = malloc(SAMPLES_MAX * sizeof *waits);
    firsts = malloc(SAMPLES_MAX * sizeof *firsts);
    due_room = 1 << 20;
    due_queue = malloc(due_room * sizeof *due_queue);
    poller = epoll_create1(0);
    uint64_t began = now_us();
    window_start = began + (uint64_t)(warm_s * 1e6);
    window_end = window_start + (uint64_t)(seconds * 1e6);
    int opened = 0, at_start = 0;
    uint64_t ticks_before = 0, ticks_after = 0, started_at = 0, sent_due = 0, next_check = began;
    struct epoll_event events[1024];
    for (;;) {
        uint64_t now = now_us();
        if (!at_start && now >= window_start) {
            at_start = 1;
            ticks_before = cpu_ticks();
            started_at = now;
        }
        if (now >= window_end) break;
        for (; opened < count && now >= began + ramp_s * 1e6 * opened / count; opened++) {
            dial(&all[opened]);
            next_request(&all[opened]);
        }
        if (rate > 0) { /* what is due by now goes to idle connections, or waits for one */
            uint64_t due_by_now = (uint64_t)((now - began) / 1e6 * rate);
            for (; sent_due < due_by_now; sent_due++) {
                uint64_t due = began + (uint64_t)((sent_due + 1) / rate * 1e6);
                if (idle_used) start(&all[idle[--idle_used]], due);
                else if (due_tail - due_head < due_room) due_queue[due_tail++ % due_room] = due;
            }
        }
        if (now >= next_check) { /* a server that never answers must not hang the measurement */
            next_check = now + 1000000;
            for (int i = 0; i < opened; i++)
                if (all[i].state != IDLE && !is_stream && now > all[i].began_us + GIVE_UP_US)
                    fail(&all[i], "no reply in 30 s");
        }
        int wait_ms = opened < count ? 1 : 10;
        if (rate > 0) {
            uint64_t next = began + (uint64_t)((sent_due + 1) / rate * 1e6);
            wait_ms = next <= now ? 0 : (int)((next - now) / 1000);
            if (wait_ms > 10) wait_ms = 10;
        }
        int ready = epoll_wait(poller, events, 1024, wait_ms);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->is_connecting && (events[i].events & (EPOLLOUT | EPOLLERR))) {
                c->is_connecting = 0;
                int fault = 0;
                socklen_t length = sizeof fault;
                getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &fault, &length);
                if (fault) {
                    usleep(1000);
                    fail(c, "no connection");
                    continue;
                }
                if (c->state == HEAD) push(c);
                else watch(c, EPOLLIN);
                continue;
            }
            if ((events[i].events & EPOLLOUT) && c->state == HEAD && c->sent < request_length)
                push(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) hear(c);
        }
    }
    ticks_after = cpu_ticks();
    double window_s = (now_us() - started_at) / 1e6;
    double cpu_s = (double)(ticks_after - ticks_before) / sysconf(_SC_CLK_TCK);
    qsort(waits, waits_used, sizeof *waits, by_size);
    qsort(firsts, firsts_used, sizeof *firsts, by_size);
    for (char *at = last_error; *at; at++)
        if (*at < ' ' || *at == '"' || *at == '\\') *at = ' ';
    printf("{\"seconds\":%.3f,\"requests\":%lu,\"errors\":%lu,\"cut\":%lu,\"events\":%lu,"
           "\"reconnects\":%lu,\"cpu_s\":%.3f,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f,"
           "\"ttft_p50_ms\":%.3f,\"ttft_p99_ms\":%.3f,\"ttft_count\":%lu,\"waiting\":%lu,"
           "\"last_error\":\"%s\"}\n",
           window_s, requests, errors, cut, events_seen, reconnects, cpu_s,
           quantile_ms(waits, waits_used, 0.5), quantile_ms(waits, waits_used, 0.99),
           quantile_ms(waits, waits_used, 1.0), quantile_ms(firsts, firsts_used, 0.5),
           quantile_ms(firsts, firsts_used, 0.99), firsts_used, due_tail - due_head, last_error);
    return 0;
}
