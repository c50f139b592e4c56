/*
 * ClusterFusion: GPT-NeoX language models (EleutherAI's Pythia and its relatives) at low batch.
 *
 * This header is the whole contract of the library. Reading order:
 *
 *   1  versions          2  errors            3  small types       4  models
 *   5  tokenizers        6  sessions          7  sampling          8  generation
 *   9  scoring          10  measurement      11  one layer on a GPU
 *
 * The short way from a folder to text:
 *
 *     cf_model *model;  cf_tokenizer *tokenizer;  cf_session *session;  cf_error error;
 *     cf_model_open("pythia-160m", NULL, &model, &error);
 *     cf_tokenizer_open("pythia-160m", &tokenizer, &error);
 *     cf_session_create(model, NULL, &session, &error);
 *     cf_generate_text(session, tokenizer, "Once upon a time", 64, NULL, on_event, NULL, NULL,
 *                      &error);
 *
 * Rules that hold everywhere, so that they need not be repeated at each function:
 *
 *   - Text is UTF-8 and counted in bytes; strings that a function takes as `const char *` without
 *     a length end with a zero byte. Token ids are `cf_token`, never negative in a valid sequence.
 *   - Arrays are dense, slowest dimension first, as their trailing comments show.
 *   - Functions that can fail return a `cf_status` and take a `cf_error *` last, which may be NULL.
 *     On failure pointers and numbers that were to be returned are NULL or zero unless said
 *     otherwise, arrays that were to be filled hold nothing of meaning, and nothing leaks.
 *   - A NULL where a pointer is required is answered with CF_STATUS_INVALID_ARGUMENT.
 *   - Every create/open has one free/close, which takes NULL. The library never returns memory that
 *     the caller must free: pointers it hands out belong to the object they came from.
 *   - Option structs begin with their size (`sizeof`), a zeroed field means its default, a NULL
 *     pointer means all defaults. Fields are only ever appended. A size that cannot be is an
 *     INVALID_ARGUMENT; a newer header's field, set, that this library does not know: UNSUPPORTED.
 *   - The library never prints, never exits, never reads an environment variable, never opens a
 *     network connection.
 *   - Models and tokenizers are immutable and may be shared by any number of threads. A session, a
 *     generation and a decoder are used by one thread at a time.
 */
#ifndef CLUSTERFUSION_H
#define CLUSTERFUSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#error "ClusterFusion supports POSIX systems"
#elif defined(__GNUC__)
#define CF_API __attribute__((visibility("default")))
#else
#define CF_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------------------------------------- */
/* 1  Versions */
/* ---------------------------------------------------------------------------------------------- */

#define CF_VERSION_MAJOR 0
#define CF_VERSION_MINOR 1
#define CF_VERSION_PATCH 0

/* The version of the library that is linked, "major.minor.patch". Any thread; costs nothing. */
CF_API const char *cf_version(void);

/* ---------------------------------------------------------------------------------------------- */
/* 2  Errors */
/* ---------------------------------------------------------------------------------------------- */

/*
 * The one list of errors: X(name, value, HTTP status, Python exception, text). Values are part of
 * the binary interface and never change.
 */
#define CF_STATUS_LIST(X)                                                                          \
    X(OK, 0, 200, None, "success")                                                                 \
    X(INVALID_ARGUMENT, 1, 400, ValueError, "invalid argument")                                    \
    X(CONTEXT_FULL, 2, 400, ValueError, "more tokens than the context holds")                      \
    X(BUFFER_TOO_SMALL, 3, 500, BufferError, "the caller's buffer is too small")                   \
    X(NOT_FOUND, 4, 404, FileNotFoundError, "file not found")                                      \
    X(IO, 5, 500, OSError, "reading failed")                                                       \
    X(BAD_FILE, 6, 500, ValueError, "the file is damaged or not what its name says")               \
    X(UNSUPPORTED, 7, 501, NotImplementedError, "not supported")                                   \
    X(OUT_OF_MEMORY, 8, 503, MemoryError, "out of memory")                                         \
    X(NO_DEVICE, 9, 503, RuntimeError, "no usable device")                                         \
    X(DEVICE, 10, 503, RuntimeError, "the device failed")                                          \
    X(CANCELLED, 11, 499, KeyboardInterrupt, "cancelled by the caller")

typedef enum cf_status {
#define CF_STATUS_ENUM(name, value, http, python, text) CF_STATUS_##name = value,
    CF_STATUS_LIST(CF_STATUS_ENUM)
#undef CF_STATUS_ENUM
} cf_status;

