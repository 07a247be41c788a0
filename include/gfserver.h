/*
 * The GETFILE server library: accepts connections, reads requests and calls a handler for each.
 * ABI-equal to the gfserver.h of the GETFILE kit, so that a program built with one links with the other's object.
 */
#ifndef __GETFILE_SERVER_H__
#define __GETFILE_SERVER_H__

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "steque.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MAX_REQUEST_LEN 128

typedef int gfstatus_t;

#define GF_OK 200
#define GF_FILE_NOT_FOUND 400
#define GF_ERROR 500

#if !defined(SERVER_FAILURE)
#define SERVER_FAILURE (-1)
#endif

typedef struct _gfserver_t gfserver_t;
typedef struct _gfcontext_t gfcontext_t;

/* A server. The program owns the memory; the fields are the library's. 144 bytes on x86-64 Linux. */
struct _gfserver_t {
    steque_t req_queue;
    unsigned short port;
    int max_npending;
    int nthreads;
    int socket_fd;

    ssize_t (*worker_func)(gfcontext_t *, const char *, void *);

    gfcontext_t *contexts;
    pthread_mutex_t queue_lock;
    pthread_cond_t req_inserted;
};

/* One worker's request. Owned by the library, valid during the handler's call. 200 bytes on x86-64 Linux. */
struct _gfcontext_t {
    pthread_t thread;
    void *arg;
    gfserver_t *gfs;

    int socket;
    size_t file_len;
    size_t bytes_transferred;

    char *protocol;
    char *method;
    char *path;
    char request[MAX_REQUEST_LEN];
};

typedef enum {
    GFS_PORT,        /* unsigned short: the TCP port to listen on (default 8888) */
    GFS_MAXNPENDING, /* int: the backlog of listen(2) (default 10) */
    GFS_WORKER_FUNC, /* ssize_t (*)(gfcontext_t *, const char *path, void *arg): the handler */
    GFS_WORKER_ARG   /* int, void *: a worker's index, 0 to nthreads - 1, and the arg of its calls */
} gfserver_option_t;

/*
 * Makes a server.
 *
 * `gfs`: memory for a server. `nthreads`: the number of worker threads.
 *
 * Errors: ends the process if memory is out.
 */
void gfserver_init(gfserver_t *gfs, int nthreads);

/*
 * Sets one option, see gfserver_option_t. Call it between gfserver_init and gfserver_serve.
 *
 * `gfs`: the server. `option`: the option, followed by its values.
 */
void gfserver_setopt(gfserver_t *gfs, gfserver_option_t option, ...);

/*
 * Listens and serves. It returns after gfserver_stop.
 *
 * `gfs`: the server.
 *
 * Errors: a port that cannot be had ends the process with a message.
 *
 * A handler that returns a negative number before it sent a header makes the server answer GF_ERROR.
 */
void gfserver_serve(gfserver_t *gfs);

/*
 * Stops the server.
 *
 * `gfs`: the server.
 *
 * Threads: any but a worker's; not in a signal handler.
 */
void gfserver_stop(gfserver_t *gfs);

/*
 * Sends the header of an answer.
 *
 * `ctx`: the handler's context. `status`: GF_OK, GF_FILE_NOT_FOUND or GF_ERROR. `file_len`: for GF_OK, the length of
 * the file in bytes.
 *
 * Returns the number of bytes of the header. Errors: a negative number.
 *
 * Threads: from inside a handler only.
 */
ssize_t gfs_sendheader(gfcontext_t *ctx, gfstatus_t status, size_t file_len);

/*
 * Sends bytes to the client. It returns once they are written.
 *
 * `ctx`: the handler's context. `data`: the bytes. `size`: their number.
 *
 * Returns `size`. Errors: a negative number if the client left.
 *
 * Threads: from inside a handler only.
 */
ssize_t gfs_send(gfcontext_t *ctx, void *data, size_t size);

#ifdef __cplusplus
}
#endif

#endif
