/*
 * A main in the shape of the course kit's two: it registers a handler (HANDLER) with an argument that means nothing to
 * it (ARG), calls no initialiser, and stops the server from its signal handler.
 */
#include "gfserver.h"

/* Without the const, as in one of them. */
extern ssize_t HANDLER(gfcontext_t *ctx, char *path, void *arg);

static gfserver_t gfs;

static void on_signal(int signo) {
    gfserver_stop(&gfs);
    exit(signo);
}

int main(int argc, char **argv) {
    unsigned short port = 0;
    int threads = 8, option;

    while ((option = getopt(argc, argv, "p:t:")) != -1) {
        if (option == 'p')
            port = (unsigned short)atoi(optarg);
        else if (option == 't')
            threads = atoi(optarg);
        else
            return 1;
    }
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    gfserver_init(&gfs, threads);
    gfserver_setopt(&gfs, GFS_MAXNPENDING, 90);
    gfserver_setopt(&gfs, GFS_WORKER_FUNC, HANDLER);
    gfserver_setopt(&gfs, GFS_PORT, port);
    for (int i = 0; i < threads; i++)
        gfserver_setopt(&gfs, GFS_WORKER_ARG, i, ARG);
    gfserver_serve(&gfs);
    return 0;
}
