/* Serves the files below a directory through shared memory: each file's name, relative to it, is its key.
 *
 *     producer SOCKET DIRECTORY
 *
 * Says "ready" once it serves; SIGTERM and SIGINT end it. See consumer.c for the other side. */
#define _GNU_SOURCE /* O_PATH */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "shm_channel.h"

/* No way out of the directory by its parents; symbolic links are the directory's owner's business. */
static bool is_below(const char *key)
{
    if (key[0] == '/')
        return false;
    for (const char *part = key; part != NULL; part = strchr(part, '/')) {
        part += part[0] == '/';
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || part[2] == '\0'))
            return false;
    }
    return true;
}

/* A key comes from another process: it may be anything. The descriptor becomes the server's, which takes regular files
 * only; O_NONBLOCK keeps this thread from waiting for the other end of a FIFO. */
static int open_key(const char *key, size_t key_len, void *user)
{
    const int *directory = user;
    if (strlen(key) != key_len || !is_below(key))
        return -ENOENT;
    int fd = openat(*directory, key, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    return fd >= 0 ? fd : -errno;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s SOCKET DIRECTORY\n", argv[0]);
        return 2;
    }
    int directory = open(argv[2], O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) {
        fprintf(stderr, "%s: %s\n", argv[2], strerror(errno));
        return 1;
    }
    /* Blocked before the server's threads begin, so that sigwait gets them. */
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);

    shm_channel_log_start(0);
    shm_channel_server_t *server;
    shm_channel_error_t error = shm_channel_server_create(argv[1], 4, open_key, &directory, &server);
    if (error != SHM_CHANNEL_OK) {
        fprintf(stderr, "%s: %s\n", argv[1], shm_channel_strerror(error));
        return 1;
    }
    puts("ready");
    fflush(stdout);

    int signal;
    sigwait(&signals, &signal);
    shm_channel_server_free(server);
    close(directory);
    return 0;
}
