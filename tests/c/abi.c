/* Every export of gfproxy.h and shm_channel.h with NULLs and edge values: each must answer as its comment says, write its
 * out-parameters only on success, and leave nothing open. Run in an empty directory. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gfproxy.h"
#include "shm_channel.h"

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) {                                                     \
            fprintf(stderr, "abi.c:%d: not so: %s\n", __LINE__, #condition);    \
            exit(1);                                                            \
        }                                                                       \
    } while (0)

/* What no call may leave in an out-parameter that it did not write. */
#define UNTOUCHED ((void *)0x5a5a)

static int count_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory != NULL);
    int count = 0;
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count;
}

/* A store of the files of this directory, and of faults. */
static int open_key(const char *key, size_t key_len, void *user)
{
    CHECK(user == UNTOUCHED);
    CHECK(key[key_len] == '\0');
    if (strcmp(key, "broken") == 0)
        return -EIO;
    if (strcmp(key, "least") == 0)
        return -2147483647 - 1;
    if (strcmp(key, "directory") == 0)
        return open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (key_len == 0)
        key = "file";
    int fd = open(key, O_RDONLY | O_CLOEXEC);
    return fd >= 0 ? fd : -errno;
}

static void process_functions(void)
{
    gfproxy_options_init(NULL);
    CHECK(gfproxy_start(NULL) == -1);
    CHECK(gfproxy_drain(0) == 0);
    gfproxy_stop();

    gfproxy_options_t options;
    gfproxy_options_init(&options);
    CHECK(options.segments == 32 && options.segment_size == 1048576 && options.cache);
    options.stall_ms = 0;
    CHECK(gfproxy_start(&options) == -1);
    options.stall_ms = 1;
    options.segments = 0;
    CHECK(gfproxy_start(&options) == -1);
    options.segments = GFPROXY_MAX_SEGMENTS + 1;
    CHECK(gfproxy_start(&options) == -1);
    options.segments = 1;
    options.segment_size = GFPROXY_MIN_SEGMENT_SIZE - 1;
    CHECK(gfproxy_start(&options) == -1);
    options.segment_size = UINT32_MAX;
    CHECK(gfproxy_start(&options) == -1);
    options.segment_size = GFPROXY_MIN_SEGMENT_SIZE;
    options.origin = "";
    CHECK(gfproxy_start(&options) == -1);
    options.origin = "gopher://127.0.0.1/";
    CHECK(gfproxy_start(&options) == -1);
    options.origin = "\xff\xfe";
    CHECK(gfproxy_start(&options) == -1);
    options.origin = NULL;
    options.metrics = "nonsense";
    CHECK(gfproxy_start(&options) == -1);
    options.metrics = "127.0.0.1:99999";
    CHECK(gfproxy_start(&options) == -1);

    CHECK(strchr(gfproxy_version(), '.') != NULL);
    char reason[] = "unchanged";
    CHECK(gfproxy_check_origin("http://127.0.0.1:80/files/", reason, sizeof reason) == 0);
    CHECK(gfproxy_check_origin("127.0.0.1", reason, sizeof reason) == 0);
    CHECK(gfproxy_check_origin("gopher://127.0.0.1/", reason, 0) == -1);
    CHECK(strcmp(reason, "unchanged") == 0);
    CHECK(gfproxy_check_origin("gopher://127.0.0.1/", reason, 4) == -1);
    CHECK(strcmp(reason, "its") == 0);
    CHECK(gfproxy_check_origin("\xff\xfe", NULL, 0) == -1);
    CHECK(gfproxy_check_origin(NULL, reason, sizeof reason) == -1);
    CHECK(strcmp(reason, "it is NUL") == 0);
    char shown[] = "http://***@host/";
    gfproxy_show_origin("http://me:secret@host/", shown, 0);
    CHECK(strcmp(shown, "http://***@host/") == 0);
    gfproxy_show_origin("http://me:secret@host/", shown, 10);
    CHECK(strcmp(shown, "http://**") == 0);
    gfproxy_show_origin("http://me:secret@host/", shown, sizeof shown);
    CHECK(strcmp(shown, "http://***@host/") == 0);
    gfproxy_show_origin("http://me:secret@host/", NULL, sizeof shown);
    gfproxy_show_origin(NULL, shown, sizeof shown);
    CHECK(shown[0] == '\0');

    gfproxy_cached_options_init(NULL);
    CHECK(gfproxy_cached_start(NULL) == -1);
    CHECK(gfproxy_cached_reload() == -1);
    gfproxy_cached_stop();
    gfproxy_cached_options_t cached;
    gfproxy_cached_options_init(&cached);
    CHECK(strcmp(cached.locals, "locals.txt") == 0 && cached.threads == 8);
    CHECK(gfproxy_cached_start(&cached) == -1);
    cached.threads = 0;
    CHECK(gfproxy_cached_start(&cached) == -1);
    cached.threads = GFPROXY_MAX_THREADS + 1;
    CHECK(gfproxy_cached_start(&cached) == -1);
    cached.locals = NULL;
    CHECK(gfproxy_cached_start(&cached) == -1);
    cached.locals = "";
    CHECK(gfproxy_cached_start(&cached) == -1);
}

