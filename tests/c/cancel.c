/* pthread_cancel of threads that are in the library: cancel SOCKET, in a directory with the file "file". The process must
 * live, the threads must end, and the library must be as usable as before. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gfproxy.h"
#include "shm_channel.h"

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) {                                                     \
            fprintf(stderr, "cancel.c:%d: not so: %s\n", __LINE__, #condition); \
            exit(1);                                                            \
        }                                                                       \
    } while (0)

enum { SEGMENTS = 2, SEGMENT = 4096, CANCELS = 30 };

static const char *path;
static shm_channel_client_t *client, *lonely;

/* Takes its time now and then, so that clients are cancelled while they wait. */
static int open_key(const char *key, size_t key_len, void *user) {
    (void)key_len, (void)user;
    static unsigned calls;
    if (__atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED) % 8 == 0)
        usleep(5000);
    int fd = open(key, O_RDONLY | O_CLOEXEC);
    return fd >= 0 ? fd : -errno;
}

static void fetch(void) {
    shm_channel_transfer_t *transfer;
    const void *data;
    size_t len;

    if (shm_channel_client_open(client, "file", 4, &transfer) != SHM_CHANNEL_OK)
        return;
    while (shm_channel_transfer_next(transfer, &data, &len) == SHM_CHANNEL_OK && len > 0)
        continue;
    shm_channel_transfer_free(transfer);
}

static void ask_in_vain(void) {
    shm_channel_transfer_t *transfer;

    CHECK(shm_channel_client_open(lonely, "file", 4, &transfer) == SHM_CHANNEL_UNAVAILABLE);
}

static void make_client(void) {
    shm_channel_client_t *other;

    if (shm_channel_client_create(path, 1, SEGMENT, 0, &other) == SHM_CHANNEL_OK)
        shm_channel_client_free(other);
    pthread_testcancel();
}

static void make_server(void) {
    shm_channel_server_t *server;

    if (shm_channel_server_create("other", 1, open_key, NULL, &server) == SHM_CHANNEL_OK)
        shm_channel_server_free(server);
    pthread_testcancel();
}

static void run_proxy(void) {
    gfproxy_options_t options;

    gfproxy_options_init(&options);
    options.socket = path;
    options.segments = 1;
    options.metrics = "127.0.0.1:0";
    gfproxy_start(&options);
    gfproxy_drain(1);
    gfproxy_stop();
    pthread_testcancel();
}

static void run_daemon(void) {
    gfproxy_cached_options_t options;

    gfproxy_cached_options_init(&options);
    options.socket = "third";
    gfproxy_cached_start(&options);
    gfproxy_cached_reload();
    gfproxy_cached_stop();
    pthread_testcancel();
}

static void *repeat(void *call) {
    for (;;)
        (*(void (**)(void))call)();
    return NULL;
}

int main(int argc, char **argv) {
    void (*calls[])(void) = {fetch, ask_in_vain, make_client, make_server, run_proxy, run_daemon};
    shm_channel_transfer_t *transfers[SEGMENTS];
    shm_channel_server_t *server;

    CHECK(argc == 2);
    path = argv[1];
    alarm(120);
    shm_channel_log_start(-1);
    CHECK(shm_channel_server_create(path, 2, open_key, NULL, &server) == SHM_CHANNEL_OK);
    CHECK(shm_channel_client_create(path, SEGMENTS, SEGMENT, 30000, &client) == SHM_CHANNEL_OK);
    CHECK(shm_channel_client_create("none", 1, SEGMENT, 20, &lonely) == SHM_CHANNEL_OK);
    for (int i = 0; i < CANCELS; i++) {
        for (size_t kind = 0; kind < sizeof calls / sizeof *calls; kind++) {
            pthread_t thread;
            void *ended;
            CHECK(pthread_create(&thread, NULL, repeat, &calls[kind]) == 0);
            usleep((useconds_t)i * 200);
            CHECK(pthread_cancel(thread) == 0);
            CHECK(pthread_join(thread, &ended) == 0 && ended == PTHREAD_CANCELED);
        }
    }
    /* Nothing was lost: every segment can be had. */
    for (int i = 0; i < SEGMENTS; i++)
        CHECK(shm_channel_client_open(client, "file", 4, &transfers[i]) == SHM_CHANNEL_OK);
    for (int i = 0; i < SEGMENTS; i++)
        shm_channel_transfer_free(transfers[i]);
    shm_channel_client_free(lonely);
    shm_channel_client_free(client);
    shm_channel_server_free(server);
    puts("every thread ended");
    return 0;
}
