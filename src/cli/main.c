/* The program: finds the command and runs it. */
#include "cli/command.h"
#include "cli/help.h"
#include "cli/output.h"
#include "cli/report.h"

#include <stdio.h>
#include <string.h>

static const cf_command *const commands[] = {
    &cf_command_generate, &cf_command_score,      &cf_command_eval,
    &cf_command_tokenize, &cf_command_detokenize, &cf_command_inspect,
    &cf_command_bench,    &cf_command_serve,      NULL,
};

static const cf_command *find_command(const char *name)
{
    for (size_t i = 0; commands[i] != NULL; i++) {
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    }
    return NULL;
}

static int report_unknown(const char *word)
{
    if (word[0] == '-')
        return cf_report_usage("unknown option \"%s\"", word);
    return cf_report_usage("unknown command \"%s\"", word);
}

/* "help" and "help COMMAND". */
static int run_help(int argc, char **argv)
{
    if (argc > 2)
        return cf_report_usage("unexpected argument \"%s\"", argv[2]);
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        cf_help_print_program(commands);
        return CF_EXIT_OK;
    }
    const cf_command *command = find_command(argv[1]);
    if (command == NULL)
        return report_unknown(argv[1]);
    cf_help_print_command(command);
    return CF_EXIT_OK;
}

static int run(int argc, char **argv)
{
    if (argc < 2)
        return cf_report_usage("expected a command, found nothing");
    const char *word = argv[1];
    const cf_command *command = find_command(word);
    if (command != NULL) {
        cf_report_set_command(command->name);
        return command->run(argc - 1, argv + 1);
    }
    if (strcmp(word, "help") == 0)
        return run_help(argc - 1, argv + 1);
    if (argc > 2 && word[0] == '-')
        return cf_report_usage("unexpected argument \"%s\"", argv[2]);
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        cf_help_print_program(commands);
        return CF_EXIT_OK;
    }
    if (strcmp(word, "--version") == 0) {
        printf("clusterfusion %s\n", cf_version());
        return CF_EXIT_OK;
    }
    return report_unknown(word);
}

int main(int argc, char **argv)
{
    cf_output_begin();
    int code = run(argc, argv);
    cf_error error;
    if (cf_output_finish(&error) != CF_STATUS_OK)
        return cf_report_error(&error);
    return code;
}
