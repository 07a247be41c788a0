/*
 * webproxy: answers GETFILE requests with files from an HTTP origin (Part 1), from the cache daemon simplecached
 * (Part 2), or from the cache first and the origin on a miss.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "gfproxy.h"
#include "gfserver.h"
#include "options.h"

enum { BACKLOG = 4096, NO_SOCKET = -1 };

static gfserver_t gfs;
static bool own_gfserver;
static sigset_t endings;
static uint32_t drain_ms = 5000;

/*
 * The end that both a provided gfserver.o and ours can take. gfserver_stop is not called on a provided one: it cancels
 * its worker threads and frees their contexts while handlers may still run. So the listening socket is shut down, which
 * refuses new clients, the handlers finish what they have begun, and the process exits with its threads idle.
 */
static void *end_on_signal(void *unused) {
    int signal_number;

    (void)unused;
    sigwait(&endings, &signal_number);
    /* timeout(1) signals the process, then its group: signals that come together are one. */
    struct timespec together = {.tv_nsec = 50 * 1000 * 1000};
    while (sigtimedwait(&endings, NULL, &together) > 0)
        continue;
    /* From here on a second signal has its default action: it ends the process at once. */
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    if (sigismember(&endings, SIGHUP))
        signal(SIGHUP, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, &endings, NULL);

    /* NO_SOCKET: the signal was faster than gfserver_serve, and there are no clients yet. */
    int listener = gfs.socket_fd;
    if (listener != NO_SOCKET)
        shutdown(listener, SHUT_RDWR);
    int left = gfproxy_drain(drain_ms);
    /* Ours gives clients that have their answer 2 s to hang up: whoever does is not reset. */
    bool ended = left == 0 && listener != NO_SOCKET && own_gfserver && drain_ms > 0;
    if (ended)
        gfserver_stop(&gfs);
    gfproxy_stop();
    /* Then main has left gfserver_serve, and ends a process that has no other thread. */
    if (ended)
        return NULL;
    if (left > 0) {
        /* Not exit: handlers still run, and must not meet libraries that have cleaned up. */
        fflush(NULL);
        _exit(EXIT_SUCCESS);
    }
    exit(EXIT_SUCCESS);
}

/* A client is a descriptor: as many as the system allows, not the 1024 that select(2) can bear. Nothing here selects. */
static void raise_descriptor_limit(void) {
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* First of all, so that a signal in the first moments is handled, too. All threads inherit this mask: only end_on_signal
 * takes these signals. */
static void block_endings(void) {
    struct sigaction hangup;

    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&endings);
    sigaddset(&endings, SIGTERM);
    sigaddset(&endings, SIGINT);
    /* There is nothing to load again: it is an end, unless nohup(1) or the like wants it ignored. */
    if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler != SIG_IGN)
        sigaddset(&endings, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &endings, NULL);
}

/* What is wrong with options that each are in range by themselves. */
static void check(const gfproxy_options_t *options) {
    char reason[256], shown[4096];

    if (options->origin != NULL && gfproxy_check_origin(options->origin, reason, sizeof reason) != 0) {
        gfproxy_show_origin(options->origin, shown, sizeof shown);
        options_refuse("-s (--server): '%s' is no origin: %s", shown, reason);
    }
    if ((uint64_t)options->segments * options->segment_size > GFPROXY_MAX_SHARED_SIZE)
        options_refuse("-n (--segment-count) %u times -z (--segment-size) %u is more than %llu bytes", options->segments,
                       options->segment_size, (unsigned long long)GFPROXY_MAX_SHARED_SIZE);
}

int main(int argc, char **argv) {
    uint32_t port = 25362, threads = 8;
    const char *address = NULL;
    bool cache = false;
    gfproxy_options_t options;

    block_endings();
    gfproxy_options_init(&options);
    const option_t table[] = {
        {'p', "port", "listen on this port, 0: any free one", NUMBER(&port, 0, 65535)},
        {'l', "listen", "listen on this address alone (our gfserver only)", TEXT(&address, "ADDRESS")},
        {'t', "thread-count", "worker threads", NUMBER(&threads, 1, 200)},
        {'s', "server", "base URL of the origin to relay to", TEXT(&options.origin, "URL")},
        {'n', "segment-count", "shared-memory segments", NUMBER(&options.segments, 1, GFPROXY_MAX_SEGMENTS),
         .given = &cache},
        {'z', "segment-size", "bytes in a segment",
         NUMBER(&options.segment_size, GFPROXY_MIN_SEGMENT_SIZE, GFPROXY_MAX_SEGMENT_SIZE), .given = &cache},
        {'S', "socket", "command socket of simplecached " DEFAULT_SOCKET, SOCKET_PATH(&options.socket), .given = &cache},
        {0, "cache-wait-ms", "milliseconds that a request waits for an absent simplecached",
         NUMBER(&options.cache_wait_ms, 0, UINT32_MAX)},
        {0, "stall-ms", "drop a client that does not read for so many milliseconds", NUMBER(&options.stall_ms, 1, UINT32_MAX)},
        {0, "drain-ms", "on SIGTERM, let transfers run for so many milliseconds", NUMBER(&drain_ms, 0, UINT32_MAX)},
        {0, "metrics", "serve Prometheus metrics on this address, port 0: any free one", ADDRESS(&options.metrics)},
        {'v', "verbose", "log more: -v info, -vv debug, -vvv trace", COUNT(&options.verbosity)},
        {'V', "version", "print the version", VERSION},
        {'h', "help", "print this text", HELP},
        {0, "listen-port", NULL, NUMBER(&port, 0, 65535)},
        {0, "hidden", NULL, IGNORED},
    };
    options_parse(argc, argv, table, sizeof table / sizeof *table);
    check(&options);
    options.cache = cache || options.origin == NULL;

    /* An origin alone is Part 1, none is Part 2, both together are a cache in front of an origin. */
    ssize_t (*handler)(gfcontext_t *, const char *, void *) = options.origin == NULL ? handle_with_cache
                                                              : options.cache        ? handle_with_cache_or_curl
                                                                                     : handle_with_curl;

    raise_descriptor_limit();

    gfserver_init(&gfs, (int)threads);
    gfs.socket_fd = NO_SOCKET; /* which a provided gfserver_init leaves as it is */
    own_gfserver = gfproxy_gfserver_set_stop_timeout(&gfs, drain_ms) == 0;
    if (address != NULL && !own_gfserver)
        options_refuse("-l (--listen): a provided gfserver.o takes no address");
    if (address != NULL && gfproxy_gfserver_listen(&gfs, address) != 0)
        options_refuse("-l (--listen): '%s' is no IP address", address);
    gfserver_setopt(&gfs, GFS_PORT, (unsigned short)port);
    gfserver_setopt(&gfs, GFS_MAXNPENDING, BACKLOG);
    gfserver_setopt(&gfs, GFS_WORKER_FUNC, handler);
    for (int worker = 0; worker < (int)threads; worker++)
        gfserver_setopt(&gfs, GFS_WORKER_ARG, worker, options.origin);

    pthread_t signal_thread;
    if (gfproxy_start(&options) != 0)
        return EXIT_FAILURE;
    if (pthread_create(&signal_thread, NULL, end_on_signal, NULL) != 0) {
        perror("webproxy: pthread_create");
        return EXIT_FAILURE;
    }
    gfserver_serve(&gfs);

    /* Our gfserver returns once its socket is shut down; the signal thread still drains. */
    pthread_join(signal_thread, NULL);
    return EXIT_SUCCESS;
}
