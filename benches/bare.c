/*
 * The bare answer: the least work with which one request over one connection can be answered, and so the most requests that
 * a GETFILE server of one call each can serve here. One thread for each processor, four system calls a request (accept, recv, send, close),
 * the answers in memory, ready with their headers. No deadline, no request in two pieces, no handler; and no wait for the
 * client to hang up, so that an answer can be lost to a reset.
 */
#define _GNU_SOURCE /* accept4 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "options.h"

enum { MAX_FILES = 64, MAX_SIZE = 64 << 10 };

static const char METHOD[] = "GETFILE GET ";

static struct {
    char path[NAME_MAX + 2];
    char answer[MAX_SIZE + 64];
    size_t size;
} files[MAX_FILES];
static size_t file_count;
static int listener;

/* Makes the answer for the file of this name. What is no small regular file, or cannot be read, is left out. */
static void load(int directory, const char *name) {
    struct stat status;
    int descriptor = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (descriptor < 0)
        return;
    if (fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) && status.st_size <= MAX_SIZE) {
        char *answer = files[file_count].answer;
        size_t header = (size_t)sprintf(answer, "GETFILE OK %zu ", (size_t)status.st_size);
        if (read(descriptor, answer + header, (size_t)status.st_size) == status.st_size) {
            snprintf(files[file_count].path, sizeof files[file_count].path, "/%s", name);
            files[file_count++].size = header + (size_t)status.st_size;
        }
    }
    close(descriptor);
}

static bool load_all(const char *directory) {
    DIR *entries = opendir(directory);
    if (entries == NULL)
        return false;
    for (struct dirent *entry; file_count < MAX_FILES && (entry = readdir(entries)) != NULL;)
        load(dirfd(entries), entry->d_name);
    closedir(entries);
    return true;
}

static void answer(int client) {
    char request[4096];
    ssize_t got = recv(client, request, sizeof request - 1, 0);
    if (got < (ssize_t)sizeof METHOD || memcmp(request, METHOD, sizeof METHOD - 1) != 0)
        return;
    request[got] = '\0';
    char *path = request + sizeof METHOD - 1;
    path[strcspn(path, "\r")] = '\0';
    for (size_t file = 0; file < file_count; file++)
        if (strcmp(files[file].path, path) == 0) {
            /* With the FIN of close in one segment. A client that left, or a full buffer, shows to the client. */
            if (send(client, files[file].answer, files[file].size, MSG_MORE) < 0)
                return;
            break;
        }
}

static void *serve(void *unused) {
    for (;;) {
        int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (client >= 0) {
            answer(client);
            close(client);
        }
    }
    return unused;
}

static bool listen_on(uint16_t port) {
    int on = 1, off = 0;
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = in6addr_any};

    listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return listener >= 0 && setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
           setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) == 0 &&
           setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0 &&
           setsockopt(listener, IPPROTO_TCP, TCP_QUICKACK, &off, sizeof off) == 0 &&
           bind(listener, (struct sockaddr *)&any, sizeof any) == 0 && listen(listener, 4096) == 0;
}

int main(int argc, char **argv) {
    uint32_t port = 8888;
    const char *directory = ".";
    const option_t table[] = {
        {'p', "port", "listen on this port", NUMBER(&port, 1, 65535)},
        {'d', "directory", "serve the files of this directory, at most 64, of 64 KiB at most", TEXT(&directory, "PATH")},
        {'h', "help", "print this text", HELP},
    };
    options_parse(argc, argv, table, sizeof table / sizeof *table);
    if (!load_all(directory)) {
        fprintf(stderr, "bare: %s: %s\n", directory, strerror(errno));
        return EXIT_FAILURE;
    }
    signal(SIGPIPE, SIG_IGN);
    if (!listen_on((uint16_t)port)) {
        fprintf(stderr, "bare: port %u: %s\n", port, strerror(errno));
        return EXIT_FAILURE;
    }
    for (long others = sysconf(_SC_NPROCESSORS_ONLN) - 1; others > 0; others--) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, NULL) != 0) {
            fprintf(stderr, "bare: no thread\n");
            return EXIT_FAILURE;
        }
    }
    serve(NULL);
}