/*
 * What went wrong, in the form "what, which, expected, found":
 *     model.safetensors: gpt_neox.layers.7.attention.dense.weight has shape [2560,2048],
 *     config.json implies [2560,2560]
 * Written once, where the fault is found. Untouched by calls that succeed. A message longer than
 * the array is cut at a character's boundary.
 */
typedef struct cf_error {
    cf_status status;
    char message[1024];
} cf_error;

/* The list's text for `status`; "unknown status" for any other value. Any thread. */
CF_API const char *cf_status_text(cf_status status);

/* The list's HTTP status and Python exception name; 500 and "RuntimeError" for any other value. */
CF_API int cf_status_http(cf_status status);
CF_API const char *cf_status_python(cf_status status);

/* ---------------------------------------------------------------------------------------------- */
/* 3  Small types */
/* ---------------------------------------------------------------------------------------------- */

typedef int32_t cf_token;

typedef enum cf_dtype {
    CF_DTYPE_DEFAULT = 0, /* in options only */
    CF_DTYPE_F32 = 1,
    CF_DTYPE_F16 = 2,
    CF_DTYPE_BF16 = 3,
} cf_dtype;

typedef enum cf_backend {
    CF_BACKEND_AUTO = 0, /* CUDA if it was built in, a GPU is there and takes the model, else CPU */
    CF_BACKEND_CPU = 1,
    CF_BACKEND_CUDA = 2,
} cf_backend;

/* "F32", "F16", "BF16"; "?" for any other value. */
CF_API const char *cf_dtype_name(cf_dtype dtype);
/* Bytes of one element: 4 or 2; 0 for any other value. */
CF_API size_t cf_dtype_bytes(cf_dtype dtype);
/* "auto", "cpu", "cuda"; "?" for any other value. */
CF_API const char *cf_backend_name(cf_backend backend);
/*
 * Whether `backend` can run here: OK, or CF_STATUS_NO_DEVICE or _UNSUPPORTED (not built in) with
 * the reason. AUTO can if any can. Any thread. The first call for CUDA initialises the driver.
 */
CF_API cf_status cf_backend_check(cf_backend backend, cf_error *error);

/*
 * Called now and then during long work from the calling thread; `done` of `total` units (bytes,
 * tokens) are finished, `what` is a short word ("open", "prompt", "score", "hash"). Return true to
 * go on; false stops the work, which then returns CF_STATUS_CANCELLED.
 */
typedef bool (*cf_progress_fn)(void *user, const char *what, uint64_t done, uint64_t total);

/* ---------------------------------------------------------------------------------------------- */
/* 4  Models */
/* ---------------------------------------------------------------------------------------------- */

typedef struct cf_model cf_model;

typedef enum cf_activation {
    CF_ACTIVATION_GELU_ERF = 0,  /* x Φ(x), exact: "gelu" */
    CF_ACTIVATION_GELU_TANH = 1, /* the tanh form: "gelu_new", "gelu_fast", "gelu_pytorch_tanh" */
    CF_ACTIVATION_RELU = 2,
    CF_ACTIVATION_SILU = 3,
} cf_activation;

/* The shape of a GPT-NeoX model, everything that its arithmetic depends on beside the weights. */
typedef struct cf_shape {
    int32_t n_layers;
    int32_t d_model; /* hidden size */
    int32_t n_heads;
    int32_t d_head;    /* head width: d_model / n_heads */
    int32_t d_rotary;  /* rotary dims of each head, even, 0 … d_head */
    int32_t d_ffn;     /* intermediate size */
    int32_t n_vocab;   /* rows of the embedding, padding rows included */
    int32_t n_context; /* max_position_embeddings: the trained context; sessions may choose other */
    float rope_theta;
    float layer_norm_eps;
    cf_activation activation;
    bool parallel_residual; /* x + attn(ln1 x) + mlp(ln2 x), else sequential */
    bool attention_bias;    /* query_key_value and dense have biases */
    bool tied_embeddings;   /* the LM head is the embedding matrix */
    cf_token bos_token;     /* -1: none */
    cf_token eos_token;     /* -1: none; the first of several, which all end a generation */
} cf_shape;

/*
 * A named, dense, row-major array: a view of a checkpoint's tensor, or the caller's own for
 * cf_model_create(). `device` is -1 for memory that the CPU reads, else the CUDA device index.
 */
typedef struct cf_tensor {
    const char *name; /* as the checkpoint names it */
    const char *file; /* the file it lies in, without its folder; NULL when created from memory */
    const void *data;
    cf_dtype dtype;
    int32_t device;
    int32_t n_dims;  /* 1 or 2 */
    int64_t dims[2]; /* slowest first; dims[1] is 1 for vectors */
} cf_tensor;

