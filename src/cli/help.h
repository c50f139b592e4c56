/* The help texts, made from the tables of commands and options. */
#ifndef CF_CLI_HELP_H
#define CF_CLI_HELP_H

#include "cli/command.h"

/* What an option's value must be, in words: "an integer from 1 to 1024". */
void cf_help_expectation(const cf_option *option, char *text, size_t capacity);

/* To stdout. `commands` ends with NULL. */
void cf_help_print_program(const cf_command *const *commands);
void cf_help_print_command(const cf_command *command);

#endif
