/* A program with a daemon, a simplecache and a forked child, that leaves the library to itself and calls exit(3). Run in
 * a directory with a locals file for "/file". */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gfproxy.h"
#include "simplecache.h"

int main(void) {
    gfproxy_cached_options_t options;
    int status;

    gfproxy_cached_options_init(&options);
    options.socket = "socket";
    if (gfproxy_cached_start(&options) != 0 || simplecache_init("locals.txt") != 0 || simplecache_get("/file") < 0)
        return 1;
    pid_t child = fork();
    if (child == 0) {
        gfproxy_cached_stop();
        exit(gfproxy_cached_reload() == -1 && simplecache_get("/file") >= 0 ? 0 : 2);
    }
    /* The socket is the parent's: its child has left it alone. */
    if (waitpid(child, &status, 0) != child || status != 0 || access("socket", F_OK) != 0)
        return 3;
    exit(0);
}