typedef struct cf_model_options {
    size_t size;
    cf_backend backend;
    int32_t device;          /* CUDA device index */
    cf_progress_fn progress; /* called while weights are loaded */
    void *progress_user;
} cf_model_options;

typedef struct cf_model_info {
    cf_backend backend;       /* what was chosen */
    const char *backend_text; /* one line: what it will do on this machine */
    const char *path;         /* the folder; NULL when created from memory */
    int32_t n_files;          /* weight files */
    int32_t n_tensors;        /* tensors in use, buffers not counted */
    uint64_t n_parameters;    /* tied embeddings counted once */
    uint64_t weight_bytes;    /* as stored */
    uint64_t token_bytes;     /* weight bytes that one decoded token reads (one embedding row) */
} cf_model_info;

typedef struct cf_file_info {
    const char *name;   /* without its folder */
    const char *format; /* "safetensors", "pytorch zip", "pytorch legacy" */
    uint64_t bytes;
} cf_file_info;

/*
 * Opens the Hugging Face folder `path`: config.json and model.safetensors, sharded safetensors with
 * model.safetensors.index.json, pytorch_model.bin, or sharded .bin with
 * pytorch_model.bin.index.json, in this order of preference. Weights are memory-mapped and shared
 * with other processes; on the CPU nothing is copied. The files must not change while it is open.
 * Errors: NOT_FOUND, IO, BAD_FILE (damaged, misshapen, missing or unknown tensors), UNSUPPORTED (a
 * config that this library does not understand, named), OUT_OF_MEMORY, NO_DEVICE, DEVICE,
 * CANCELLED. Any thread. Cost: reads headers only (CPU), or copies all weights once (CUDA).
 */
CF_API cf_status cf_model_open(const char *path, const cf_model_options *options, cf_model **model,
                               cf_error *error);

/*
 * Makes a model of tensors that the caller owns, named as in a checkpoint (with or without the
 * "gpt_neox." prefix). Their memory is used in place where the backend can (CPU: host tensors;
 * CUDA: tensors on the model's device) and must stay valid and unchanged until cf_model_close();
 * it is aligned to its elements. Shape, descriptions and names are copied. Errors, threads: as
 * cf_model_open().
 */
CF_API cf_status cf_model_create(const cf_shape *shape, const cf_tensor *tensors, size_t n_tensors,
                                 const cf_model_options *options, cf_model **model,
                                 cf_error *error);

/* Closes the model. All its sessions must have been freed before. */
CF_API void cf_model_close(cf_model *model);

/* Shape and facts; valid until the model is closed. Any thread. */
CF_API const cf_shape *cf_model_shape(const cf_model *model);
CF_API const cf_model_info *cf_model_info_get(const cf_model *model);

/*
 * Weight file `index` < n_files; tensor `index` < n_tensors, sorted by the bytes of their names
 * without the "gpt_neox." prefix. NULL beyond.
 */
CF_API const cf_file_info *cf_model_file(const cf_model *model, size_t index);
CF_API const cf_tensor *cf_model_tensor(const cf_model *model, size_t index);

/*
 * A 128-bit XXH3 hash of all weights in use: names without the "gpt_neox." prefix, dtypes, shapes
 * and bytes, in the order of the names; independent of the file format. As 32 hex digits and a zero
 * byte. UNSUPPORTED where the weights are not in host memory. Cost: reads every weight once.
 */
CF_API cf_status cf_model_hash(const cf_model *model, cf_progress_fn progress, void *progress_user,
                               char hash[33], cf_error *error);

/* ---------------------------------------------------------------------------------------------- */
/* 5  Tokenizers */
/* ---------------------------------------------------------------------------------------------- */

typedef struct cf_tokenizer cf_tokenizer;
typedef struct cf_decoder cf_decoder;

/* Flags of cf_tokenizer_encode(). */
#define CF_ENCODE_NO_SPECIAL 1u /* text that spells a special token is ordinary text */

/* Flags of cf_tokenizer_decode(). */
#define CF_DECODE_SKIP_SPECIAL 1u /* special tokens have no text */

/*
 * Opens `path`: a tokenizer.json, or a folder that holds one; byte-level BPE as GPT-2's and
 * GPT-NeoX's. Errors: NOT_FOUND, IO, BAD_FILE, UNSUPPORTED (another kind of tokenizer, or an option
 * that changes its ids, named), OUT_OF_MEMORY. Any thread. Cost: parses the file (50 ms for 50,000
 * entries).
 */
CF_API cf_status cf_tokenizer_open(const char *path, cf_tokenizer **tokenizer, cf_error *error);
CF_API void cf_tokenizer_close(cf_tokenizer *tokenizer);

