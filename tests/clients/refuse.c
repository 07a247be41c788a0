/* Loaded into a client, makes the system call that REFUSE names fail as a file system of another kind would. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool refuses(const char *call) {
    const char *refused = getenv("REFUSE");

    return refused != NULL && strcmp(refused, call) == 0;
}

static bool is_written_file(int fd) {
    struct stat found;

    return fstat(fd, &found) == 0 && S_ISREG(found.st_mode) && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY;
}

int open64(const char *path, int flags, ...) {
    int (*next)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    mode_t mode = 0;
    va_list arguments;

    if ((flags & O_TMPFILE) == O_TMPFILE && refuses("tmpfile")) {
        errno = EOPNOTSUPP;
        return -1;
    }
    if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE) {
        va_start(arguments, flags);
        mode = va_arg(arguments, mode_t);
        va_end(arguments);
    }
    return next(path, flags, mode);
}

int fsync(int fd) {
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");

    if (refuses("fsync")) {
        errno = EDQUOT;
        return -1;
    }
    return next(fd);
}

int close(int fd) {
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "close");
    bool refused = refuses("close") && is_written_file(fd);
    int result = next(fd);

    if (refused) {
        errno = EDQUOT;
        return -1;
    }
    return result;
}
