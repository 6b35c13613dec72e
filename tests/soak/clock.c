/* Steps the wall clock of one process: preloaded, it adds what stands in the file SOAK_CLOCK
 * (nanoseconds, 8 bytes, mapped) to every reading of the time of day. Monotonic time is left alone,
 * as it is when an operator or NTP sets a machine's clock.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int (*real_clock)(clockid_t, struct timespec *);
static volatile int64_t *ahead_ns;

__attribute__((constructor)) static void prepare(void) {
    real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("SOAK_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *map = mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED) ahead_ns = map;
    close(fd);
}

int clock_gettime(clockid_t which, struct timespec *to) {
    if (!real_clock) prepare();
    int result = real_clock(which, to);
    if (result || !ahead_ns || (which != CLOCK_REALTIME && which != CLOCK_REALTIME_COARSE))
        return result;
    int64_t ns = to->tv_sec * 1000000000LL + to->tv_nsec + *ahead_ns;
    to->tv_sec = ns / 1000000000LL;
    to->tv_nsec = ns % 1000000000LL;
    return 0;
}

int gettimeofday(struct timeval *to, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    to->tv_sec = now.tv_sec;
    to->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