/* One more than the largest id that has text. Any thread. */
CF_API size_t cf_tokenizer_n_vocab(const cf_tokenizer *tokenizer);

/*
 * The bytes that `id` stands for, not always whole characters, and a zero byte behind them; "" and
 * 0 for ids without text. Any thread.
 */
CF_API const char *cf_tokenizer_bytes(const cf_tokenizer *tokenizer, cf_token id, size_t *n_bytes);

/* Whether `id` is a special token such as <|endoftext|>. */
CF_API bool cf_tokenizer_is_special(const cf_tokenizer *tokenizer, cf_token id);

/* The id of the token that is spelled exactly `text`, added and special ones included; -1: none. */
CF_API cf_token cf_tokenizer_find(const cf_tokenizer *tokenizer, const char *text);

/*
 * Turns `n_bytes` of text into ids. Invalid UTF-8 is replaced by U+FFFD as the reference
 * tokenizer's clients do. Writes the first `capacity` ids to `ids` (may be NULL when capacity is 0)
 * and their full number to `n_ids`; BUFFER_TOO_SMALL when that is more than `capacity`, and then
 * the call can be repeated with enough room: 3 × n_bytes always is. Other errors: OUT_OF_MEMORY.
 * Any thread. Cost: linear in n_bytes for any input, times a logarithm.
 */
CF_API cf_status cf_tokenizer_encode(const cf_tokenizer *tokenizer, const char *text,
                                     size_t n_bytes, uint32_t flags, cf_token *ids, size_t capacity,
                                     size_t *n_ids, cf_error *error);

/*
 * Turns ids into text; bytes that are not UTF-8 become U+FFFD. Writes at most `capacity` bytes, no
 * zero byte, and the full length to `n_bytes`; BUFFER_TOO_SMALL as above. Ids without text give
 * none; negative ids: INVALID_ARGUMENT. Any thread.
 */
CF_API cf_status cf_tokenizer_decode(const cf_tokenizer *tokenizer, const cf_token *ids,
                                     size_t n_ids, uint32_t flags, char *text, size_t capacity,
                                     size_t *n_bytes, cf_error *error);

/*
 * Decoding token by token. The texts of all pushes and the finish, joined, are what
 * cf_tokenizer_decode() gives for the whole; each is whole characters. `text` stays valid until the
 * next call on the decoder. A decoder may be used again after finish. The tokenizer must outlive
 * it.
 */
CF_API cf_status cf_decoder_create(const cf_tokenizer *tokenizer, uint32_t flags,
                                   cf_decoder **decoder, cf_error *error);
CF_API void cf_decoder_free(cf_decoder *decoder);
CF_API cf_status cf_decoder_push(cf_decoder *decoder, cf_token id, const char **text,
                                 size_t *n_bytes, cf_error *error);
CF_API void cf_decoder_finish(cf_decoder *decoder, const char **text, size_t *n_bytes);

/* ---------------------------------------------------------------------------------------------- */
/* 6  Sessions */
/* ---------------------------------------------------------------------------------------------- */

typedef struct cf_session cf_session;

typedef struct cf_session_options {
    size_t size;
    int32_t n_context; /* tokens that fit; default: the model's */
    int32_t n_threads; /* CPU threads, default: one per processor that this process may use */
    cf_dtype kv_dtype; /* F16 (default) or F32 */
    int32_t n_chunk;   /* tokens that a prompt is evaluated in at a time, at most 2^24, in effect at
                          most n_context; default: the backend's */
} cf_session_options;

typedef struct cf_session_memory {
    uint64_t kv_bytes;      /* the KV cache of a full context */
    uint64_t scratch_bytes; /* activations and work space */
} cf_session_memory;

/* What a session with these options would take. Errors: as cf_session_create(). */
CF_API cf_status cf_session_measure(const cf_model *model, const cf_session_options *options,
                                    cf_session_memory *memory, cf_error *error);

/*
 * A new, empty timeline of `model`, which must outlive it. Everything that evaluation needs is
 * reserved here. Errors: INVALID_ARGUMENT (n_context < 1, more than 2^24; n_threads < 0 or more
 * than 1024), UNSUPPORTED (a kv_dtype), OUT_OF_MEMORY (names the bytes asked for), DEVICE.
 */
CF_API cf_status cf_session_create(const cf_model *model, const cf_session_options *options,
                                   cf_session **session, cf_error *error);
CF_API void cf_session_free(cf_session *session);

CF_API const cf_model *cf_session_model(const cf_session *session);
CF_API size_t cf_session_n_context(const cf_session *session);

