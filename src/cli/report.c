#include "cli/report.h"

#include <stdarg.h>
#include <stdio.h>

static const char *command_name;

void cf_report_set_command(const char *name)
{
    command_name = name;
}

static void print_prefix(void)
{
    if (command_name != NULL)
        fprintf(stderr, "clusterfusion %s: ", command_name);
    else
        fprintf(stderr, "clusterfusion: ");
}

int cf_report_usage(const char *format, ...)
{
    print_prefix();
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\nTry \"clusterfusion%s%s --help\".\n", command_name != NULL ? " " : "",
            command_name != NULL ? command_name : "");
    return CF_EXIT_USAGE;
}

int cf_report_error(const cf_error *error)
{
    print_prefix();
    if (error->status == CF_STATUS_CANCELLED) {
        fprintf(stderr, "interrupted\n");
        return CF_EXIT_INTERRUPTED;
    }
    if (error->status == CF_STATUS_OUT_OF_MEMORY) /* the message says only what for */
        fprintf(stderr, "%s: ", cf_status_text(error->status));
    fprintf(stderr, "%s\n", error->message);
    return CF_EXIT_FAILED;
}

void cf_report_note(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}