static void handlers(void)
{
    CHECK(handle_with_curl(NULL, NULL, NULL) == -1);
    CHECK(handle_with_curl(NULL, "/", "http://127.0.0.1/") == -1);
    CHECK(handle_with_cache(NULL, NULL, NULL) == -1);
    CHECK(handle_with_cache(NULL, "/", NULL) == -1);
    CHECK(handle_with_cache_or_curl(NULL, NULL, NULL) == -1);
    CHECK(handle_with_cache_or_curl(NULL, "/", "") == -1);
    CHECK(gfproxy_gfserver_listen(NULL, NULL) == -1);
    CHECK(gfproxy_gfserver_listen(NULL, "::1") == -1);
    CHECK(gfproxy_gfserver_set_stop_timeout(NULL, 0) == -1);
    CHECK(gfproxy_gfserver_set_stop_timeout(NULL, UINT32_MAX) == -1);
}

static void errors(void)
{
    for (int error = SHM_CHANNEL_OK; error <= SHM_CHANNEL_PANIC; error++)
        CHECK(strcmp(shm_channel_strerror(error), "unknown error") != 0);
    CHECK(strcmp(shm_channel_strerror(-1), "unknown error") == 0);
    CHECK(strcmp(shm_channel_strerror(SHM_CHANNEL_PANIC + 1), "unknown error") == 0);
}

static void bad_clients(void)
{
    static const struct {
        uint32_t segments, segment_size;
    } bad[] = {
        {0, 824}, {SHM_CHANNEL_MAX_SEGMENTS + 1, 824}, {UINT32_MAX, UINT32_MAX}, {1, 0},
        {1, SHM_CHANNEL_MIN_SEGMENT_SIZE - 1}, {1, SHM_CHANNEL_MAX_SEGMENT_SIZE + 1},
        {SHM_CHANNEL_MAX_SEGMENTS, SHM_CHANNEL_MAX_SEGMENT_SIZE},
    };
    CHECK(shm_channel_client_create("socket", 1, 824, 0, NULL) == SHM_CHANNEL_NULL);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        shm_channel_client_t *client = UNTOUCHED;
        CHECK(shm_channel_client_create("socket", bad[i].segments, bad[i].segment_size, 0, &client) ==
              SHM_CHANNEL_RANGE);
        CHECK(client == UNTOUCHED);
    }
    shm_channel_client_free(NULL);
    shm_channel_transfer_free(NULL);
    CHECK(shm_channel_transfer_length(NULL) == 0);
    const void *data = UNTOUCHED;
    size_t len = 77;
    CHECK(shm_channel_transfer_next(NULL, &data, &len) == SHM_CHANNEL_NULL);
    CHECK(data == UNTOUCHED && len == 77);
}