/* The tokens evaluated so far, `cf_session_n_tokens` of them; valid until the next evaluation. */
CF_API size_t cf_session_n_tokens(const cf_session *session);
CF_API const cf_token *cf_session_tokens(const cf_session *session);

/* Forgets the tokens from position `n_tokens` on. INVALID_ARGUMENT if it holds fewer. Free. */
CF_API cf_status cf_session_rewind(cf_session *session, size_t n_tokens, cf_error *error);

/*
 * Rewinds to the longest common beginning of what the session holds and `ids`, and returns its
 * length: the tokens of `ids` that need no evaluation.
 */
CF_API size_t cf_session_reuse(cf_session *session, const cf_token *ids, size_t n_ids);

/* What an evaluation should give beside the KV cache. */
typedef struct cf_outputs {
    size_t size;
    float *logits;   /* [n_logits][n_vocab]: of the last n_logits tokens; NULL: none */
    size_t n_logits; /* at most n */
    float *hidden;   /* [n_layers + 1][n][d_model] as transformers' output_hidden_states: the
                        embeddings, after each layer but the last, after the final LayerNorm; NULL:
                        none */
    cf_progress_fn progress; /* after each chunk, the last included */
    void *progress_user;
} cf_outputs;

/*
 * Evaluates `n` ≥ 1 tokens after those that the session holds. Errors: INVALID_ARGUMENT (an id
 * outside the vocabulary: names position and id), CONTEXT_FULL (names both numbers), CANCELLED: the
 * session then holds what it held before the call; DEVICE: the session is dead, and evaluation,
 * generation and scoring answer DEVICE from then on. Logits are given as they are computed, finite
 * or not. Cost: one pass over the weights a chunk, and the KV cache; allocates nothing.
 */
CF_API cf_status cf_session_eval(cf_session *session, const cf_token *ids, size_t n,
                                 const cf_outputs *outputs, cf_error *error);

/* ---------------------------------------------------------------------------------------------- */
/* 7  Sampling */
/* ---------------------------------------------------------------------------------------------- */

typedef struct cf_logit_bias {
    cf_token id;
    float bias; /* added to the logit; -INFINITY bans the token */
} cf_logit_bias;

/*
 * How the next token is chosen from the logits l, in this order: repetition penalty r over the
 * tokens of prompt and generation so far (l > 0 ? l / r : l × r), minus frequency_penalty × count
 * and presence_penalty over the generated tokens, plus bias; divided by temperature; then, each on
 * what the one before left, renormalised: the top_k most probable; the fewest most probable whose
 * sum reaches top_p; those at least min_p times as probable as the most probable. Ties are broken
 * by the lower id. Random numbers are Philox4x32-10, keyed by the seed, counted by the token's
 * position in the generation: the same seed, model, prompt and backend give the same tokens.
 */
typedef struct cf_sampling {
    size_t size;
    float temperature;        /* 0: greedy, the most probable after penalties and bias; to 1e9 */
    int32_t top_k;            /* 0, or more than there are tokens: off */
    float top_p;              /* 0 or 1: off */
    float min_p;              /* 0: off; below 1 */
    float repetition_penalty; /* 0 or 1: off; 0.001 … 1000 */
    float presence_penalty;   /* -1000 … 1000 */
    float frequency_penalty;  /* -1000 … 1000 */
    uint64_t seed;
    const cf_logit_bias *bias; /* -INFINITY, or -1e9 … 1e9; several for one token add up */
    size_t n_bias;
} cf_sampling;

/* ---------------------------------------------------------------------------------------------- */
/* 8  Generation */
/* ---------------------------------------------------------------------------------------------- */

typedef struct cf_generation cf_generation;

typedef enum cf_finish {
    CF_FINISH_NONE = 0,
    CF_FINISH_LENGTH = 1,    /* max_tokens reached, or the context is full */
    CF_FINISH_EOS = 2,       /* the end-of-text token, or one of stop_ids */
    CF_FINISH_STOP = 3,      /* a stop string */
    CF_FINISH_CANCELLED = 4, /* the callback returned false */
} cf_finish;

/* "length" for LENGTH, "stop" for EOS and STOP, "cancelled", "none". */
CF_API const char *cf_finish_name(cf_finish finish);

