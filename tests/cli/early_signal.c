/* Loaded into a program, raises SIGHUP in it while it reads its first option. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <unistd.h>

int getopt_long(int argc, char *const *argv, const char *letters, const struct option *names, int *index) {
    int (*next)(int, char *const *, const char *, const struct option *, int *) =
        (int (*)(int, char *const *, const char *, const struct option *, int *))dlsym(RTLD_NEXT, "getopt_long");
    static bool raised;

    if (!raised) {
        raised = true;
        kill(getpid(), SIGHUP);
    }
    return next(argc, argv, letters, names, index);
}
