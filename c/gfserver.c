/*
 * The symbols of gfserver.h over gfproxy's server, which is written in Rust. This file is the only one that defines them,
 * so a linker takes it from the archive only where no provided gfserver.o came first; they are weak, so that one that
 * comes later on the link line wins as well.
 */
#include "gfserver.h"

#include <stdarg.h>

#pragma weak gfserver_init
#pragma weak gfserver_setopt
#pragma weak gfserver_serve
#pragma weak gfserver_stop
#pragma weak gfs_sendheader
#pragma weak gfs_send

void gfproxy_gfserver_init(gfserver_t *gfs, int nthreads);
void gfproxy_gfserver_set_port(gfserver_t *gfs, unsigned short port);
void gfproxy_gfserver_set_backlog(gfserver_t *gfs, int backlog);
void gfproxy_gfserver_set_handler(gfserver_t *gfs, ssize_t (*handler)(gfcontext_t *, const char *, void *));
void gfproxy_gfserver_set_arg(gfserver_t *gfs, int worker, void *arg);
void gfproxy_gfserver_serve(gfserver_t *gfs);
void gfproxy_gfserver_stop(gfserver_t *gfs);
ssize_t gfproxy_gfserver_send_header(gfcontext_t *ctx, gfstatus_t status, size_t file_len);
ssize_t gfproxy_gfserver_send(gfcontext_t *ctx, const void *data, size_t size);

void gfserver_init(gfserver_t *gfs, int nthreads) {
    gfproxy_gfserver_init(gfs, nthreads);
}

void gfserver_setopt(gfserver_t *gfs, gfserver_option_t option, ...) {
    va_list args;
    int worker;

    va_start(args, option);
    switch (option) {
    case GFS_PORT: /* an unsigned short arrives as an int */
        gfproxy_gfserver_set_port(gfs, (unsigned short)va_arg(args, int));
        break;
    case GFS_MAXNPENDING:
        gfproxy_gfserver_set_backlog(gfs, va_arg(args, int));
        break;
    case GFS_WORKER_FUNC:
        gfproxy_gfserver_set_handler(gfs, va_arg(args, ssize_t(*)(gfcontext_t *, const char *, void *)));
        break;
    case GFS_WORKER_ARG:
        worker = va_arg(args, int);
        gfproxy_gfserver_set_arg(gfs, worker, va_arg(args, void *));
        break;
    }
    va_end(args);
}

void gfserver_serve(gfserver_t *gfs) {
    gfproxy_gfserver_serve(gfs);
}

void gfserver_stop(gfserver_t *gfs) {
    gfproxy_gfserver_stop(gfs);
}

ssize_t gfs_sendheader(gfcontext_t *ctx, gfstatus_t status, size_t file_len) {
    return gfproxy_gfserver_send_header(ctx, status, file_len);
}

ssize_t gfs_send(gfcontext_t *ctx, void *data, size_t size) {
    return gfproxy_gfserver_send(ctx, data, size);
}
