/* daemonize proxy SOCKET METRICS: a proxy that is started before the process goes into the background, as daemon(3) does.
 * daemonize server SOCKET: a server whose process has a child that does nothing; says the child's pid. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "gfproxy.h"
#include "gfserver.h"
#include "shm_channel.h"

static int open_key(const char *key, size_t key_len, void *user) {
    (void)key, (void)key_len, (void)user;
    return -ENOENT;
}

static int serve(const char *socket) {
    shm_channel_server_t *server;

    if (shm_channel_server_create(socket, 1, open_key, NULL, &server) != SHM_CHANNEL_OK)
        return 1;
    pid_t child = fork();
    if (child == 0)
        shm_channel_server_free(server);
    else
        printf("%d\n", child), fflush(stdout);
    pause();
    return 0;
}

int main(int argc, char **argv) {
    gfproxy_options_t options;
    gfserver_t gfs;

    if (argc == 3 && strcmp(argv[1], "server") == 0)
        return serve(argv[2]);
    if (argc != 4)
        return 2;
    gfproxy_options_init(&options);
    options.socket = argv[2];
    options.metrics = argv[3];
    options.verbosity = 1;
    if (gfproxy_start(&options) != 0)
        return 1;
    /* The parent leaves, and with it the descriptor that the child waits for. */
    int ends[2];
    char byte;
    if (pipe(ends) != 0 || fork() != 0)
        _exit(0);
    close(ends[1]);
    if (read(ends[0], &byte, 1) != 0)
        return 1;
    printf("%d\n", getpid()), fflush(stdout);
    gfserver_init(&gfs, 4);
    gfserver_setopt(&gfs, GFS_PORT, 0);
    gfserver_setopt(&gfs, GFS_WORKER_FUNC, handle_with_cache);
    for (int i = 0; i < 4; i++)
        gfserver_setopt(&gfs, GFS_WORKER_ARG, i, NULL);
    gfserver_serve(&gfs);
    return 0;
}
