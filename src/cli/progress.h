/* A progress bar on stderr, if that is a terminal; and Ctrl-C. */
#ifndef CF_CLI_PROGRESS_H
#define CF_CLI_PROGRESS_H

#include "clusterfusion.h"

typedef struct cf_progress {
    const char *what;    /* the work in progress, NULL: none */
    uint64_t started_ns; /* when it began */
    uint64_t drawn_ns;   /* when the bar was last drawn; 0: it is not on the screen */
} cf_progress;

/* A cf_progress_fn: `user` is a cf_progress. Returns false once Ctrl-C was pressed. */
bool cf_progress_update(void *user, const char *what, uint64_t done, uint64_t total);

/* Takes the bar off the screen: before anything else is printed, and after the work. */
void cf_progress_clear(cf_progress *progress);

/*
 * From now on the first Ctrl-C only makes cf_interrupt_seen() true; a second one kills. To be
 * called when the input has been read: a program that waits for its input ends at once.
 */
void cf_interrupt_catch(void);
bool cf_interrupt_seen(void);

#endif
