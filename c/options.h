/* A program's command line as one table: it feeds getopt_long, the usage text and the error messages. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/un.h>

typedef enum {
    OPTION_NUMBER,
    OPTION_TEXT,
    OPTION_ADDRESS,
    OPTION_COUNT,
    OPTION_HELP,
    OPTION_VERSION,
    OPTION_IGNORED
} option_kind_t;

typedef struct {
    char letter;      /* 0: has a long name only */
    const char *name; /* the long name */
    const char *help; /* NULL: accepted, but not in the usage text */
    option_kind_t kind;
    uint32_t *number; /* the values hold the defaults before options_parse */
    uint32_t min, max; /* of a text: its bytes at most, 0 for any number */
    const char **text;
    const char *argument; /* what the usage text calls the text, such as "PATH" */
    int32_t *count;
    bool *given; /* NULL, or set to true where the option occurs */
} option_t;

/* What the library takes where no -S is given, for the usage text. */
#define DEFAULT_SOCKET "[$XDG_RUNTIME_DIR/simplecached.sock, else /tmp/gfproxy-UID/simplecached.sock]"

/* The kinds of rows: {'t', "threads", "worker threads", NUMBER(&threads, 1, 200)} */
#define NUMBER(value, least, most) .kind = OPTION_NUMBER, .number = (value), .min = (least), .max = (most)
#define TEXT(value, metavar) .kind = OPTION_TEXT, .text = (value), .argument = (metavar)
#define SOCKET_PATH(value) TEXT(value, "PATH"), .max = sizeof((struct sockaddr_un *)NULL)->sun_path - 1
#define ADDRESS(value) .kind = OPTION_ADDRESS, .text = (value), .argument = "HOST:PORT"
#define COUNT(value) .kind = OPTION_COUNT, .count = (value)
#define HELP .kind = OPTION_HELP
#define VERSION .kind = OPTION_VERSION
#define IGNORED .kind = OPTION_IGNORED

/*
 * Reads the command line into the values of `table`. Anything wrong ends the program with status 2 and one line on
 * standard error that names the option, the value and the range.
 */
void options_parse(int argc, char **argv, const option_t *table, size_t count);

/* The same end, for what only the program can find wrong. `format` as with printf, without the newline. */
void options_refuse(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

#endif
