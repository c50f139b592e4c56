/* Options of a command: one table gives the parser its rules and the help its text. */
#ifndef CF_CLI_OPTIONS_H
#define CF_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What an option's value is, and the type of the field that it fills. */
typedef enum cf_option_kind {
    CF_OPTION_FLAG,   /* bool */
    CF_OPTION_TEXT,   /* const char * */
    CF_OPTION_TEXTS,  /* cf_texts; the option may be repeated */
    CF_OPTION_COUNT,  /* size_t, from min to max */
    CF_OPTION_COUNTS, /* cf_counts: such numbers, separated by commas */
    CF_OPTION_REAL,   /* double, from min to max */
    CF_OPTION_SEED,   /* uint64_t */
    CF_OPTION_CHOICE, /* size_t: the index in `choices` */
} cf_option_kind;

#define CF_MAX_TEXTS 64
#define CF_MAX_COUNTS 32
#define CF_MAX_CHOICES 4

typedef struct cf_texts {
    const char *values[CF_MAX_TEXTS];
    size_t n;
} cf_texts;

typedef struct cf_counts {
    size_t values[CF_MAX_COUNTS];
    size_t n;
} cf_counts;

typedef struct cf_option {
    const char *name; /* without the dashes; NULL ends a table */
    char letter;      /* 0: none */
    cf_option_kind kind;
    const char *value; /* what the help calls it: "N", "TEXT" */
    size_t offset;     /* of the field in the command's struct of arguments */
    double min, max;
    bool below_max; /* max itself is out of bounds */
    bool or_zero;   /* 0, which is below min, is a value too */
    const char *choices[CF_MAX_CHOICES];
    const char *preset; /* the default, read as if it were given; NULL: a zeroed field */
    const char *help;
} cf_option;

/* cf_options_parse() returns this to go on. */
#define CF_OPTIONS_RUN (-1)

struct cf_command;

/*
 * Fills `args`, a zeroed struct, from the command line, and returns CF_OPTIONS_RUN; or the exit
 * code after printing the help or reporting wrong usage.
 */
int cf_options_parse(const struct cf_command *command, int argc, char **argv, void *args);

#endif
