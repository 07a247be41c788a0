/* The command line, see options.h. */
#define _GNU_SOURCE /* program_invocation_short_name */
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gfproxy.h"

enum { MAX_OPTIONS = 32, USAGE_ERROR = 2 };

/* glibc's: the last component of argv[0]. */
#define program program_invocation_short_name

static bool takes_argument(const option_t *option) {
    return option->kind == OPTION_NUMBER || option->kind == OPTION_TEXT || option->kind == OPTION_ADDRESS;
}

/* "-t (--thread-count)", or the one name that there is. */
static const char *name_of(const option_t *option) {
    static char name[64];

    if (option->letter == 0)
        snprintf(name, sizeof name, "--%s", option->name);
    else
        snprintf(name, sizeof name, "-%c (--%s)", option->letter, option->name);
    return name;
}

static void usage(const option_t *table, size_t count) {
    printf("usage: %s [options]\n", program);
    for (const option_t *option = table; option < table + count; option++) {
        if (option->help == NULL)
            continue;
        char letter[4] = "   ", names[64];
        if (option->letter != 0)
            snprintf(letter, sizeof letter, "-%c,", option->letter);
        snprintf(names, sizeof names, "--%s %s", option->name,
                 option->kind == OPTION_NUMBER ? "N"
                 : takes_argument(option)      ? option->argument
                                               : "");
        printf("  %s %-20s %s", letter, names, option->help);
        if (option->kind == OPTION_NUMBER)
            printf(" [%u; %u to %u]", *option->number, option->min, option->max);
        else if (takes_argument(option) && *option->text != NULL)
            printf(" [%s]", *option->text);
        putchar('\n');
    }
}

/* Digits only: strtoull alone would take "-1", " 8" and "+8". */
static bool parse_number(const char *text, uint32_t min, uint32_t max, uint32_t *value) {
    char *end;

    if (!isdigit((unsigned char)text[0]))
        return false;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || number < min || number > max)
        return false;
    *value = (uint32_t)number;
    return true;
}

static bool is_address(const char *text) {
    const char *colon = strrchr(text, ':');
    uint32_t port;

    return colon != NULL && colon != text && parse_number(colon + 1, 0, 65535, &port);
}

void options_refuse(const char *format, ...) {
    va_list args;

    fprintf(stderr, "%s: ", program);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(USAGE_ERROR);
}

static void take(const option_t *option, const char *argument, const option_t *table, size_t count) {
    if (option->given != NULL)
        *option->given = true;
    switch (option->kind) {
    case OPTION_NUMBER:
        if (parse_number(argument, option->min, option->max, option->number))
            return;
        options_refuse("%s: '%s' is not a number from %u to %u", name_of(option), argument, option->min, option->max);
    case OPTION_TEXT:
        if (argument[0] == '\0')
            options_refuse("%s: '' is empty", name_of(option));
        if (option->max != 0 && strlen(argument) > option->max)
            options_refuse("%s: '%s' is longer than %u bytes", name_of(option), argument, option->max);
        *option->text = argument;
        return;
    case OPTION_ADDRESS:
        if (!is_address(argument))
            options_refuse("%s: '%s' is not HOST:PORT with a port from 0 to 65535", name_of(option), argument);
        *option->text = argument;
        return;
    case OPTION_COUNT:
        ++*option->count;
        return;
    case OPTION_HELP:
        usage(table, count);
        exit(EXIT_SUCCESS);
    case OPTION_VERSION:
        printf("%s %s\n", program, gfproxy_version());
        exit(EXIT_SUCCESS);
    case OPTION_IGNORED:
        return;
    }
}

/* What getopt_long refused: `refused` is ':' (no argument) or '?', the option is `known` or what stands in `word`. */
static void refuse(int refused, const option_t *known, const char *word) {
    if (refused == ':')
        options_refuse("%s needs a value", name_of(known));
    if (known != NULL)
        options_refuse("%s takes no value: '%s'", name_of(known), word);
    if (optopt != 0)
        options_refuse("unknown option -%c; %s -h lists all", optopt, program);
    options_refuse("unknown or ambiguous option %s; %s -h lists all", word, program);
}

void options_parse(int argc, char **argv, const option_t *table, size_t count) {
    /* getopt_long's codes: a letter, or LONG + the row for a long name. */
    enum { LONG = 256 };
    struct option names[MAX_OPTIONS + 1] = {{0}};
    char letters[2 * MAX_OPTIONS + 2] = ":";
    size_t nletters = 1;

    if (count > MAX_OPTIONS)
        abort();
    for (size_t row = 0; row < count; row++) {
        names[row] = (struct option){table[row].name, takes_argument(&table[row]), NULL, LONG + (int)row};
        if (table[row].letter != 0) {
            letters[nletters++] = table[row].letter;
            if (takes_argument(&table[row]))
                letters[nletters++] = ':';
        }
    }

    int code;
    while ((code = getopt_long(argc, argv, letters, names, NULL)) != -1) {
        int wanted = code == ':' || code == '?' ? optopt : code;
        const option_t *option = NULL;
        for (size_t row = 0; row < count && option == NULL; row++)
            if (wanted == LONG + (int)row || (wanted != 0 && wanted == table[row].letter))
                option = &table[row];
        if (code == ':' || code == '?')
            refuse(code, option, argv[optind - 1]);
        take(option, optarg, table, count);
    }
    if (optind < argc)
        options_refuse("unexpected argument '%s'", argv[optind]);
}
