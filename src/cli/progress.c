#include "cli/progress.h"

#include "base/clock.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BAR_WIDTH 32

/* Short work shows no bar, long work a calm one. */
#define DELAY_NS 200000000u
#define INTERVAL_NS 100000000u

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal)
{
    (void)signal;
    interrupted = 1;
}

void cf_interrupt_catch(void)
{
    /* RESETHAND lets the second one kill; RESTART keeps a write from being cut short. */
    struct sigaction action = {.sa_handler = on_interrupt,
                               .sa_flags = (int)SA_RESETHAND | SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

bool cf_interrupt_seen(void)
{
    return interrupted != 0;
}

static void draw(const char *what, uint64_t done, uint64_t total)
{
    double part = total > 0 ? (double)done / (double)total : 0;
    part = part > 1 ? 1 : part;
    int n = (int)(part * BAR_WIDTH);
    char bar[BAR_WIDTH + 1];
    for (int i = 0; i < BAR_WIDTH; i++)
        bar[i] = i < n ? '#' : '.';
    bar[BAR_WIDTH] = 0;
    fprintf(stderr, "\r%-7s[%s] %3.0f %%", what, bar, 100 * part);
}

bool cf_progress_update(void *user, const char *what, uint64_t done, uint64_t total)
{
    cf_progress *progress = user;
    uint64_t now = cf_clock_ns();
    if (progress->what == NULL || strcmp(progress->what, what) != 0) {
        cf_progress_clear(progress);
        *progress = (cf_progress){.what = what, .started_ns = now};
    }
    if (now - progress->started_ns >= DELAY_NS && now - progress->drawn_ns >= INTERVAL_NS &&
        isatty(STDERR_FILENO)) {
        draw(what, done, total);
        progress->drawn_ns = now;
    }
    return !cf_interrupt_seen();
}

void cf_progress_clear(cf_progress *progress)
{
    if (progress->drawn_ns != 0)
        fprintf(stderr, "\r\x1b[K");
    *progress = (cf_progress){0};
}
