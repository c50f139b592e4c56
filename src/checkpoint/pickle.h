/*
 * The part of Python's pickle format that weight files are written in.
 *
 * A pickle is a program for a stack machine that may call anything by name. This machine knows the
 * opcodes that build plain values, and the handful of globals of cf_pickle_globals; everything else
 * is refused by name. It never calls, imports or executes anything: calls of the known globals are
 * turned into plain structs.
 */
#ifndef CF_CHECKPOINT_PICKLE_H
#define CF_CHECKPOINT_PICKLE_H

#include "checkpoint/arena.h"
#include "clusterfusion.h"

typedef enum cf_value_kind {
    CF_VALUE_NONE = 0,
    CF_VALUE_BOOL,
    CF_VALUE_INT,
    CF_VALUE_LONG,  /* an integer beyond 64 bits: its bytes */
    CF_VALUE_FLOAT, /* only counted: no number of a weight file matters */
    CF_VALUE_TEXT,
    CF_VALUE_GLOBAL,
    CF_VALUE_TUPLE,
    CF_VALUE_LIST,
    CF_VALUE_DICT, /* dict or OrderedDict: key, value, key, value, … */
    CF_VALUE_STORAGE,
    CF_VALUE_TENSOR,
} cf_value_kind;

/* What a known global stands for. */
typedef enum cf_global_kind {
    CF_GLOBAL_ORDERED_DICT,
    CF_GLOBAL_REBUILD_TENSOR,
    CF_GLOBAL_REBUILD_PARAMETER,
    CF_GLOBAL_STORAGE,
} cf_global_kind;

typedef struct cf_global {
    const char *name; /* module and name, joined by a dot */
    cf_global_kind kind;
    cf_dtype dtype; /* of a storage; CF_DTYPE_DEFAULT: one that no weight has */
    const char *dtype_name;
    uint64_t element_bytes;
} cf_global;

typedef struct cf_value cf_value;

typedef struct cf_value_list {
    cf_value **items;
    size_t n, capacity;
} cf_value_list;

/* A storage is named here and lies elsewhere in the file. */
typedef struct cf_stored {
    const cf_global *type;
    const cf_value *key; /* text */
    uint64_t n_elements;
} cf_stored;

typedef struct cf_rebuilt {
    const cf_stored *storage;
    uint64_t offset;               /* elements */
    const cf_value *size, *stride; /* tuples of integers ≥ 0, equally long */
} cf_rebuilt;

struct cf_value {
    cf_value_kind kind;
    union {
        int64_t integer; /* BOOL, INT */
        struct {
            const char *bytes; /* in the pickle itself, not ended */
            size_t n_bytes;
        } text; /* TEXT, LONG */
        const cf_global *global;
        cf_value_list list; /* TUPLE, LIST, DICT */
        cf_stored storage;
        cf_rebuilt tensor;
    };
};

/*
 * Runs the pickle that `bytes` begin with. `file` begins messages; values lie in `arena` and point
 * into `bytes`. *n_used is its length: a legacy file has several in a row. Errors: BAD_FILE
 * (truncated, stack or types wrong), UNSUPPORTED (an opcode or global that is not known, named).
 * Cost: linear in the length; memory at most some hundred times the length.
 */
cf_status cf_pickle_read(const void *bytes, size_t n_bytes, const char *file, cf_arena *arena,
                         cf_value **value, size_t *n_used, cf_error *error);

/* "an integer", "a dict", …: for messages. */
const char *cf_value_kind_text(const cf_value *value);

/* Whether `value` is this text. */
bool cf_value_is_text(const cf_value *value, const char *text);

/* A dict's value for the key `key`; NULL: none. */
const cf_value *cf_value_get(const cf_value *dict, const char *key);

#endif
