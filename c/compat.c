/* Names that the kit's unmodified mains look for, weak so that a program's own definitions win. */
#include "gfserver.h"

ssize_t gfproxy_handle_with_file(gfcontext_t *ctx, const char *path, void *arg);
ssize_t handle_with_file(gfcontext_t *ctx, const char *path, void *arg);

/* The kit's Part 1 main registers this name and means handle_with_curl. */
__attribute__((weak)) ssize_t handle_with_file(gfcontext_t *ctx, const char *path, void *arg) {
    return gfproxy_handle_with_file(ctx, path, arg);
}

/* Microseconds that simplecache_get sleeps; the kit's simplecached defines and sets it. */
__attribute__((weak)) unsigned long int cache_delay;
