/* fileserver: how the gfserver library is used, in one handler that serves the files of a directory. */
#define _GNU_SOURCE /* O_PATH */
#include <sys/socket.h>

#include "gfserver.h"
#include "options.h"
#include "shm_channel.h"

static bool climbs(const char *path) {
    for (const char *dots = strstr(path, ".."); dots != NULL; dots = strstr(dots + 1, ".."))
        if ((dots == path || dots[-1] == '/') && (dots[2] == '/' || dots[2] == '\0'))
            return true;
    return false;
}

/* Sends `size` bytes of `file`. A file that shrank meanwhile, or a client that left, is a failure. */
static bool send_file(gfcontext_t *ctx, int file, size_t size) {
    char buffer[65536];
    for (ssize_t got; size > 0; size -= (size_t)got) {
        got = read(file, buffer, size < sizeof buffer ? size : sizeof buffer);
        if (got <= 0 || gfs_send(ctx, buffer, (size_t)got) != got)
            return false;
    }
    return true;
}

/* `arg` is what main set with GFS_WORKER_ARG. A negative return makes gfserver answer GF_ERROR. */
static ssize_t handle_with_file(gfcontext_t *ctx, const char *path, void *arg) {
    const int *directory = arg;
    struct timeval limit = {.tv_sec = 30};
    struct stat status;

    /* A client that stops reading, or does not close after the answer, holds this worker no longer than that. */
    setsockopt(ctx->socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(ctx->socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    /* O_NONBLOCK: opening a FIFO would wait for its writer. */
    errno = ENOENT;
    int file = climbs(path) ? -1 : openat(*directory, path + strspn(path, "/"), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == EIO))
        return -1;
    if (file < 0 || fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
        close(file);
        return gfs_sendheader(ctx, GF_FILE_NOT_FOUND, 0);
    }
    ssize_t sent = status.st_size;
    if (gfs_sendheader(ctx, GF_OK, (size_t)sent) < 0 || !send_file(ctx, file, (size_t)sent)) {
        /* Too late for an error: its text would land in the client's file. A short file is the honest end. */
        shutdown(ctx->socket, SHUT_RDWR);
        sent = -1;
    }
    close(file);
    return sent;
}

int main(int argc, char **argv) {
    uint32_t port = 8888, threads = 8;
    const char *path = ".";
    int32_t verbosity = 0;
    const option_t table[] = {
        {'p', "port", "listen on this port, 0: any free one", NUMBER(&port, 0, 65535)},
        {'t', "thread-count", "worker threads", NUMBER(&threads, 1, 200)},
        {'d', "directory", "serve the files of this directory", TEXT(&path, "PATH")},
        {'v', "verbose", "log more: -v info, -vv debug, -vvv trace", COUNT(&verbosity)},
        {'V', "version", "print the version", VERSION},
        {'h', "help", "print this text", HELP},
    };
    options_parse(argc, argv, table, sizeof table / sizeof *table);
    int directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) {
        fprintf(stderr, "fileserver: %s: %s\n", path, strerror(errno));
        return EXIT_FAILURE;
    }

    shm_channel_log_start(verbosity);
    signal(SIGPIPE, SIG_IGN);
    gfserver_t gfs;
    gfserver_init(&gfs, (int)threads);
    gfserver_setopt(&gfs, GFS_PORT, (unsigned short)port);
    gfserver_setopt(&gfs, GFS_MAXNPENDING, 128);
    gfserver_setopt(&gfs, GFS_WORKER_FUNC, handle_with_file);
    for (int worker = 0; worker < (int)threads; worker++)
        gfserver_setopt(&gfs, GFS_WORKER_ARG, worker, &directory);
    gfserver_serve(&gfs);
    return EXIT_SUCCESS;
}
