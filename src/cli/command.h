/* A command of the program: its help, its options, and the function that does it. */
#ifndef CF_CLI_COMMAND_H
#define CF_CLI_COMMAND_H

#include "cli/options.h"

typedef struct cf_command {
    const char *name;
    const char *summary;     /* one line, for the list of commands */
    const char *synopsis;    /* what follows the name */
    const char *description; /* paragraphs, set by hand to 80 columns, each ending with a newline */
    const cf_option *options;          /* the last one has no name */
    const char *examples;              /* lines to try, set by hand */
    int (*run)(int argc, char **argv); /* argv[0] is the command's name; returns the exit code */
} cf_command;

extern const cf_command cf_command_generate;
extern const cf_command cf_command_score;
extern const cf_command cf_command_tokenize;
extern const cf_command cf_command_detokenize;
extern const cf_command cf_command_inspect;
extern const cf_command cf_command_bench;
extern const cf_command cf_command_eval;
extern const cf_command cf_command_serve;

#endif
