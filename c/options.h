/* A program's command line as one table: it feeds getopt_long, the usage text and the error messages. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    OPTION_NUMBER, /* value: uint32_t *, within min to max */
    OPTION_TEXT,   /* value: const char ** */
    OPTION_COUNT,  /* value: int32_t *, one more each time; takes no argument */
    OPTION_HELP,   /* prints the usage text and exits 0 */
    OPTION_IGNORED /* accepted without effect; takes no argument */
} option_kind_t;

typedef struct {
    char letter;      /* 0: has a long name only */
    const char *name; /* NULL: has a letter only */
    option_kind_t kind;
    void *value; /* holds the default before options_parse */
    uint32_t min, max;
    const char *help; /* NULL: not in the usage text */
    bool *given;      /* NULL, or set to true where the option occurs */
} option_t;

/*
 * Reads the command line into the values of `table`. Anything wrong ends the program with status 2 and one line on
 * standard error that names the option, the value and the range.
 */
void options_parse(int argc, char **argv, const option_t *table, size_t count);

#endif
