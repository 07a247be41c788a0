/* Fetches files through shared memory and writes them to standard output, one after another.
 *
 *     consumer SOCKET KEY...
 *
 * Waits up to 10 s for the producer (see producer.c), and goes on where it was if that one is started again. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "shm_channel.h"

enum { SEGMENTS = 4, SEGMENT_SIZE = 256 * 1024, WAIT_MS = 10 * 1000 };

/* Straight from the shared memory into the descriptor: the only copy on this side. */
static bool write_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t written = write(fd, data, len);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return false;
        data += written;
        len -= (size_t)written;
    }
    return true;
}

static bool fetch(shm_channel_client_t *client, const char *key)
{
    shm_channel_transfer_t *transfer;
    shm_channel_error_t error = shm_channel_client_open(client, key, strlen(key), &transfer);
    if (error != SHM_CHANNEL_OK) {
        fprintf(stderr, "%s: %s\n", key, shm_channel_strerror(error));
        return false;
    }
    bool written = true;
    uint64_t length = shm_channel_transfer_length(transfer), received = 0;
    while (received < length && written) {
        const void *data;
        size_t len;
        error = shm_channel_transfer_next(transfer, &data, &len);
        if (error != SHM_CHANNEL_OK) {
            fprintf(stderr, "%s: %s after %llu bytes\n", key, shm_channel_strerror(error), (unsigned long long)received);
            break;
        }
        written = write_all(STDOUT_FILENO, data, len);
        received += len;
    }
    if (!written)
        fprintf(stderr, "standard output: %s\n", strerror(errno));
    shm_channel_transfer_free(transfer);
    return written && received == length;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s SOCKET KEY...\n", argv[0]);
        return 2;
    }
    shm_channel_log_start(0);
    shm_channel_client_t *client;
    shm_channel_error_t error = shm_channel_client_create(argv[1], SEGMENTS, SEGMENT_SIZE, WAIT_MS, &client);
    if (error != SHM_CHANNEL_OK) {
        fprintf(stderr, "%s: %s\n", argv[1], shm_channel_strerror(error));
        return 1;
    }
    bool fetched = true;
    for (int i = 2; i < argc; i++)
        fetched = fetch(client, argv[i]) && fetched;
    shm_channel_client_free(client);
    return fetched ? 0 : 1;
}
