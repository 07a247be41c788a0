/*
 * A static cache: a locals file maps keys to files. ABI-equal to the simplecache of the GETFILE kit.
 *
 * The locals file has one entry a line, `key path`, parted by spaces or tabs; docs/locals.md has the whole format.
 * All functions may be called from any thread; simplecache_init and simplecache_destroy by one thread at a time.
 */
#ifndef _SIMPLECACHE_H_
#define _SIMPLECACHE_H_

/*
 * Loads the locals file `filename`, which replaces what was loaded before. Returns 0, or -1 with errno set and a
 * line on standard error that names the file, the line and the reason; what was loaded before then stays.
 */
int simplecache_init(char *filename);

/*
 * Returns an open descriptor of the file behind `key`, or -1 with errno set (ENOENT: no such key or file). The
 * descriptor belongs to the cache, is shared by all callers and stays open until simplecache_destroy: read it with
 * pread(2) only, do not close it. Sleeps `cache_delay` microseconds first, where the program defines that variable.
 */
int simplecache_get(char *key);

/* Closes all descriptors that simplecache_get returned and frees the table. */
void simplecache_destroy(void);

#endif
