/*
 * The least that a handler under the same gfserver can do as a relay through libcurl: a handle for each thread, one
 * curl_easy_perform(3) a request, what comes goes on at once. It believes whatever the origin says, and repeats nothing.
 */
#include <curl/curl.h>
#include <sys/socket.h>

#include "gfserver.h"
#include "options.h"

typedef struct {
    gfcontext_t *ctx;
    CURL *handle;
    bool announced;
} transfer_t;

static const char *origin = "http://127.0.0.1";

static size_t write_body(char *data, size_t size, size_t count, void *user) {
    transfer_t *transfer = user;
    (void)size;
    if (!transfer->announced) {
        curl_off_t length = -1;
        curl_easy_getinfo(transfer->handle, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
        if (length < 0 || gfs_sendheader(transfer->ctx, GF_OK, (size_t)length) < 0)
            return 0;
        transfer->announced = true;
    }
    return gfs_send(transfer->ctx, data, count) < 0 ? 0 : count;
}

/* This thread's handle. NULL if there is none to be had. It lives as long as the process. */
static CURL *own_handle(void) {
    static _Thread_local CURL *handle;
    if (handle == NULL && (handle = curl_easy_init()) != NULL) {
        curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(handle, CURLOPT_FAILONERROR, 1L);
        curl_easy_setopt(handle, CURLOPT_BUFFERSIZE, 262144L);
        curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, write_body);
    }
    return handle;
}

static ssize_t handle_with_relay(gfcontext_t *ctx, const char *path, void *arg) {
    (void)arg;
    char url[1024];
    transfer_t transfer = {ctx, own_handle(), false};
    if (transfer.handle == NULL)
        return gfs_sendheader(ctx, GF_ERROR, 0);
    snprintf(url, sizeof url, "%s%s", origin, path);
    curl_easy_setopt(transfer.handle, CURLOPT_URL, url);
    curl_easy_setopt(transfer.handle, CURLOPT_WRITEDATA, &transfer);
    CURLcode code = curl_easy_perform(transfer.handle);
    if (!transfer.announced)
        return gfs_sendheader(ctx, code == CURLE_OK ? GF_OK : GF_ERROR, 0);
    if (code != CURLE_OK)
        shutdown(ctx->socket, SHUT_RDWR);
    return code == CURLE_OK ? (ssize_t)ctx->bytes_transferred : -1;
}

int main(int argc, char **argv) {
    uint32_t port = 8888, threads = 8;
    const option_t table[] = {
        {'p', "port", "listen on this port", NUMBER(&port, 1, 65535)},
        {'t', "thread-count", "worker threads", NUMBER(&threads, 1, 200)},
        {'s', "server", "fetch the files from here", TEXT(&origin, "URL")},
        {'h', "help", "print this text", HELP},
    };
    options_parse(argc, argv, table, sizeof table / sizeof *table);
    signal(SIGPIPE, SIG_IGN);
    curl_global_init(CURL_GLOBAL_ALL);
    gfserver_t gfs;
    gfserver_init(&gfs, (int)threads);
    gfserver_setopt(&gfs, GFS_PORT, (unsigned short)port);
    gfserver_setopt(&gfs, GFS_MAXNPENDING, 4096);
    gfserver_setopt(&gfs, GFS_WORKER_FUNC, handle_with_relay);
    gfserver_serve(&gfs);
    return EXIT_SUCCESS;
}
