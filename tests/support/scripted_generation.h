/* Generations on a backend whose logits are scripted, written down as they come. */
#ifndef CF_TESTS_SCRIPTED_GENERATION_H
#define CF_TESTS_SCRIPTED_GENERATION_H

#include "support/byte_tokenizer.h"
#include "support/script_backend.h"
#include "support/tiny_model.h"

enum { N_VOCAB = 300, N_CONTEXT = 64, MAX_SCRIPT = 128 };

/* A group's model and tokenizer; each test's session. */
extern tiny_model scripted_tiny;
extern cf_tokenizer *scripted_tokenizer;
extern cf_session *scripted_session;
extern const cf_token scripted_prompt[5];

/* cmocka's fixtures: of the group, and of each test. */
int scripted_open(void **state);
int scripted_close(void **state);
int scripted_set_up(void **state);
int scripted_tear_down(void **state);

/* The id of a piece of the tokenizer, or of a single byte. */
cf_token id_of(const char *text);

/* The script as a backend's logits: the next scripted token 5, the one after it 3, others less. */
void scripted_logits(const cf_token *ids, size_t n, float *logits, size_t n_vocab);

/* What the model says after a prompt of n_prompt tokens: pieces or single bytes, or ids. */
void script_text(size_t n_prompt, const char *const *texts, size_t n);
void script_tokens(size_t n_prompt, const cf_token *ids, size_t n);

/* All that a generation says. */
typedef struct transcript {
    cf_token ids[MAX_SCRIPT];
    float logprobs[MAX_SCRIPT];
    size_t n;
    char text[4096];
    size_t n_text;
    size_t n_prompt_events;
    cf_finish finish;
    size_t cancel_after; /* this many tokens; 0: not */
    bool is_over;
} transcript;

/* A cf_event_fn that fills a transcript and checks the order of events. */
bool write_down(void *user, const cf_event *event);

/* A generation from scripted_prompt to its end. */
transcript generate(size_t max_tokens, const cf_generate_options *options,
                    cf_generate_stats *stats);

/* Its text, its end and its number of tokens. */
void check_text(const transcript *found, const char *text, cf_finish finish, size_t n);

#endif
