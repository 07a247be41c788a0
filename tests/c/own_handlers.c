/* A program that brings handlers of its own, beside the channel and a part of the archive that has ours. */
#include <stdio.h>
#include <stdlib.h>

#include "gfproxy.h"
#include "shm_channel.h"

ssize_t handle_with_cache(gfcontext_t *ctx, const char *path, void *arg) {
    return ctx == NULL && path == NULL && arg == NULL ? 1 : -1;
}

ssize_t handle_with_curl(gfcontext_t *ctx, const char *path, void *arg) {
    return handle_with_cache(ctx, path, arg) + 1;
}

ssize_t handle_with_cache_or_curl(gfcontext_t *ctx, const char *path, void *arg) {
    return handle_with_cache(ctx, path, arg) + 2;
}

/* The member with our handlers is linked for its sake. */
ssize_t handle_with_file(gfcontext_t *ctx, const char *path, void *arg);

int main(void) {
    shm_channel_client_t *client;
    int status = shm_channel_client_create("socket", 4, 65536, 0, &client);

    if (status != SHM_CHANNEL_OK || handle_with_file(NULL, NULL, NULL) != -1)
        return EXIT_FAILURE;
    shm_channel_client_free(client);
    printf("%zd %zd %zd\n", handle_with_cache(NULL, NULL, NULL), handle_with_curl(NULL, NULL, NULL),
           handle_with_cache_or_curl(NULL, NULL, NULL));
    return EXIT_SUCCESS;
}
