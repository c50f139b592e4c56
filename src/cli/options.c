#include "cli/options.h"

#include "cli/command.h"
#include "cli/help.h"
#include "cli/report.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OPTIONS 48

/* getopt_long() answers with this plus the index of a long option; letters are smaller. */
#define FIRST_CODE 256

/* strtod() also reads hexadecimal, "inf", "nan" and leading spaces: none of them is a number here.
 */
static bool parse_real(const char *text, const cf_option *option, double *value)
{
    if (*text == 0 || text[strspn(text, "0123456789+-.eE")] != 0)
        return false;
    char *end;
    *value = strtod(text, &end);
    if (*end != 0 || !isfinite(*value))
        return false;
    if (option->or_zero && *value == 0)
        return true;
    bool below = option->below_max ? *value < option->max : *value <= option->max;
    return *value >= option->min && below;
}

static bool parse_digits(const char *text, size_t n, uint64_t *value)
{
    *value = 0;
    if (n == 0)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9' || __builtin_mul_overflow(*value, 10u, value) ||
            __builtin_add_overflow(*value, (uint64_t)(text[i] - '0'), value))
            return false;
    }
    return true;
}

static bool parse_count(const char *text, size_t n, const cf_option *option, size_t *value)
{
    uint64_t number;
    if (!parse_digits(text, n, &number) || (double)number < option->min ||
        (double)number > option->max)
        return false;
    *value = (size_t)number;
    return true;
}

static bool parse_counts(const char *text, const cf_option *option, cf_counts *counts)
{
    for (counts->n = 0; counts->n < CF_MAX_COUNTS; text++) {
        size_t n = strcspn(text, ",");
        if (!parse_count(text, n, option, &counts->values[counts->n++]))
            return false;
        text += n;
        if (*text == 0)
            return true;
    }
    return false;
}

static bool parse_choice(const char *text, const cf_option *option, size_t *value)
{
    for (size_t i = 0; i < CF_MAX_CHOICES && option->choices[i] != NULL; i++) {
        *value = i;
        if (strcmp(text, option->choices[i]) == 0)
            return true;
    }
    return false;
}

static bool append_text(const char *text, cf_texts *texts)
{
    if (*text == 0 || texts->n == CF_MAX_TEXTS)
        return false;
    texts->values[texts->n++] = text;
    return true;
}

static bool set_value(const cf_option *option, const char *text, void *args)
{
    void *field = (char *)args + option->offset;
    switch (option->kind) {
    case CF_OPTION_FLAG:
        *(bool *)field = true;
        return true;
    case CF_OPTION_TEXT:
        *(const char **)field = text;
        return true;
    case CF_OPTION_TEXTS:
        return append_text(text, field);
    case CF_OPTION_COUNT:
        return parse_count(text, strlen(text), option, field);
    case CF_OPTION_COUNTS:
        return parse_counts(text, option, field);
    case CF_OPTION_REAL:
        return parse_real(text, option, field);
    case CF_OPTION_SEED:
        return parse_digits(text, strlen(text), field);
    case CF_OPTION_CHOICE:
        return parse_choice(text, option, field);
    }
    return false;
}

static size_t count_options(const cf_option *options)
{
    size_t n = 0;
    while (n < MAX_OPTIONS && options[n].name != NULL)
        n++;
    return n;
}

/* The table in getopt's two forms; a letter that begins the letters with ':' tells it to be quiet.
 */
static void build_getopt_tables(const cf_option *options, size_t n, struct option *names,
                                char *letters)
{
    *letters++ = ':';
    for (size_t i = 0; i < n; i++) {
        bool bare = options[i].kind == CF_OPTION_FLAG;
        names[i] = (struct option){options[i].name, bare ? no_argument : required_argument, NULL,
                                   FIRST_CODE + (int)i};
        if (options[i].letter == 0)
            continue;
        *letters++ = options[i].letter;
        if (!bare)
            *letters++ = ':';
    }
    names[n] = (struct option){"help", no_argument, NULL, 'h'};
    names[n + 1] = (struct option){0};
    *letters++ = 'h';
    *letters = 0;
}

static const cf_option *find_option(const cf_option *options, size_t n, int code)
{
    if (code >= FIRST_CODE)
        return &options[code - FIRST_CODE];
    for (size_t i = 0; i < n; i++) {
        if (options[i].letter != 0 && options[i].letter == code)
            return &options[i];
    }
    return NULL;
}

static int report_value(const cf_option *option, const char *found)
{
    char expected[256];
    cf_help_expectation(option, expected, sizeof expected);
    if (found == NULL)
        return cf_report_usage("--%s: expected %s, found nothing", option->name, expected);
    return cf_report_usage("--%s: expected %s, found \"%s\"", option->name, expected, found);
}

/* `word` is what getopt_long() stopped at. */
static int report_unknown(const cf_option *option, const char *word)
{
    if (option != NULL)
        return cf_report_usage("--%s: takes no value, found \"%s\"", option->name, word);
    if (optopt == 'h')
        return cf_report_usage("--help: takes no value, found \"%s\"", word);
    if (optopt != 0)
        return cf_report_usage("unknown option \"-%c\"", optopt);
    return cf_report_usage("unknown option \"%s\"", word);
}

int cf_options_parse(const cf_command *command, int argc, char **argv, void *args)
{
    size_t n = count_options(command->options);
    struct option names[MAX_OPTIONS + 2];
    char letters[2 * MAX_OPTIONS + 3];
    build_getopt_tables(command->options, n, names, letters);
    for (size_t i = 0; i < n; i++) {
        if (command->options[i].preset != NULL)
            set_value(&command->options[i], command->options[i].preset, args);
    }
    optind = 1;
    for (int code; (code = getopt_long(argc, argv, letters, names, NULL)) != -1;) {
        if (code == 'h') {
            cf_help_print_command(command);
            return CF_EXIT_OK;
        }
        const cf_option *option =
            find_option(command->options, n, code == '?' || code == ':' ? optopt : code);
        if (code == '?')
            return report_unknown(option, argv[optind - 1]);
        if (code == ':')
            return report_value(option, NULL);
        if (!set_value(option, optarg, args))
            return report_value(option, optarg);
    }
    if (optind < argc)
        return cf_report_usage("unexpected argument \"%s\"", argv[optind]);
    return CF_OPTIONS_RUN;
}
