/*
 * Tokens that a backend chooses by itself, ahead of whoever takes them: see decode_begin() of
 * backend.h. The session holds what was taken, as if there were nothing more.
 */
#ifndef CF_ENGINE_AHEAD_H
#define CF_ENGINE_AHEAD_H

#include "engine/session.h"

typedef struct cf_ahead {
    cf_session *session;
    size_t most;    /* tokens that may be chosen in one go, if the backend has no lower limit */
    size_t n_left;  /* still to be taken, of those being chosen */
    bool is_going;  /* the backend is choosing, or has not been told to make an end of it */
    bool is_used;   /* the last token was taken from here */
    bool is_beyond; /* more was evaluated than taken: the backend's logits are later ones */
} cf_ahead;

/*
 * Takes the next token. `decode` says how to go on if none is left, with the position to be filled
 * in and `n` the most that can be used. *is_able false: the backend has no such way, nothing
 * happened. Errors: DEVICE, also for logits that are not finite.
 */
cf_status cf_ahead_next(cf_ahead *ahead, cf_decode *decode, bool *is_able, cf_decoded *decoded,
                        cf_error *error);

/* Makes an end of it, if need be. Errors: DEVICE. */
cf_status cf_ahead_end(cf_ahead *ahead, cf_error *error);

/*
 * After an end: the logits that the last token was chosen from, if it was taken from here; else
 * leaves `logits` as they are. May have to evaluate the token before it again.
 */
cf_status cf_ahead_logits(const cf_ahead *ahead, float *logits, cf_error *error);

#endif