typedef struct cf_generate_options {
    size_t size;
    const cf_sampling *sampling; /* NULL: greedy */
    const char *const *stops;    /* stop strings, not empty; need a tokenizer */
    size_t n_stops;
    const cf_token *stop_ids; /* end the generation beside the model's end-of-text tokens */
    size_t n_stop_ids;
    size_t min_tokens; /* before these, tokens that end it are not chosen, and complete stop strings
                          are text like any other */
    bool ignore_eos;   /* the end-of-text tokens are tokens like any other */
    int32_t n_top;     /* alternatives reported with each token: 0 … 64 */
    size_t n_ahead;    /* tokens that a GPU may choose in one go before they are asked for, which is
                          faster: other sessions wait for them. 0: one; cf_generate() has no limit */
} cf_generate_options;

typedef struct cf_alternative {
    cf_token id;
    float logprob;
} cf_alternative;

typedef enum cf_event_kind {
    CF_EVENT_PROMPT = 0, /* a chunk of the prompt was evaluated */
    CF_EVENT_TOKEN = 1,  /* a token was chosen */
    CF_EVENT_END = 2,    /* the generation is over */
} cf_event_kind;

/*
 * One step of a generation. Pointers are valid until the next step. Log-probabilities are the
 * log-softmax of the raw logits, before penalties, bias and temperature.
 *
 * The texts of all events, joined, are the text of the tokens chosen, special ones included, but
 * without the token that ended it (end of text, stop id) and without a stop string and what follows
 * it. Of several stop strings the one counts that is complete first, of those complete together the
 * longest: it does not matter how tokens cut the text.
 */
typedef struct cf_event {
    cf_event_kind kind;
    cf_finish finish; /* END: why */
    size_t n_prompt;  /* prompt tokens in the cache so far */
    size_t n_prompt_total;
    size_t n_tokens;           /* tokens chosen so far, this one included */
    cf_token token;            /* TOKEN: its id, the end-of-text token included */
    float logprob;             /* TOKEN */
    const cf_alternative *top; /* TOKEN: the n_top most probable, best first */
    size_t n_top;
    const char *text; /* TOKEN, END: text that became certain: whole characters, and nothing that
                         might still turn out to be the beginning of a stop string */
    size_t n_text;    /* bytes of it; no zero byte follows */
} cf_event;

typedef struct cf_generate_stats {
    size_t n_prompt;      /* prompt tokens */
    size_t n_reused;      /* of these, already in the session's KV cache */
    size_t n_tokens;      /* tokens chosen */
    uint64_t prompt_ns;   /* evaluating the prompt */
    uint64_t decode_ns;   /* from the first token chosen to the last */
    uint64_t logits_hash; /* XXH3-64 of the last logits, [n_vocab] float32 */
    cf_finish finish;
} cf_generate_stats;

/*
 * Begins a generation: `max_tokens` new tokens (SIZE_MAX: until the context is full) after the
 * prompt. What the session holds of the prompt's beginning is reused, the rest forgotten. Session
 * and tokenizer (NULL: no text, no stop strings) must outlive it, and the session must not be used
 * otherwise meanwhile; strings and arrays of the options are copied. Errors: INVALID_ARGUMENT (an
 * empty prompt, an option out of its bounds, an id outside the vocabulary), CONTEXT_FULL (the
 * prompt alone does not fit), OUT_OF_MEMORY, DEVICE (the session is dead): the session is then as
 * it was. Cost: allocates; evaluates nothing yet.
 */
CF_API cf_status cf_generation_begin(cf_session *session, const cf_tokenizer *tokenizer,
                                     const cf_token *prompt, size_t n_prompt, size_t max_tokens,
                                     const cf_generate_options *options, cf_generation **generation,
                                     cf_error *error);

/*
 * Takes one step: a chunk of the prompt or one token; after the last it gives END, each time it is
 * called, the last text only once. The last token chosen is not evaluated: one more fits than the
 * context holds. Several generations of several sessions can so be interleaved by one thread.
 * Errors: those of cf_session_eval(); INVALID_ARGUMENT too if bias and min_tokens leave no token to
 * choose; DEVICE also for logits that are not finite. A step that fails changes nothing else and
 * may be repeated. Cost: one evaluation; allocates nothing.
 */
CF_API cf_status cf_generation_next(cf_generation *generation, cf_event *event, cf_error *error);

CF_API void cf_generation_stats(const cf_generation *generation, cf_generate_stats *stats);

/* Ends it, at any point. The session keeps the tokens evaluated so far. */
CF_API void cf_generation_free(cf_generation *generation);

/* Called for each event, in order; false cancels: the END event still comes, with CANCELLED. */
typedef bool (*cf_event_fn)(void *user, const cf_event *event);

/*
 * Begin, next until END, and free, in one call. `on_event` may be NULL, `stats` too. A cancelled
 * generation is a success with stats->finish CF_FINISH_CANCELLED.
 */
