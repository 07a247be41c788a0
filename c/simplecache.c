/*
 * The symbols of simplecache.h over gfproxy's catalog, which is written in Rust. This file is the only one that defines
 * them, so a linker takes it from the archive only where the program brings no simplecache.o of its own.
 */
#include "simplecache.h"

int gfproxy_simplecache_init(const char *filename);
int gfproxy_simplecache_get(const char *key, unsigned long delay_us);
void gfproxy_simplecache_destroy(void);

/* Microseconds: the program's own, as the kit's simplecached has one, or the weak one of compat.c. */
extern unsigned long int cache_delay;

int simplecache_init(char *filename) {
    return gfproxy_simplecache_init(filename);
}

int simplecache_get(char *key) {
    return gfproxy_simplecache_get(key, cache_delay);
}

void simplecache_destroy(void) {
    gfproxy_simplecache_destroy();
}
