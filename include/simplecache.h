/*
 * A static cache: a locals file maps keys to files. ABI-equal to the simplecache of the GETFILE kit.
 *
 * The locals file has one entry a line, `key path`, parted by spaces or tabs; docs/locals.md has the whole format.
 * All functions may be called from any thread at any time, but not from a signal handler.
 */
#ifndef _SIMPLECACHE_H_
#define _SIMPLECACHE_H_

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Loads the locals file `filename`, which replaces what was loaded before; descriptors that were returned stay open.
 * The files themselves are opened when they are first asked for. Returns 0, or -1 with errno set (EINVAL: `filename` is
 * NULL, or a line is no entry) and a line on standard error that names the file, the line and the reason; what was
 * loaded before then stays.
 */
int simplecache_init(char *filename);

/*
 * Returns an open descriptor of the file behind `key`, its offset at 0, or -1 with errno set (ENOENT: no such key or
 * file, or nothing is loaded; EINVAL: `key` is NULL, or its path leads to no regular file; EBUSY: it is written all the
 * time, or leased to another program; EMFILE: no descriptor is left; or what open(2) says). The descriptor belongs to the cache, is shared by all callers and stays open until simplecache_destroy, also
 * when the file is replaced: do not close it, and read it with pread(2) only, since other threads share its offset.
 * Sleeps `cache_delay` microseconds first: that is a global `unsigned long int`, which the program may define.
 */
int simplecache_get(char *key);

/* Closes all descriptors that simplecache_get returned and frees the table. Without simplecache_init it does nothing. */
void simplecache_destroy(void);

#ifdef __cplusplus
}
#endif

#endif
