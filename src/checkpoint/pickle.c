#include "checkpoint/pickle.h"

#include "base/status.h"
#include "checkpoint/pickle_calls.h"

#include <string.h>

/* The protocols that have ever been written; 0 is text and has no header. */
#define MAX_PROTOCOL 5

/* The opcodes that are known; Python's own names, from its pickletools module. */
enum opcode {
    MARK = '(',
    STOP = '.',
    POP = '0',
    BININT = 'J',
    BININT1 = 'K',
    BININT2 = 'M',
    NONE = 'N',
    BINPERSID = 'Q',
    REDUCE = 'R',
    BINSTRING = 'T',
    SHORT_BINSTRING = 'U',
    BINUNICODE = 'X',
    APPEND = 'a',
    BUILD = 'b',
    GLOBAL = 'c',
    DICT = 'd',
    APPENDS = 'e',
    BINGET = 'h',
    LONG_BINGET = 'j',
    LIST = 'l',
    BINPUT = 'q',
    LONG_BINPUT = 'r',
    SETITEM = 's',
    TUPLE = 't',
    SETITEMS = 'u',
    BINFLOAT = 'G',
    EMPTY_TUPLE = ')',
    EMPTY_LIST = ']',
    EMPTY_DICT = '}',
    PROTO = 0x80,
    TUPLE1 = 0x85,
    TUPLE2 = 0x86,
    TUPLE3 = 0x87,
    NEWTRUE = 0x88,
    NEWFALSE = 0x89,
    LONG1 = 0x8A,
    LONG4 = 0x8B,
    SHORT_BINUNICODE = 0x8C,
    BINUNICODE8 = 0x8D,
    STACK_GLOBAL = 0x93,
    MEMOIZE = 0x94,
    FRAME = 0x95,
};

/* A pickle while it runs. A mark is a NULL on the stack. */
typedef struct machine {
    const char *file;
    const uint8_t *bytes;
    size_t n_bytes, pos;
    cf_arena *arena;
    cf_value_list stack;
    cf_value_list memo;
    cf_error *error;
} machine;

static cf_status damaged(const machine *m, const char *what)
{
    cf_fail(m->error, CF_STATUS_BAD_FILE, "%s: pickle: %s at byte %zu of %zu", m->file, what,
            m->pos, m->n_bytes);
    return CF_STATUS_BAD_FILE;
}

static cf_status take_bytes(machine *m, uint64_t n, const uint8_t **bytes)
{
    if (n > m->n_bytes - m->pos)
        return damaged(m, "ends too early");
    *bytes = m->bytes + m->pos;
    m->pos += (size_t)n;
    return CF_STATUS_OK;
}

/* A little-endian unsigned number of `n` ≤ 8 bytes. */
static cf_status take_number(machine *m, size_t n, uint64_t *number)
{
    const uint8_t *bytes;
    CF_TRY(take_bytes(m, n, &bytes));
    *number = 0;
    for (size_t i = n; i > 0; i--)
        *number = *number << 8 | bytes[i - 1];
    return CF_STATUS_OK;
}

static cf_status append(machine *m, cf_value_list *list, cf_value *value)
{
    void *items = list->items;
    CF_TRY(cf_arena_grow(m->arena, &items, list->n, &list->capacity, sizeof(void *),
                         "values of a pickle", m->error));
    list->items = items;
    list->items[list->n++] = value;
    return CF_STATUS_OK;
}

static cf_status push_new(machine *m, cf_value_kind kind, cf_value **value)
{
    CF_TRY(CF_ARENA_TAKE(m->arena, value, 1, "values of a pickle", m->error));
    (*value)->kind = kind;
    return append(m, &m->stack, *value);
}

static cf_status push_plain(machine *m, cf_value_kind kind, int64_t integer)
{
    cf_value *value;
    CF_TRY(push_new(m, kind, &value));
    if (kind == CF_VALUE_INT || kind == CF_VALUE_BOOL)
        value->integer = integer;
    return CF_STATUS_OK;
}

/* Takes the uppermost value; a mark there is a fault. */
static cf_status pop(machine *m, cf_value **value)
{
    if (m->stack.n == 0 || m->stack.items[m->stack.n - 1] == NULL)
        return damaged(m, "takes from an empty stack");
    *value = m->stack.items[--m->stack.n];
    return CF_STATUS_OK;
}

static cf_status top(machine *m, cf_value **value)
{
    CF_TRY(pop(m, value));
    m->stack.n++;
    return CF_STATUS_OK;
}

/* Takes everything above the uppermost mark, and the mark. */
static cf_status pop_to_mark(machine *m, cf_value ***items, size_t *n)
{
    size_t begin = m->stack.n;
    while (begin > 0 && m->stack.items[begin - 1] != NULL)
        begin--;
    if (begin == 0)
        return damaged(m, "misses a mark");
    *items = m->stack.items + begin;
    *n = m->stack.n - begin;
    m->stack.n = begin - 1;
    return CF_STATUS_OK;
}