CF_API cf_status cf_generate(cf_session *session, const cf_tokenizer *tokenizer,
                             const cf_token *prompt, size_t n_prompt, size_t max_tokens,
                             const cf_generate_options *options, cf_event_fn on_event, void *user,
                             cf_generate_stats *stats, cf_error *error);

/* The same from text, which must give at least one token. */
CF_API cf_status cf_generate_text(cf_session *session, const cf_tokenizer *tokenizer,
                                  const char *prompt, size_t max_tokens,
                                  const cf_generate_options *options, cf_event_fn on_event,
                                  void *user, cf_generate_stats *stats, cf_error *error);

/* ---------------------------------------------------------------------------------------------- */
/* 9  Scoring */
/* ---------------------------------------------------------------------------------------------- */

typedef struct cf_score_options {
    size_t size;
    size_t n_window; /* tokens evaluated together; default and at most: the session's context */
    size_t n_stride; /* tokens by which windows advance, 1 … n_window; default n_window / 2, at
                        least 1 */
    int32_t n_top;   /* alternatives a position: 0 … 64 */
    cf_progress_fn progress;
    void *progress_user;
} cf_score_options;

/*
 * Log-probability of each token given those before it: logprobs [n_ids], of the raw logits; the
 * first has none and is NaN. Longer text is read in windows that begin every n_stride tokens, each
 * token scored once, in the first window that holds the token before it: after the first window
 * with n_window - n_stride + 1 … n_window tokens of context. `top` is NULL or [n_ids][n_top]: the
 * most probable tokens at each position, best first; ids -1 and NaN at the first, and where the
 * vocabulary has no more. What the session held is forgotten; it then holds the last window, of
 * text that fits the context all but the last token, from which a generation can go on. Errors:
 * those of cf_session_eval(); DEVICE also for logits that are not finite; n_ids ≥ 1. Cost: about
 * n_window / n_stride evaluations of the text, and room for the logits of 128 tokens.
 */
CF_API cf_status cf_score(cf_session *session, const cf_token *ids, size_t n_ids,
                          const cf_score_options *options, float *logprobs, cf_alternative *top,
                          cf_error *error);

/*
 * The same in steps, so that one thread can interleave it with other work: each step scores at most
 * 128 tokens, and *n_scored of n_ids are then done, the first included, which has nothing before
 * it. Session, ids, logprobs and top must stay until it is freed, and the session must not be used
 * otherwise meanwhile. Freed at any point, the session keeps what was evaluated. Errors: those of
 * cf_score(); after a step that failed it can only be freed.
 */
typedef struct cf_scoring cf_scoring;

CF_API cf_status cf_scoring_begin(cf_session *session, const cf_token *ids, size_t n_ids,
                                  const cf_score_options *options, float *logprobs,
                                  cf_alternative *top, cf_scoring **scoring, cf_error *error);
CF_API cf_status cf_scoring_next(cf_scoring *scoring, size_t *n_scored, cf_error *error);
CF_API void cf_scoring_free(cf_scoring *scoring);

/* ---------------------------------------------------------------------------------------------- */
/* 10  Measurement */
/* ---------------------------------------------------------------------------------------------- */

/* The speeds that bound this backend on this machine, to hold a figure against. */
typedef struct cf_ceilings {
    double read_bytes_per_s;  /* reading memory once, front to back, all threads */
    double matmul_flop_per_s; /* the BLAS alone on this model's matrix shapes, float32 (CPU) */
    double matmul_s;          /* seconds of those matrix products for n_tokens tokens */
} cf_ceilings;

/*
 * Measures them, with `n_threads` CPU threads (0: as a session's default), for prompts of
 * `n_tokens` tokens (0: skip the matrix products). Takes a second or two. Errors: OUT_OF_MEMORY,
 * DEVICE.
 */
CF_API cf_status cf_model_measure(const cf_model *model, int32_t n_threads, size_t n_tokens,
                                  cf_ceilings *ceilings, cf_error *error);

/* What one group of threads of a GPU did for a while. Names are static texts. */
typedef struct cf_span {
    const char *stage; /* "LayerNorm", "attention", …; waiting is a stage too */
    const char *role;  /* of the group: what it is there for */
    int32_t block;     /* one a multiprocessor, from 0 */
    int32_t layer;     /* from 0; n_layers: the LM head */
    double begin_us;   /* since the launch's first span began */
    double end_us;     /* at least begin_us */
} cf_span;

/* Called for each span: block by block, then stage by stage, then layer by layer. */
typedef void (*cf_span_fn)(void *user, const cf_span *span);

