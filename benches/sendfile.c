/*
 * The bound: the least that a handler under the same gfserver can do. The files of a directory are opened before the
 * first request, and each goes from the page cache to the socket by sendfile(2): no second process, no copy.
 */
#include <dirent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

#include "gfproxy.h"
#include "gfserver.h"
#include "options.h"

#define MAX_FILES 64

static struct {
    char path[NAME_MAX + 2];
    int descriptor;
    size_t size;
} files[MAX_FILES];
static size_t file_count;
/* Our gfserver sends its FIN when the handler has returned; a provided one waits for the client to hang up first. */
static bool fin_follows;

static ssize_t handle_with_sendfile(gfcontext_t *ctx, const char *path, void *arg) {
    (void)arg;
    size_t file = 0;
    while (file < file_count && strcmp(files[file].path, path) != 0)
        file++;
    if (file == file_count)
        return gfs_sendheader(ctx, GF_FILE_NOT_FOUND, 0);
    if (gfs_sendheader(ctx, GF_OK, files[file].size) < 0)
        return -1;
    /* The last bytes wait for the FIN, and leave in one segment with it. */
    const int on = 1;
    if (fin_follows)
        setsockopt(ctx->socket, IPPROTO_TCP, TCP_CORK, &on, sizeof on);
    /* gfserver looks at bytes_transferred when the handler returns: what is missing there it would send as zeros. */
    off_t offset = 0;
    while (ctx->bytes_transferred < files[file].size) {
        ssize_t sent = sendfile(ctx->socket, files[file].descriptor, &offset, files[file].size - (size_t)offset);
        if (sent <= 0) {
            shutdown(ctx->socket, SHUT_RDWR);
            return -1;
        }
        ctx->bytes_transferred += (size_t)sent;
    }
    return (ssize_t)files[file].size;
}

/* Opens the regular files of `directory`. Returns false, with errno, where that fails. */
static bool open_files(const char *directory) {
    DIR *entries = opendir(directory);
    if (entries == NULL)
        return false;
    for (struct dirent *entry; file_count < MAX_FILES && (entry = readdir(entries)) != NULL;) {
        struct stat status;
        int descriptor = openat(dirfd(entries), entry->d_name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (descriptor < 0 || fstat(descriptor, &status) != 0) {
            closedir(entries);
            return false;
        }
        if (!S_ISREG(status.st_mode)) {
            close(descriptor);
            continue;
        }
        snprintf(files[file_count].path, sizeof files[file_count].path, "/%s", entry->d_name);
        files[file_count].descriptor = descriptor;
        files[file_count].size = (size_t)status.st_size;
        file_count++;
    }
    closedir(entries);
    return true;
}

int main(int argc, char **argv) {
    uint32_t port = 8888, threads = 8;
    const char *directory = ".";
    const option_t table[] = {
        {'p', "port", "listen on this port", NUMBER(&port, 1, 65535)},
        {'t', "thread-count", "worker threads", NUMBER(&threads, 1, 200)},
        {'d', "directory", "serve the files of this directory, at most 64", TEXT(&directory, "PATH")},
        {'h', "help", "print this text", HELP},
    };
    options_parse(argc, argv, table, sizeof table / sizeof *table);
    if (!open_files(directory)) {
        fprintf(stderr, "sendfile: %s: %s\n", directory, strerror(errno));
        return EXIT_FAILURE;
    }
    signal(SIGPIPE, SIG_IGN);
    gfserver_t gfs;
    gfserver_init(&gfs, (int)threads);
    fin_follows = gfproxy_gfserver_set_stop_timeout(&gfs, 0) == 0;
    gfserver_setopt(&gfs, GFS_PORT, (unsigned short)port);
    gfserver_setopt(&gfs, GFS_MAXNPENDING, 4096);
    gfserver_setopt(&gfs, GFS_WORKER_FUNC, handle_with_sendfile);
    gfserver_serve(&gfs);
    return EXIT_SUCCESS;
}
