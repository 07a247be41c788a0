/*
 * A cache daemon and a proxy in one process that are given relative paths, and then go elsewhere, as daemon(3) does. SIGHUP
 * is a reload.
 */
#include <signal.h>

#include "gfproxy.h"

int main(void) {
    gfserver_t server;
    gfproxy_options_t proxy;
    gfproxy_cached_options_t cached;

    gfproxy_cached_options_init(&cached);
    cached.locals = "locals.txt";
    cached.socket = "socket";
    gfproxy_options_init(&proxy);
    proxy.socket = "socket";
    if (gfproxy_cached_start(&cached) != 0 || gfproxy_start(&proxy) != 0 || chdir("/") != 0)
        return 1;
    if (gfproxy_cached_reload() != 0)
        return 2;
    gfserver_init(&server, 2);
    gfserver_setopt(&server, GFS_PORT, 0);
    gfserver_setopt(&server, GFS_WORKER_FUNC, handle_with_cache);
    gfserver_serve(&server);
    return 0;
}