static cf_status extend(machine *m, cf_value *to, cf_value_kind kind, cf_value **items, size_t n)
{
    if (to->kind != kind)
        return damaged(m, kind == CF_VALUE_LIST ? "appends to what is no list"
                                                : "sets an item of what is no dict");
    if (kind == CF_VALUE_DICT && n % 2 != 0)
        return damaged(m, "has a key without a value");
    for (size_t i = 0; i < n; i++)
        CF_TRY(append(m, &to->list, items[i]));
    return CF_STATUS_OK;
}

/* A new tuple, list or dict of the `n` items, which may lie just above the stack's end. */
static cf_status push_container(machine *m, cf_value_kind kind, cf_value **items, size_t n)
{
    cf_value *value;
    CF_TRY(CF_ARENA_TAKE(m->arena, &value, 1, "values of a pickle", m->error));
    value->kind = kind;
    CF_TRY(extend(m, value, kind, items, n));
    return append(m, &m->stack, value);
}

static cf_status do_marked_container(machine *m, cf_value_kind kind)
{
    cf_value **items;
    size_t n;
    CF_TRY(pop_to_mark(m, &items, &n));
    return push_container(m, kind, items, n);
}

static cf_status do_small_tuple(machine *m, size_t n)
{
    cf_value *items[3];
    for (size_t i = n; i > 0; i--)
        CF_TRY(pop(m, &items[i - 1]));
    return push_container(m, CF_VALUE_TUPLE, items, n);
}

static cf_status do_marked_extend(machine *m, cf_value_kind kind)
{
    cf_value **items, *to;
    size_t n;
    CF_TRY(pop_to_mark(m, &items, &n));
    CF_TRY(top(m, &to));
    return extend(m, to, kind, items, n);
}

static cf_status do_single_extend(machine *m, cf_value_kind kind)
{
    cf_value *items[2], *to;
    size_t n = kind == CF_VALUE_DICT ? 2 : 1;
    for (size_t i = n; i > 0; i--)
        CF_TRY(pop(m, &items[i - 1]));
    CF_TRY(top(m, &to));
    return extend(m, to, kind, items, n);
}

/* Text whose length stands before it in `n_length` bytes. */
static cf_status do_text(machine *m, size_t n_length)
{
    uint64_t n;
    const uint8_t *bytes;
    CF_TRY(take_number(m, n_length, &n));
    CF_TRY(take_bytes(m, n, &bytes));
    cf_value *value;
    CF_TRY(push_new(m, CF_VALUE_TEXT, &value));
    value->text.bytes = (const char *)bytes;
    value->text.n_bytes = (size_t)n;
    return CF_STATUS_OK;
}

/* An integer in two's complement, its length before it in `n_length` bytes. */
static cf_status do_long(machine *m, size_t n_length)
{
    uint64_t n, number = 0;
    const uint8_t *bytes;
    CF_TRY(take_number(m, n_length, &n));
    CF_TRY(take_bytes(m, n, &bytes));
    if (n > 8) {
        cf_value *value;
        CF_TRY(push_new(m, CF_VALUE_LONG, &value));
        value->text.bytes = (const char *)bytes;
        value->text.n_bytes = (size_t)n;
        return CF_STATUS_OK;
    }
    bool negative = n > 0 && (bytes[n - 1] & 0x80) != 0;
    for (size_t i = 8; i > 0; i--)
        number = number << 8 | (i <= n ? bytes[i - 1] : negative ? 0xFF : 0);
    return push_plain(m, CF_VALUE_INT, (int64_t)number);
}

static cf_status do_integer(machine *m, size_t n)
{
    uint64_t number;
    CF_TRY(take_number(m, n, &number));
    return push_plain(m, CF_VALUE_INT,
                      n == 4 ? (int64_t)(int32_t)(uint32_t)number : (int64_t)number);
}

static cf_status do_float(machine *m)
{
    const uint8_t *bytes;
    CF_TRY(take_bytes(m, 8, &bytes));
    return push_plain(m, CF_VALUE_FLOAT, 0);
}

/* An index is at most as large as what is before it in the file: so the memo is, too. */
static cf_status do_put(machine *m, size_t n)
{
    uint64_t index = m->memo.n;
    cf_value *value;
    if (n > 0)
        CF_TRY(take_number(m, n, &index));
    if (index >= m->pos)
        return damaged(m, "has a memo index beyond the number of its opcodes");
    CF_TRY(top(m, &value));
    while (m->memo.n <= index)
        CF_TRY(append(m, &m->memo, NULL));
    m->memo.items[index] = value;
    return CF_STATUS_OK;
}

