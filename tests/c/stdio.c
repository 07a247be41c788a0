/*
 * A relay that does something to its standard descriptors once the library logs, as daemons do:
 *
 *   stdio close          closes 0 to 2
 *   stdio append FILE    makes FILE its standard error, as freopen(3) does
 *   stdio rotate FILE    the same with dup2(2), of standard output, too
 *   stdio data FILE      closes 2, and opens FILE for something else, which gets the number
 *   stdio socket         closes 2, and gets a socket of its own there
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "gfproxy.h"

static int rearrange(const char *what, const char *file) {
    if (strcmp(what, "close") == 0) {
        for (int number = 0; number < 3; number++)
            close(number);
        return 0;
    }
    if (strcmp(what, "append") == 0)
        return freopen(file, "a", stderr) == NULL;
    if (strcmp(what, "rotate") == 0) {
        int log = open(file, O_WRONLY | O_CREAT, 0600);
        return log < 0 || dup2(log, 1) != 1 || dup2(log, 2) != 2 || close(log) != 0;
    }
    close(2);
    if (strcmp(what, "data") == 0)
        return open(file, O_WRONLY | O_CREAT, 0600) != 2;
    return socket(AF_INET, SOCK_DGRAM, 0) != 2;
}

int main(int argc, char **argv) {
    gfserver_t server;
    gfproxy_options_t options;

    if (argc < 2)
        return 2;
    gfproxy_options_init(&options);
    options.cache = false;
    options.verbosity = 3;
    options.origin = getenv("ORIGIN");
    if (gfproxy_start(&options) != 0 || rearrange(argv[1], argv[2]) != 0)
        return 1;
    gfserver_init(&server, 2);
    gfserver_setopt(&server, GFS_PORT, 0);
    gfserver_setopt(&server, GFS_WORKER_FUNC, handle_with_curl);
    gfserver_serve(&server);
    return 0;
}