static void bad_servers(void)
{
    shm_channel_server_t *server = UNTOUCHED;
    CHECK(shm_channel_server_create("s", 1, NULL, NULL, &server) == SHM_CHANNEL_NULL);
    CHECK(shm_channel_server_create("s", 1, open_key, NULL, NULL) == SHM_CHANNEL_NULL);
    CHECK(shm_channel_server_create("s", 0, open_key, NULL, &server) == SHM_CHANNEL_RANGE);
    CHECK(shm_channel_server_create("s", SHM_CHANNEL_MAX_THREADS + 1, open_key, NULL, &server) == SHM_CHANNEL_RANGE);
    CHECK(shm_channel_server_create("none/s", 1, open_key, NULL, &server) == SHM_CHANNEL_SOCKET && errno == ENOENT);
    CHECK(shm_channel_server_create("file", 1, open_key, NULL, &server) == SHM_CHANNEL_SOCKET && errno == ENOTSOCK);
    CHECK(shm_channel_server_create("", 1, open_key, NULL, &server) == SHM_CHANNEL_SOCKET);
    char path[200];
    memset(path, 's', sizeof path);
    path[sizeof path - 1] = '\0';
    CHECK(shm_channel_server_create(path, 1, open_key, NULL, &server) == SHM_CHANNEL_SOCKET && errno == ENAMETOOLONG);
    CHECK(server == UNTOUCHED);
    shm_channel_server_free(NULL);
}

static void opens(shm_channel_client_t *client)
{
    static char key[SHM_CHANNEL_MAX_KEY + 1];
    memset(key, 'k', sizeof key);
    shm_channel_transfer_t *transfer = UNTOUCHED;
    CHECK(shm_channel_client_open(NULL, "file", 4, &transfer) == SHM_CHANNEL_NULL);
    CHECK(shm_channel_client_open(client, NULL, 1, &transfer) == SHM_CHANNEL_NULL);
    CHECK(shm_channel_client_open(client, "file", 4, NULL) == SHM_CHANNEL_NULL);
    CHECK(shm_channel_client_open(client, key, sizeof key, &transfer) == SHM_CHANNEL_KEY_TOO_LONG);
    CHECK(shm_channel_client_open(client, key, SIZE_MAX, &transfer) == SHM_CHANNEL_KEY_TOO_LONG);
    CHECK(shm_channel_client_open(client, key, sizeof key - 1, &transfer) == SHM_CHANNEL_NOT_FOUND);
    CHECK(shm_channel_client_open(client, "none", 4, &transfer) == SHM_CHANNEL_NOT_FOUND);
    CHECK(shm_channel_client_open(client, "broken", 6, &transfer) == SHM_CHANNEL_UNREADABLE);
    CHECK(shm_channel_client_open(client, "least", 5, &transfer) == SHM_CHANNEL_UNREADABLE);
    CHECK(shm_channel_client_open(client, "directory", 9, &transfer) == SHM_CHANNEL_UNREADABLE);
    CHECK(transfer == UNTOUCHED);

    /* One open transfer has the only segment: a second one waits in vain. */
    CHECK(shm_channel_client_open(client, NULL, 0, &transfer) == SHM_CHANNEL_OK);
    shm_channel_transfer_t *second = UNTOUCHED;
    CHECK(shm_channel_client_open(client, "file", 4, &second) == SHM_CHANNEL_NO_SEGMENT);
    CHECK(second == UNTOUCHED);

    CHECK(shm_channel_transfer_length(transfer) == 2000);
    const void *data = UNTOUCHED;
    size_t len = 77;
    CHECK(shm_channel_transfer_next(transfer, NULL, &len) == SHM_CHANNEL_NULL);
    CHECK(shm_channel_transfer_next(transfer, &data, NULL) == SHM_CHANNEL_NULL);
    CHECK(data == UNTOUCHED && len == 77);
    size_t received = 0;
    do {
        CHECK(shm_channel_transfer_next(transfer, &data, &len) == SHM_CHANNEL_OK);
        for (size_t i = 0; i < len; i++)
            CHECK(((const char *)data)[i] == (char)(received + i));
        received += len;
    } while (len > 0);
    CHECK(data == NULL && received == 2000);
    CHECK(shm_channel_transfer_next(transfer, &data, &len) == SHM_CHANNEL_OK && len == 0);
    shm_channel_transfer_free(transfer);

    CHECK(shm_channel_client_open(client, "empty", 5, &transfer) == SHM_CHANNEL_OK);
    CHECK(shm_channel_transfer_length(transfer) == 0);
    CHECK(shm_channel_transfer_next(transfer, &data, &len) == SHM_CHANNEL_OK && data == NULL && len == 0);
    shm_channel_transfer_free(transfer);
}

