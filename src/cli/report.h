/* Messages to the user, on stderr, and the exit codes that go with them. */
#ifndef CF_CLI_REPORT_H
#define CF_CLI_REPORT_H

#include "clusterfusion.h"

enum {
    CF_EXIT_OK = 0,
    CF_EXIT_FAILED = 1,
    CF_EXIT_USAGE = 2,
    CF_EXIT_INTERRUPTED = 130, /* 128 + SIGINT, as shells have it */
};

/* The command that messages begin with; NULL: the program alone. */
void cf_report_set_command(const char *name);

/* Wrong usage: the message and a hint at --help. Returns CF_EXIT_USAGE. */
__attribute__((format(printf, 1, 2))) int cf_report_usage(const char *format, ...);

/* A failure that `error` describes; returns CF_EXIT_FAILED, or CF_EXIT_INTERRUPTED if cancelled. */
int cf_report_error(const cf_error *error);

/* Something to know that is no failure. */
__attribute__((format(printf, 1, 2))) void cf_report_note(const char *format, ...);

#endif
