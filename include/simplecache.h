/*
 * A static cache: a locals file maps keys to files. ABI-equal to the simplecache of the GETFILE kit.
 *
 * The locals file has one entry a line, `key path`, separated by spaces or tabs.
 * docs/reference/locals.md has the whole format.
 *
 * Threads: any function from any thread at any time; none in a signal handler.
 */
#ifndef _SIMPLECACHE_H_
#define _SIMPLECACHE_H_

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Loads a locals file, which replaces the one loaded before. A file in it is opened when it is first asked for.
 *
 * `filename`: the path of the locals file, NUL-terminated.
 *
 * Returns 0 on success. Errors: -1 with errno set, and a line on standard error that names the file, the line and the
 * reason. EINVAL: `filename` is NULL, or a line is no entry. The table that was loaded before then stays.
 *
 * Ownership: descriptors that simplecache_get returned stay open.
 */
int simplecache_init(char *filename);

/*
 * Gives the file behind a key. It first sleeps `cache_delay` microseconds: a global `unsigned long int`, which the
 * program may define.
 *
 * `key`: the key, NUL-terminated.
 *
 * Returns an open descriptor. Errors: -1 with errno set.
 * ENOENT: no such key or file, or nothing is loaded.
 * EINVAL: `key` is NULL, or its path leads to no regular file.
 * EBUSY: the file is written all the time, or leased to another program.
 * EMFILE: no descriptor is left.
 * Any other: what open(2) says.
 *
 * Ownership: the descriptor is the cache's. Do not close it. It stays open until simplecache_destroy, also when the
 * file is replaced.
 *
 * Threads: all callers share the descriptor and its offset, which begins at 0. Read it with pread(2) only.
 */
int simplecache_get(char *key);

/* Closes all descriptors of simplecache_get and frees the table. Without simplecache_init it does nothing. */
void simplecache_destroy(void);

#ifdef __cplusplus
}
#endif

#endif
