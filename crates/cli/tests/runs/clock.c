/* Moves the clock of a process: CLOCK_REALTIME is shifted by the microseconds that the file named by
 * TALLY_TEST_CLOCK holds. Clocks that only measure what passes are left alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

typedef int (*gettime)(clockid_t, struct timespec *);

static const volatile int64_t *shift;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("TALLY_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *at = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    if (at != MAP_FAILED)
        shift = at;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static gettime real;
    if (!real)
        real = (gettime)dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (failed || clock != CLOCK_REALTIME || !shift)
        return failed;
    int64_t micros = now->tv_nsec / 1000 + *shift;
    int64_t seconds = micros / 1000000, rest = micros % 1000000;
    if (rest < 0) {
        seconds -= 1;
        rest += 1000000;
    }
    now->tv_sec += seconds;
    now->tv_nsec = rest * 1000;
    return 0;
}
