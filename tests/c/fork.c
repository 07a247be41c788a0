/* What fork(2) leaves of a client: fork MODE SOCKET SEGMENTS, where a server gives the files "a", "b", ... of LEN
 * bytes, each of its own letter. Prints nothing where all is well. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shm_channel.h"

enum { LEN = 300000, SEGMENT = 65536, WAIT_MS = 30000, THREADS = 8 };

#define CHECK(condition)                                                                        \
    do {                                                                                        \
        if (!(condition)) {                                                                     \
            fprintf(stderr, "fork.c:%d: pid %d: not so: %s\n", __LINE__, getpid(), #condition); \
            _exit(1);                                                                           \
        }                                                                                       \
    } while (0)

static shm_channel_client_t *client;

static shm_channel_transfer_t *begin(char file) {
    shm_channel_transfer_t *transfer;

    CHECK(shm_channel_client_open(client, &file, 1, &transfer) == SHM_CHANNEL_OK);
    CHECK(shm_channel_transfer_length(transfer) == LEN);
    return transfer;
}

/* Takes the next bytes, which must be of the file. Returns how many there are. */
static size_t take(shm_channel_transfer_t *transfer, char file) {
    const void *data;
    size_t len;

    CHECK(shm_channel_transfer_next(transfer, &data, &len) == SHM_CHANNEL_OK);
    for (size_t i = 0; i < len; i++)
        CHECK(((const char *)data)[i] == file);
    return len;
}

static void finish(shm_channel_transfer_t *transfer, char file, size_t had) {
    for (size_t len; (len = take(transfer, file)) > 0; had += len)
        continue;
    CHECK(had == LEN);
    shm_channel_transfer_free(transfer);
}

static void fetch(char file) {
    finish(begin(file), file, 0);
}

/* The end of a child, by whatever it calls, is its status 0, in time. */
static void await(pid_t child) {
    int status;

    CHECK(child > 0);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Each child uses what it inherited, and frees it or not; so do children of children. */
static void children(pid_t (*make)(void)) {
    for (int round = 0; round < 20; round++) {
        fetch('a'), fetch('a'), fetch('a');
        pid_t child = make();
        if (child == 0) {
            for (char file = 'b'; file < 'f'; file++)
                fetch(file);
            pid_t grandchild = make();
            if (grandchild == 0) {
                fetch('f');
                exit(0);
            }
            await(grandchild);
            fetch('b');
            if (round % 2 == 0)
                shm_channel_client_free(client);
            exit(0);
        }
        fetch('a');
        await(child);
        fetch('a');
    }
}

/* A child that needs the client no more. */
static void unused(void) {
    shm_channel_transfer_t *transfer = begin('a');

    for (int how = 0; how < 4; how++) {
        pid_t child = fork();
        if (child == 0) {
            if (how & 1)
                shm_channel_transfer_free(transfer);
            if (how & 2)
                shm_channel_client_free(client);
            exit(0);
        }
        await(child);
    }
    finish(transfer, 'a', 0);
}

/* A transfer that was begun before the fork goes on in both, until the client is freed. */
static void open_transfer(void) {
    shm_channel_transfer_t *transfer = begin('c');
    size_t had = take(transfer, 'c');
    pid_t child = fork();

    if (child != 0) {
        /* The segment is given back, and others come into it, while the child still may look at it. */
        size_t more = take(transfer, 'c');
        fetch('a');
        await(child);
        finish(transfer, 'c', had + more);
        return;
    }
    pid_t grandchild = fork();
    if (grandchild == 0) {
        const void *data;
        size_t len;
        shm_channel_client_free(client);
        CHECK(shm_channel_transfer_next(transfer, &data, &len) == SHM_CHANNEL_CLOSED);
        CHECK(shm_channel_transfer_next(transfer, &data, &len) == SHM_CHANNEL_CLOSED);
        shm_channel_transfer_free(transfer);
        exit(0);
    }
    fetch('d');
    finish(transfer, 'c', had);
    await(grandchild);
    exit(0);
}

static atomic_bool done;

static void *load(void *file) {
    while (!done)
        fetch(*(const char *)file);
    return NULL;
}

/* Children of a process whose threads are in the middle of everything. */
static void threads(void) {
    pthread_t thread[THREADS];

    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&thread[i], NULL, load, &"abcdefgh"[i]) == 0);
    for (int round = 0; round < 50; round++) {
        pid_t child = fork();
        if (child == 0) {
            fetch('h'), fetch('a');
            if (round % 2 == 0)
                shm_channel_client_free(client);
            exit(0);
        }
        await(child);
    }
    done = true;
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
}

/* A process ends, by exit(3), with a transfer under way. Its child goes on, as daemon(3) has it. */
static void parent_exits(void) {
    int ends[2], status;
    char byte;

    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    pid_t parent = fork();
    if (parent == 0) {
        shm_channel_transfer_t *transfer = begin('e');
        size_t had = take(transfer, 'e');
        CHECK(pipe(ends) == 0);
        if (fork() != 0)
            exit(0);
        /* The parent has the other end until its own. */
        close(ends[1]);
        CHECK(read(ends[0], &byte, 1) == 0);
        finish(transfer, 'e', had);
        fetch('a');
        shm_channel_client_free(client);
        exit(0);
    }
    await(parent);
    CHECK(wait(&status) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* As a daemon does that closes all it has, and opens other files under those numbers. */
static void other_descriptors(void) {
    pid_t child = fork();

    if (child == 0) {
        close_range(3, ~0U, 0);
        int own[20];
        for (int i = 0; i < 20; i++)
            CHECK((own[i] = open("/dev/null", O_RDONLY)) >= 0);
        fetch('a');
        shm_channel_client_free(client);
        for (int i = 0; i < 20; i++)
            CHECK(fcntl(own[i], F_GETFD) == 0);
        exit(0);
    }
    await(child);
    fetch('a');
}

int main(int argc, char **argv) {
    CHECK(argc == 4);
    const char *mode = argv[1];
    alarm(120);
    shm_channel_log_start(0);
    CHECK(shm_channel_client_create(argv[2], (uint32_t)atoi(argv[3]), SEGMENT, WAIT_MS, &client) == SHM_CHANNEL_OK);
    fetch('a');
    if (strcmp(mode, "children") == 0)
        children(fork);
    else if (strcmp(mode, "raw children") == 0)
        children(_Fork);
    else if (strcmp(mode, "unused") == 0)
        unused();
    else if (strcmp(mode, "open transfer") == 0)
        open_transfer();
    else if (strcmp(mode, "threads") == 0)
        threads();
    else if (strcmp(mode, "parent exits") == 0)
        parent_exits();
    else if (strcmp(mode, "other descriptors") == 0)
        other_descriptors();
    else
        return 2;
    fetch('b');
    shm_channel_client_free(client);
    return 0;
}
