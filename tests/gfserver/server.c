/*
 * The server that these tests talk to: a program of the C interface alone. What its handler does depends on the path.
 * Standard output tells what happened, a line "go" on standard input lets one held handler go on.
 *
 *   server -p port -t threads [-l address] [-d stop limit in ms] [-n descriptors] [-c cycles] [-k] [-a]
 *
 * -a serves again, after it has got a listening socket of its own.
 * -k takes SIGTERM in a signal handler on the thread that serves, as the kit's mains do, not in a thread of its own.
 */
#include "gfserver.h"

#include <dirent.h>
#include <netinet/in.h>
#include <semaphore.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "gfproxy.h"

_Static_assert(sizeof(gfserver_t) == 144 && sizeof(gfcontext_t) == 200, "the layout of the provided object");

enum { PIECE = 65536 };

static gfserver_t gfs;
static sem_t go;
static int calls;
static sigset_t term;
static char pattern[PIECE + 251];

static void say(const char *what, long value) {
    printf("%s %ld\n", what, value);
    fflush(stdout);
}

static int entries(const char *directory) {
    DIR *dir = opendir(directory);
    int count = -1; /* the one of opendir */

    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

/* The byte at `offset` of every file is offset % 251. */
static bool send_range(gfcontext_t *ctx, size_t from, size_t to) {
    for (size_t size; from < to; from += size) {
        size = to - from < PIECE ? to - from : PIECE;
        if (gfs_send(ctx, pattern + from % 251, size) != (ssize_t)size)
            return false;
    }
    return true;
}

static ssize_t describe(gfcontext_t *ctx, const char *path, const char *arg) {
    char text[8192];
    bool right = ctx->gfs == &gfs && ctx->path == path && ctx->arg == (void *)arg &&
                 pthread_equal(ctx->thread, pthread_self()) && ctx >= gfs.contexts &&
                 ctx < gfs.contexts + gfs.nthreads && gfs.worker_func != NULL;
    int size = snprintf(text, sizeof text, "%s|%s|%s|%s|%s", ctx->protocol, ctx->method, path, arg,
                        right ? "right" : "wrong");

    if (gfs_sendheader(ctx, GF_OK, (size_t)size) < 0 || ctx->file_len != (size_t)size || ctx->bytes_transferred != 0)
        return -1;
    gfs_send(ctx, text, (size_t)size);
    return (ssize_t)ctx->bytes_transferred;
}

static ssize_t handle(gfcontext_t *ctx, const char *path, void *arg) {
    char verb[16] = "";
    size_t size = 0;

    __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    sscanf(path, "/%15[^/]/%zu", verb, &size);
    if (strcmp(verb, "size") == 0) {
        gfs_sendheader(ctx, GF_OK, size);
        return send_range(ctx, 0, size) ? (ssize_t)size : -1;
    }
    if (strcmp(verb, "short") == 0 || strcmp(verb, "broken") == 0) {
        gfs_sendheader(ctx, GF_OK, size);
        send_range(ctx, 0, size / 2);
        return strcmp(verb, "broken") == 0 ? -1 : (ssize_t)size;
    }
    if (strcmp(verb, "fail") == 0)
        return -1;
    if (strcmp(verb, "silent") == 0)
        return 0;
    if (strcmp(verb, "missing") == 0) {
        say("header", gfs_sendheader(ctx, GF_FILE_NOT_FOUND, 7));
        return -1;
    }
    if (strcmp(verb, "rules") == 0) {
        say("data before a header", gfs_send(ctx, pattern, 1));
        say("unknown status", gfs_sendheader(ctx, 418, 1));
        say("header", gfs_sendheader(ctx, GF_OK, 10));
        say("second header", gfs_sendheader(ctx, GF_ERROR, 0));
        say("too much", gfs_send(ctx, pattern, 11));
        say("nothing", gfs_send(ctx, pattern, 0));
        say("all", gfs_send(ctx, pattern, 10));
        say("more", gfs_send(ctx, pattern + 10, 1));
        return 10;
    }
    if (strcmp(verb, "gap") == 0) { /* goes on after a send that failed: here of bytes that cannot be read */
        gfs_sendheader(ctx, GF_OK, size);
        say("first half", gfs_send(ctx, pattern, size / 2));
        say("unreadable", gfs_send(ctx, (void *)1, 1));
        say("after a failure", gfs_send(ctx, pattern, size - size / 2));
        return (ssize_t)size;
    }
    if (strcmp(verb, "direct") == 0) { /* past the library, as with sendfile(2) */
        gfs_sendheader(ctx, GF_OK, size);
        while (ctx->bytes_transferred < size)
            ctx->bytes_transferred += (size_t)write(ctx->socket, pattern + ctx->bytes_transferred % 251, 1);
        return (ssize_t)size;
    }
    if (strcmp(verb, "hold") == 0) {
        gfs_sendheader(ctx, GF_OK, size);
        send_range(ctx, 0, size / 2);
        say("held", 0);
        sem_wait(&go);
        return send_range(ctx, size / 2, size) ? (ssize_t)size : -1;
    }
    if (strcmp(verb, "late") == 0) { /* returns long after the last byte */
        gfs_sendheader(ctx, GF_OK, size);
        bool sent = send_range(ctx, 0, size);
        sem_wait(&go);
        return sent ? (ssize_t)size : -1;
    }
    if (strcmp(verb, "endless") == 0) {
        gfs_sendheader(ctx, GF_OK, SIZE_MAX);
        say("streaming", 0);
        while (gfs_send(ctx, pattern, PIECE) == PIECE)
            ;
        say("endless failed", gfs_send(ctx, pattern, 1));
        return -1;
    }
    if (strcmp(verb, "refuse") == 0) { /* the end of a main that must do with any gfserver */
        shutdown(gfs.socket_fd, SHUT_RDWR);
        return gfs_sendheader(ctx, GF_FILE_NOT_FOUND, 0);
    }
    if (strcmp(verb, "stop") == 0) {
        gfserver_stop(&gfs);
        return gfs_sendheader(ctx, GF_FILE_NOT_FOUND, 0);
    }
    return describe(ctx, path, arg);
}

static void stop_in_handler(int signal_number) {
    (void)signal_number;
    gfserver_stop(&gfs);
    say("stopped", 0);
}

static void *stop_on_signal(void *unused) {
    int signal_number;

    sigwait(&term, &signal_number);
    gfserver_stop(&gfs);
    say("stopped", entries("/proc/self/task"));
    return unused;
}

static void *tell_port(void *unused) {
    while (__atomic_load_n(&gfs.socket_fd, __ATOMIC_SEQ_CST) < 0)
        usleep(1000);
    say("port", __atomic_load_n(&gfs.port, __ATOMIC_SEQ_CST));
    return unused;
}

static void *let_go(void *unused) {
    char line[16];

    while (fgets(line, sizeof line, stdin) != NULL)
        sem_post(&go);
    return unused;
}

/* Stops the server once it has answered some. */
static void *stop_early(void *unused) {
    while (__atomic_load_n(&calls, __ATOMIC_SEQ_CST) < 20)
        usleep(100);
    gfserver_stop(&gfs);
    return unused;
}

static void start_thread(pthread_t *thread, void *(*run)(void *)) {
    if (pthread_create(thread, NULL, run, NULL) != 0)
        abort();
}

static void prepare(unsigned short port, int threads, const char *address, unsigned limit) {
    gfserver_init(&gfs, threads);
    gfserver_setopt(&gfs, GFS_PORT, port);
    gfserver_setopt(&gfs, GFS_MAXNPENDING, 90);
    gfserver_setopt(&gfs, GFS_WORKER_FUNC, handle);
    for (int worker = 0; worker < threads; worker++)
        gfserver_setopt(&gfs, GFS_WORKER_ARG, worker, "arg");
    gfserver_setopt(&gfs, GFS_WORKER_ARG, threads, "no such worker");
    if (address != NULL)
        say("listen", gfproxy_gfserver_listen(&gfs, address));
    if (limit != UINT_MAX)
        gfproxy_gfserver_set_stop_timeout(&gfs, limit);
}

static void serve_once(bool in_handler) {
    pthread_t teller, stopper, releaser;

    if (in_handler)
        signal(SIGTERM, stop_in_handler);
    else
        pthread_sigmask(SIG_BLOCK, &term, NULL);
    start_thread(&teller, tell_port);
    if (!in_handler)
        start_thread(&stopper, stop_on_signal);
    /* Only the thread that serves may take the signal. */
    pthread_sigmask(SIG_BLOCK, &term, NULL);
    start_thread(&releaser, let_go);
    if (in_handler)
        pthread_sigmask(SIG_UNBLOCK, &term, NULL);
    gfserver_serve(&gfs);
    say("returned", gfs.socket_fd);
    if (!in_handler) {
        /* Where something else ended the server, this ends the wait. */
        pthread_kill(stopper, SIGTERM);
        pthread_join(stopper, NULL);
    }
}

static void serve_cycles(int cycles, unsigned short port, int threads, const char *address) {
    int threads_before = entries("/proc/self/task"), descriptors_before = entries("/proc/self/fd");

    for (int cycle = 0; cycle < cycles; cycle++) {
        pthread_t stopper;

        prepare(port, threads, address, UINT_MAX);
        calls = 0;
        start_thread(&stopper, stop_early);
        gfserver_serve(&gfs);
        pthread_join(stopper, NULL);
    }
    say("threads left", entries("/proc/self/task") - threads_before);
    say("descriptors left", entries("/proc/self/fd") - descriptors_before);
}

int main(int argc, char **argv) {
    unsigned short port = 0;
    unsigned limit = UINT_MAX;
    int threads = 4, cycles = 0;
    const char *address = NULL;
    bool in_handler = false, again = false;
    struct rlimit descriptors;

    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sem_init(&go, 0, 0);
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (char)(i % 251);
    for (int option; (option = getopt(argc, argv, "p:t:l:d:n:c:ka")) != -1;) {
        switch (option) {
        case 'p': port = (unsigned short)atoi(optarg); break;
        case 't': threads = atoi(optarg); break;
        case 'l': address = optarg; break;
        case 'd': limit = (unsigned)atoi(optarg); break;
        case 'n':
            descriptors.rlim_cur = descriptors.rlim_max = (rlim_t)atoi(optarg);
            setrlimit(RLIMIT_NOFILE, &descriptors);
            break;
        case 'c': cycles = atoi(optarg); break;
        case 'k': in_handler = true; break;
        case 'a': again = true; break;
        default: return 2;
        }
    }
    if (cycles > 0) {
        serve_cycles(cycles, port, threads, address);
        return 0;
    }
    prepare(port, threads, address, limit);
    serve_once(in_handler);
    if (again) {
        struct sockaddr_in name = {0};
        socklen_t size = sizeof name;
        int own = socket(AF_INET, SOCK_STREAM, 0);

        say("own socket", listen(own, 1) == 0 ? own : -1);
        getsockname(own, (struct sockaddr *)&name, &size);
        say("own port", ntohs(name.sin_port));
        prepare(port, threads, address, limit);
        serve_once(in_handler);
    }
    return 0;
}
