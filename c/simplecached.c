/* simplecached: the cache daemon. Serves the files of a locals file to webproxy over shared memory. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "gfproxy.h"
#include "options.h"

int main(int argc, char **argv) {
    gfproxy_cached_options_t options;
    sigset_t signals;

    /* First of all, so that a signal in the first moments is handled, too. All threads inherit this mask: only the loop
     * below takes these signals. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGHUP);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);

    gfproxy_cached_options_init(&options);
    const option_t table[] = {
        {'c', "cachedir", "the locals file: a key and a path a line", TEXT(&options.locals, "FILE")},
        {'t', "nthreads", "worker threads", NUMBER(&options.threads, 1, 100)},
        {'d', "delay", "microseconds by which each lookup is delayed", NUMBER(&options.delay_us, 0, 2500000)},
        {'S', "socket", "command socket to listen on " DEFAULT_SOCKET, SOCKET_PATH(&options.socket)},
        {0, "metrics", "serve Prometheus metrics on this address, port 0: any free one", ADDRESS(&options.metrics)},
        {'v', "verbose", "log more: -v info, -vv debug, -vvv trace", COUNT(&options.verbosity)},
        {'V', "version", "print the version", VERSION},
        {'h', "help", "print this text", HELP},
        {'i', "hidden", NULL, IGNORED},
    };
    options_parse(argc, argv, table, sizeof table / sizeof *table);

    if (gfproxy_cached_start(&options) != 0)
        return EXIT_FAILURE;

    int signal_number;
    while (sigwait(&signals, &signal_number) == 0 && signal_number == SIGHUP)
        gfproxy_cached_reload();

    /* timeout(1) signals the process, then its group: signals that come together are one. */
    struct timespec together = {.tv_nsec = 50 * 1000 * 1000};
    while (sigtimedwait(&signals, NULL, &together) > 0)
        continue;

    /* From here on a second signal has its default action: it ends the process at once. */
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGHUP, SIG_IGN);
    pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
    gfproxy_cached_stop();
    return EXIT_SUCCESS;
}
