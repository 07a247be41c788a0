/* A program that brings its own simplecache, as the kit does, beside other parts of the archive. */
#include <stdlib.h>

#include "gfproxy.h"
#include "simplecache.h"

int simplecache_init(char *filename) {
    return filename == NULL ? 7 : 8;
}

int simplecache_get(char *key) {
    return key == NULL ? 9 : 10;
}

void simplecache_destroy(void) {
}

int main(void) {
    gfproxy_cached_options_t options;

    gfproxy_cached_options_init(&options);
    simplecache_destroy();
    return simplecache_init(NULL) == 7 && simplecache_get(NULL) == 9 && options.threads > 0 ? EXIT_SUCCESS
                                                                                            : EXIT_FAILURE;
}
