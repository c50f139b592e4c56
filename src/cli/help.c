#include "cli/help.h"

#include "clusterfusion.h"

#include <stdio.h>
#include <string.h>

#define LINE_WIDTH 80
#define HELP_INDENT 10

static void join_choices(const cf_option *option, char *text, size_t capacity)
{
    size_t length = 0;
    for (size_t i = 0; i < CF_MAX_CHOICES && option->choices[i] != NULL; i++) {
        bool last = i + 1 == CF_MAX_CHOICES || option->choices[i + 1] == NULL;
        const char *separator = i == 0 ? "" : last ? " or " : ", ";
        int n = snprintf(text + length, capacity - length, "%s%s", separator, option->choices[i]);
        if (n < 0 || (size_t)n >= capacity - length)
            return;
        length += (size_t)n;
    }
}

void cf_help_expectation(const cf_option *option, char *text, size_t capacity)
{
    const char *below = option->below_max ? "less than " : "";
    switch (option->kind) {
    case CF_OPTION_COUNT:
        snprintf(text, capacity, "an integer from %.0f to %.0f", option->min, option->max);
        return;
    case CF_OPTION_COUNTS:
        snprintf(text, capacity, "up to %d integers from %.0f to %.0f, separated by commas",
                 CF_MAX_COUNTS, option->min, option->max);
        return;
    case CF_OPTION_REAL:
        snprintf(text, capacity, "a number from %g to %s%g%s", option->min, below, option->max,
                 option->or_zero ? ", or 0" : "");
        return;
    case CF_OPTION_SEED:
        snprintf(text, capacity, "an integer from 0 to %llu", (unsigned long long)UINT64_MAX);
        return;
    case CF_OPTION_CHOICE:
        join_choices(option, text, capacity);
        return;
    case CF_OPTION_TEXTS:
        snprintf(text, capacity, "a text that is not empty, at most %d times", CF_MAX_TEXTS);
        return;
    case CF_OPTION_FLAG:
    case CF_OPTION_TEXT:
        snprintf(text, capacity, "a value");
    }
}

/* Prints the words of `text`, going on from `column`; returns the column it ends at. */
static size_t print_wrapped(const char *text, size_t column)
{
    while (*text != 0) {
        size_t n = strcspn(text, " ");
        if (column > HELP_INDENT && column + 1 + n > LINE_WIDTH) {
            putchar('\n');
            column = 0;
        }
        if (column == 0) {
            printf("%*s", HELP_INDENT, "");
            column = HELP_INDENT;
        } else if (column > HELP_INDENT) {
            putchar(' ');
            column++;
        }
        fwrite(text, 1, n, stdout);
        column += n;
        text += n;
        text += strspn(text, " ");
    }
    return column;
}

static void print_option(const cf_option *option)
{
    printf("  ");
    if (option->letter != 0)
        printf("-%c, ", option->letter);
    printf("--%s%s%s\n", option->name, option->value != NULL ? " " : "",
           option->value != NULL ? option->value : "");
    size_t column = print_wrapped(option->help, 0);
    if (option->kind != CF_OPTION_FLAG && option->kind != CF_OPTION_TEXT) {
        char expected[256], sentence[300];
        cf_help_expectation(option, expected, sizeof expected);
        snprintf(sentence, sizeof sentence, "Expects %s.", expected);
        column = print_wrapped(sentence, column);
    }
    if (option->preset != NULL) {
        char sentence[100];
        snprintf(sentence, sizeof sentence, "Default: %s.", option->preset);
        print_wrapped(sentence, column);
    }
    printf("\n");
}

void cf_help_print_command(const cf_command *command)
{
    printf("clusterfusion %s: %s\n\nUsage: clusterfusion %s %s\n\n%s\nOptions:\n", command->name,
           command->summary, command->name, command->synopsis, command->description);
    for (const cf_option *option = command->options; option->name != NULL; option++)
        print_option(option);
    printf("  -h, --help\n%*sPrint this and exit.\n", HELP_INDENT, "");
    printf("\nExit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (Ctrl-C).\n"
           "\nExamples:\n%s",
           command->examples);
}

void cf_help_print_program(const cf_command *const *commands)
{
    printf("clusterfusion %s: GPT-NeoX language models (Pythia and its relatives) at low batch\n"
           "\nUsage: clusterfusion COMMAND [OPTION]...\n\nCommands:\n",
           cf_version());
    for (; *commands != NULL; commands++)
        printf("  %-12s%s\n", (*commands)->name, (*commands)->summary);
    printf("  %-12s%s\n", "help", "print the help of a command: clusterfusion help COMMAND");
    printf(
        "\nOptions:\n  -h, --help    print this and exit\n"
        "  --version     print the version and exit\n"
        "\nText and results go to stdout, everything else to stderr. Nothing is ever downloaded.\n"
        "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (Ctrl-C).\n"
        "\nExample:\n  clusterfusion generate -p \"It was a bright morning\" -n 64\n");
}
