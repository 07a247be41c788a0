/* simplecache.h as a C program uses it. Runs in a directory that tests/cache/c_interface.rs has filled. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "simplecache.h"

#ifdef DELAY
unsigned long int cache_delay = DELAY;
#endif

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            printf("line %d: %s (errno %d)\n", __LINE__, #condition, errno);              \
            exit(EXIT_FAILURE);                                                           \
        }                                                                                 \
    } while (0)

static int holds(int fd, const char *text) {
    char buffer[64];
    ssize_t len = pread(fd, buffer, sizeof buffer, 0);
    return len == (ssize_t)strlen(text) && memcmp(buffer, text, (size_t)len) == 0;
}

static int fails(char *key, int reason) {
    errno = 0;
    return simplecache_get(key) == -1 && errno == reason;
}

/* Many threads ask for the same files at once: all get the same descriptors. */
static void *ask(void *descriptors) {
    int *fd = descriptors;

    for (int round = 0; round < 1000; round++) {
        fd[0] = simplecache_get("/a");
        fd[1] = simplecache_get("/b c");
        CHECK(holds(fd[0], "first") && holds(fd[1], "second"));
    }
    return NULL;
}

static void share(void) {
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    int descriptors[THREADS][2];

    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, ask, descriptors[i]) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    for (int i = 1; i < THREADS; i++)
        CHECK(memcmp(descriptors[0], descriptors[i], sizeof descriptors[0]) == 0);
}

#ifdef DELAY
static void sleep_first(void) {
    struct timespec before, after;

    clock_gettime(CLOCK_MONOTONIC, &before);
    CHECK(simplecache_get("/a") >= 0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    long us = (after.tv_sec - before.tv_sec) * 1000000 + (after.tv_nsec - before.tv_nsec) / 1000;
    CHECK(us >= DELAY);
}
#endif

int main(void) {
    char byte;

    simplecache_destroy();
    CHECK(fails("/a", ENOENT));
    errno = 0;
    CHECK(simplecache_init("absent.txt") == -1 && errno == ENOENT);
    CHECK(simplecache_init(NULL) == -1 && errno == EINVAL);

    CHECK(simplecache_init("locals.txt") == 0);
#ifdef DELAY
    sleep_first();
    cache_delay = 0;
#endif
    share();
    CHECK(fails("/none", ENOENT) && fails("", ENOENT) && fails("/vanished", ENOENT));
    CHECK(fails("/directory", EINVAL) && fails("/fifo", EINVAL) && fails(NULL, EINVAL));

    /* The offset is back at 0 with each call, for callers that read(2) from one thread. */
    int fd = simplecache_get("/a");
    CHECK(read(fd, &byte, 1) == 1 && byte == 'f');
    CHECK(simplecache_get("/a") == fd && read(fd, &byte, 1) == 1 && byte == 'f');

    /* What was given out outlives the file's name, a broken reload and a good one. */
    CHECK(unlink("a") == 0 && simplecache_get("/a") == fd && holds(fd, "first"));
    CHECK(simplecache_init("broken.txt") == -1 && errno == EINVAL && simplecache_get("/a") == fd);
    CHECK(simplecache_init("other.txt") == 0 && holds(fd, "first"));
    CHECK(fails("/a", ENOENT) && holds(simplecache_get("/other"), "second"));

    simplecache_destroy();
    CHECK(fcntl(fd, F_GETFD) == -1 && errno == EBADF);
    CHECK(fails("/other", ENOENT));
    CHECK(simplecache_init("other.txt") == 0 && holds(simplecache_get("/other"), "second"));
    simplecache_destroy();
    return EXIT_SUCCESS;
}