static void both_sides(void)
{
    int descriptors = count_descriptors();
    shm_channel_server_t *server, *second = UNTOUCHED;
    CHECK(shm_channel_server_create("socket", 2, open_key, UNTOUCHED, &server) == SHM_CHANNEL_OK);
    CHECK(shm_channel_server_create("socket", 2, open_key, UNTOUCHED, &second) == SHM_CHANNEL_IN_USE);
    CHECK(second == UNTOUCHED);
    shm_channel_client_t *client;
    CHECK(shm_channel_client_create("socket", 1, SHM_CHANNEL_MIN_SEGMENT_SIZE, 300, &client) == SHM_CHANNEL_OK);
    opens(client);

    /* The client may go before its transfer, which then says so. */
    shm_channel_transfer_t *transfer;
    CHECK(shm_channel_client_open(client, "file", 4, &transfer) == SHM_CHANNEL_OK);
    const void *data;
    size_t len;
    CHECK(shm_channel_transfer_next(transfer, &data, &len) == SHM_CHANNEL_OK && len == SHM_CHANNEL_MIN_SEGMENT_SIZE);
    shm_channel_client_free(client);
    CHECK(((const char *)data)[1] == 1);
    CHECK(shm_channel_transfer_next(transfer, &data, &len) == SHM_CHANNEL_CLOSED);
    shm_channel_transfer_free(transfer);

    /* A server that goes is waited for, and no longer than asked. */
    CHECK(shm_channel_client_create("socket", 1, SHM_CHANNEL_MIN_SEGMENT_SIZE, 300, &client) == SHM_CHANNEL_OK);
    CHECK(shm_channel_client_open(client, "file", 4, &transfer) == SHM_CHANNEL_OK);
    shm_channel_server_free(server);
    shm_channel_error_t error;
    do
        error = shm_channel_transfer_next(transfer, &data, &len);
    while (error == SHM_CHANNEL_OK && len > 0);
    CHECK(error == SHM_CHANNEL_UNAVAILABLE);
    shm_channel_transfer_t *refused;
    CHECK(shm_channel_client_open(client, "file", 4, &refused) == SHM_CHANNEL_UNAVAILABLE);

    /* With the error the transfer was over, although another server would have the rest. */
    CHECK(shm_channel_server_create("socket", 2, open_key, UNTOUCHED, &server) == SHM_CHANNEL_OK);
    CHECK(shm_channel_client_open(client, "empty", 5, &refused) == SHM_CHANNEL_OK);
    shm_channel_transfer_free(refused);
    for (int i = 0; i < 3; i++)
        CHECK(shm_channel_transfer_next(transfer, &data, &len) == SHM_CHANNEL_UNAVAILABLE);
    shm_channel_transfer_free(transfer);
    shm_channel_server_free(server);
    shm_channel_client_free(client);
    CHECK(access("socket", F_OK) != 0);
    CHECK(count_descriptors() == descriptors);
}

int main(void)
{
    FILE *file = fopen("file", "wb");
    CHECK(file != NULL);
    for (int i = 0; i < 2000; i++)
        fputc((char)i, file);
    CHECK(fclose(file) == 0);
    file = fopen("empty", "wb");
    CHECK(file != NULL && fclose(file) == 0);

    errors();
    shm_channel_log_start(-1);
    process_functions();
    handlers();
    bad_clients();
    bad_servers();
    both_sides();
    puts("every export answered");
    return 0;
}