/*
 * Evaluates `token` at the session's position with the kernel's clock running and reports where the
 * time went; the session's position then is what it was before. The clock is read a few times a
 * layer and block, and costs some percent. Errors: UNSUPPORTED (a backend without such a clock: the
 * CPU), CONTEXT_FULL, INVALID_ARGUMENT, OUT_OF_MEMORY; DEVICE: the session is dead. Allocates; two
 * tokens' time.
 */
CF_API cf_status cf_session_trace(cf_session *session, cf_token token, cf_span_fn span, void *user,
                                  cf_error *error);

/* ---------------------------------------------------------------------------------------------- */
/* 11  One layer on a GPU */
/* ---------------------------------------------------------------------------------------------- */

/*
 * One decoder layer for one token in one launch, on weights that lie on the GPU as PyTorch has
 * them: row-major [out][in], query_key_value per head [head][q|k|v][head width]. Both LayerNorms
 * read the same hidden state (the parallel residual).
 */
typedef struct cf_layer cf_layer;

typedef struct cf_layer_options {
    size_t size;
    int32_t device; /* CUDA device index */
    cf_dtype dtype; /* F16 or BF16: of everything but cosines and sines */
    int32_t d_model;
    int32_t n_heads;  /* of width d_model / n_heads, a multiple of 8, at most 256 */
    int32_t d_rotary; /* even, 0 … head width */
    int32_t d_ffn;
    float layer_norm_eps;
    cf_activation activation; /* GELU_TANH is the hardware's approximation of tanh, to 5e-4 */
    bool whole; /* also the down projection and the residual; else attention and up only */
} cf_layer_options;

/*
 * Addresses on the device, in `dtype`, each aligned to 16 bytes; of a launch. `cosines` and `sines`
 * are float32 and need 4 bytes. Pairs of the rotation are (i, i + d_rotary / 2).
 */
typedef struct cf_layer_tensors {
    const void *hidden;       /* [d_model] */
    const void *qkv_weight;   /* [3 d_model][d_model] */
    const void *qkv_bias;     /* [3 d_model] */
    const void *dense_weight; /* [d_model][d_model]: attention's projection */
    const void *dense_bias;   /* [d_model] */
    const void *up_weight;    /* [d_ffn][d_model] */
    const void *up_bias;      /* [d_ffn] */
    const void *down_weight;  /* [d_model][d_ffn]; not of the whole layer: NULL, as the next */
    const void *down_bias;    /* [d_model] */
    const void *norm1_weight; /* [d_model]: the LayerNorm before attention */
    const void *norm1_bias;   /* [d_model] */
    const void *norm2_weight; /* [d_model]: the LayerNorm before the MLP */
    const void *norm2_bias;   /* [d_model] */
    const float *cosines;     /* [d_rotary] of this position */
    const float *sines;       /* [d_rotary] */
    void *k_cache;            /* [n_context][d_model]; row n_cached is written */
    void *v_cache;            /* [n_context][d_model]; row n_cached is written */
    void *output;             /* [d_model] attention's projection; whole: the layer's output */
    void *mlp;                /* [d_ffn] the activated up projection; of the whole layer: NULL */
    void *k_new;              /* [d_model] the new position's key, rotated */
    void *v_new;              /* [d_model] the new position's value */
    int32_t n_cached;         /* positions in the cache before this one: 0 … n_context - 1 */
    int32_t n_context;        /* rows of the cache */
} cf_layer_tensors;

/*
 * Prepares launches of a shape on one GPU: half a MiB of scratch. Errors: INVALID_ARGUMENT (names
 * the option), UNSUPPORTED (no CUDA built in, an older GPU, a shape that the kernel cannot run),
 * NO_DEVICE, OUT_OF_MEMORY, DEVICE. Any thread, also while a stream is being captured. Cost:
 * allocates, synchronises with a stream of its own; milliseconds.
 */
CF_API cf_status cf_layer_create(const cf_layer_options *options, cf_layer **layer,
                                 cf_error *error);

/* Waits for all launches of it on its GPU. */
CF_API void cf_layer_free(cf_layer *layer);

/*
 * Puts one launch into `stream`, a cudaStream_t of the layer's device (NULL: the default stream).
 * It starts when everything before it in the stream is complete. Launches in several streams are
 * safe: a launch takes the whole GPU, so they run one after the other. The same input gives the
 * same bits. Errors: INVALID_ARGUMENT (names the tensor or n_cached), DEVICE: nothing was launched.
 * Any thread. Cost: one launch; no allocation, no synchronisation; may be captured in a graph.
 */
CF_API cf_status cf_layer_launch(cf_layer *layer, const cf_layer_tensors *tensors, void *stream,
                                 cf_error *error);

#ifdef __cplusplus
}
#endif

#endif