static cf_status do_get(machine *m, size_t n)
{
    uint64_t index;
    CF_TRY(take_number(m, n, &index));
    if (index >= m->memo.n || m->memo.items[index] == NULL)
        return damaged(m, "recalls a memo index that was never put");
    return append(m, &m->stack, m->memo.items[index]);
}

static bool is_printable(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (text[i] < ' ' || text[i] > '~')
            return false;
    return true;
}

static cf_status push_global(machine *m, const char *module, size_t n_module, const char *name,
                             size_t n_name)
{
    const cf_global *global = cf_global_find(module, n_module, name, n_name);
    if (global == NULL && n_module < 100 && n_name < 100 && is_printable(module, n_module) &&
        is_printable(name, n_name))
        return cf_fail(m->error, CF_STATUS_UNSUPPORTED,
                       "%s: pickle: names %.*s.%.*s, which is not among the globals that weights "
                       "need",
                       m->file, (int)n_module, module, (int)n_name, name);
    if (global == NULL)
        return damaged(m, "names an unreadable global");
    cf_value *value;
    CF_TRY(push_new(m, CF_VALUE_GLOBAL, &value));
    value->global = global;
    return CF_STATUS_OK;
}

static cf_status take_line(machine *m, const char **line, size_t *n)
{
    const uint8_t *begin = m->bytes + m->pos;
    const uint8_t *end = memchr(begin, '\n', m->n_bytes - m->pos);
    if (end == NULL)
        return damaged(m, "ends within a line");
    *line = (const char *)begin;
    *n = (size_t)(end - begin);
    m->pos += *n + 1;
    return CF_STATUS_OK;
}

static cf_status do_global(machine *m)
{
    const char *module, *name;
    size_t n_module, n_name;
    CF_TRY(take_line(m, &module, &n_module));
    CF_TRY(take_line(m, &name, &n_name));
    return push_global(m, module, n_module, name, n_name);
}

static cf_status do_stack_global(machine *m)
{
    cf_value *module, *name;
    CF_TRY(pop(m, &name));
    CF_TRY(pop(m, &module));
    if (module->kind != CF_VALUE_TEXT || name->kind != CF_VALUE_TEXT)
        return damaged(m, "names a global by what is no string");
    return push_global(m, module->text.bytes, module->text.n_bytes, name->text.bytes,
                       name->text.n_bytes);
}

static cf_status do_reduce(machine *m)
{
    cf_value *called, *arguments, *result;
    CF_TRY(pop(m, &arguments));
    CF_TRY(pop(m, &called));
    if (called->kind != CF_VALUE_GLOBAL || arguments->kind != CF_VALUE_TUPLE)
        return damaged(m, "calls what is no function");
    CF_TRY(push_new(m, CF_VALUE_NONE, &result));
    return cf_global_call(called->global, arguments, m->file, result, m->error);
}

/* State behind an OrderedDict: the _metadata of a module, which no weight depends on. */
static cf_status do_build(machine *m)
{
    cf_value *state, *object;
    CF_TRY(pop(m, &state));
    CF_TRY(top(m, &object));
    if (object->kind != CF_VALUE_DICT || state->kind != CF_VALUE_DICT)
        return damaged(m, "sets the state of what is no OrderedDict");
    return CF_STATUS_OK;
}

static cf_status do_persistent_id(machine *m)
{
    cf_value *id, *storage;
    CF_TRY(pop(m, &id));
    CF_TRY(push_new(m, CF_VALUE_NONE, &storage));
    return cf_storage_from_id(id, m->file, storage, m->error);
}

static cf_status do_protocol(machine *m)
{
    uint64_t protocol;
    CF_TRY(take_number(m, 1, &protocol));
    if (protocol > MAX_PROTOCOL)
        return damaged(m, "has a protocol beyond 5");
    return CF_STATUS_OK;
}

static cf_status do_pop(machine *m)
{
    if (m->stack.n == 0)
        return damaged(m, "takes from an empty stack");
    m->stack.n--;
    return CF_STATUS_OK;
}

/* A frame's length helps those who read from a pipe. */
static cf_status do_frame(machine *m)
{
    uint64_t length;
    return take_number(m, 8, &length);
}

/* Opcodes that run code or name what this machine does not know, by their names in pickletools. */
static cf_status refuse_opcode(machine *m, uint8_t opcode)
{
    static const struct {
        uint8_t opcode;
        const char *name;
    } refused[] = {
        {'i', "INST"},
        {'o', "OBJ"},
        {0x81, "NEWOBJ"},
        {0x92, "NEWOBJ_EX"},
        {0x82, "EXT1"},
        {0x83, "EXT2"},
        {0x84, "EXT4"},
        {'P', "PERSID"},
        {'I', "INT"},
        {'L', "LONG"},
        {'S', "STRING"},
        {'V', "UNICODE"},
        {'F', "FLOAT"},
        {'p', "PUT"},
        {'g', "GET"},
        {'1', "POP_MARK"},
        {'2', "DUP"},
        {'B', "BINBYTES"},
        {'C', "SHORT_BINBYTES"},
        {0x8E, "BINBYTES8"},
        {0x8F, "EMPTY_SET"},
        {0x90, "ADDITEMS"},
        {0x91, "FROZENSET"},
        {0x96, "BYTEARRAY8"},
        {0x97, "NEXT_BUFFER"},
        {0x98, "READONLY_BUFFER"},
    };
    const char *name = "unknown";
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (refused[i].opcode == opcode)
            name = refused[i].name;
    return cf_fail(
        m->error, CF_STATUS_UNSUPPORTED,
        "%s: pickle: opcode 0x%02X (%s) at byte %zu is not among those that weights need", m->file,
        opcode, name, m->pos - 1);
}

static cf_status do_container(machine *m, uint8_t opcode)
{
    switch (opcode) {
    case MARK:
        return append(m, &m->stack, NULL);
    case POP:
        return do_pop(m);
    case EMPTY_TUPLE:
        return push_container(m, CF_VALUE_TUPLE, NULL, 0);
    case EMPTY_LIST:
        return push_container(m, CF_VALUE_LIST, NULL, 0);
    case EMPTY_DICT:
        return push_container(m, CF_VALUE_DICT, NULL, 0);
    case TUPLE1:
    case TUPLE2:
    case TUPLE3:
        return do_small_tuple(m, (size_t)opcode - TUPLE1 + 1);
    case TUPLE:
        return do_marked_container(m, CF_VALUE_TUPLE);
    case LIST:
        return do_marked_container(m, CF_VALUE_LIST);
    case DICT:
        return do_marked_container(m, CF_VALUE_DICT);
    case APPEND:
        return do_single_extend(m, CF_VALUE_LIST);
    case APPENDS:
        return do_marked_extend(m, CF_VALUE_LIST);
    case SETITEM:
        return do_single_extend(m, CF_VALUE_DICT);
    case SETITEMS:
        return do_marked_extend(m, CF_VALUE_DICT);
    default:
        return refuse_opcode(m, opcode);
    }
}

static cf_status do_memo_or_call(machine *m, uint8_t opcode)
{
    switch (opcode) {
    case BINPUT:
        return do_put(m, 1);
    case LONG_BINPUT:
        return do_put(m, 4);
    case MEMOIZE:
        return do_put(m, 0);
    case BINGET:
        return do_get(m, 1);
    case LONG_BINGET:
        return do_get(m, 4);
    case GLOBAL:
        return do_global(m);
    case STACK_GLOBAL:
        return do_stack_global(m);
    case REDUCE:
        return do_reduce(m);
    case BUILD:
        return do_build(m);
    case BINPERSID:
        return do_persistent_id(m);
    case PROTO:
        return do_protocol(m);
    case FRAME:
        return do_frame(m);
    default:
        return do_container(m, opcode);
    }
}

static cf_status do_opcode(machine *m, uint8_t opcode)
{
    switch (opcode) {
    case NONE:
        return push_plain(m, CF_VALUE_NONE, 0);
    case NEWTRUE:
        return push_plain(m, CF_VALUE_BOOL, 1);
    case NEWFALSE:
        return push_plain(m, CF_VALUE_BOOL, 0);
    case BININT:
        return do_integer(m, 4);
    case BININT1:
        return do_integer(m, 1);
    case BININT2:
        return do_integer(m, 2);
    case LONG1:
        return do_long(m, 1);
    case LONG4:
        return do_long(m, 4);
    case BINFLOAT:
        return do_float(m);
    case SHORT_BINUNICODE:
    case SHORT_BINSTRING:
        return do_text(m, 1);
    case BINUNICODE:
    case BINSTRING:
        return do_text(m, 4);
    case BINUNICODE8:
        return do_text(m, 8);
    default:
        return do_memo_or_call(m, opcode);
    }
}

cf_status cf_pickle_read(const void *bytes, size_t n_bytes, const char *file, cf_arena *arena,
                         cf_value **value, size_t *n_used, cf_error *error)
{
    machine m = {.file = file, .bytes = bytes, .n_bytes = n_bytes, .arena = arena, .error = error};
    const uint8_t *opcode;
    CF_TRY(take_bytes(&m, 1, &opcode));
    if (*opcode != PROTO)
        return damaged(&m, "does not begin with its protocol, 2 to 5,");
    CF_TRY(do_protocol(&m));
    for (;;) {
        CF_TRY(take_bytes(&m, 1, &opcode));
        if (*opcode == STOP)
            break;
        CF_TRY(do_opcode(&m, *opcode));
    }
    CF_TRY(pop(&m, value));
    *n_used = m.pos;
    return CF_STATUS_OK;
}
