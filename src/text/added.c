#include "text/added.h"

#include "base/status.h"

typedef struct added_node {
    uint32_t child, sibling; /* 0: none */
    cf_token id;             /* of the string that ends here; -1: none */
    uint8_t byte;
} added_node;

/* The node for `byte` in a list of siblings; 0: none. */
static uint32_t find_sibling(const added_node *nodes, uint32_t node, uint8_t byte)
{
    while (node != 0 && nodes[node].byte != byte)
        node = nodes[node].sibling;
    return node;
}

static cf_status append_node(cf_added *added, added_node node, uint32_t *index, cf_error *error)
{
    static const added_node none = {.id = -1};
    if (added->nodes.n_bytes == 0)
        CF_TRY(cf_buffer_append(&added->nodes, &none, sizeof none, "added tokens", error));
    size_t n_nodes = added->nodes.n_bytes / sizeof node;
    if (n_nodes > UINT32_MAX)
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "added tokens: %zu nodes", n_nodes);
    *index = (uint32_t)n_nodes;
    return cf_buffer_append(&added->nodes, &node, sizeof node, "added tokens", error);
}

cf_status cf_added_insert(cf_added *added, const char *text, size_t n_bytes, cf_token id,
                          cf_error *error)
{
    uint32_t parent = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        uint8_t byte = (uint8_t)text[i];
        added_node *nodes = added->nodes.data;
        uint32_t first = parent == 0 ? added->roots[byte] : nodes[parent].child;
        uint32_t node = find_sibling(nodes, first, byte);
        if (node == 0) {
            added_node fresh = {.id = -1, .byte = byte, .sibling = parent == 0 ? 0 : first};
            CF_TRY(append_node(added, fresh, &node, error));
            nodes = added->nodes.data;
            if (parent == 0)
                added->roots[byte] = node;
            else
                nodes[parent].child = node;
        }
        parent = node;
    }
    added_node *last = (added_node *)added->nodes.data + parent;
    if (last->id < 0)
        last->id = id;
    return CF_STATUS_OK;
}

/* The longest string that `text` begins with; 0: none. */
static size_t match(const cf_added *added, const char *text, size_t n_bytes, cf_token *id)
{
    const added_node *nodes = added->nodes.data;
    uint32_t node = added->roots[(uint8_t)text[0]];
    size_t length = 0;
    for (size_t i = 1; node != 0; i++) {
        if (nodes[node].id >= 0) {
            length = i;
            *id = nodes[node].id;
        }
        if (i == n_bytes)
            break;
        node = find_sibling(nodes, nodes[node].child, (uint8_t)text[i]);
    }
    return length;
}

size_t cf_added_find(const cf_added *added, const char *text, size_t n_bytes, size_t *pos,
                     cf_token *id)
{
    for (size_t i = *pos; i < n_bytes; i++) {
        if (added->roots[(uint8_t)text[i]] == 0)
            continue;
        size_t length = match(added, text + i, n_bytes - i, id);
        if (length > 0) {
            *pos = i;
            return length;
        }
    }
    return 0;
}

void cf_added_free(cf_added *added)
{
    cf_buffer_free(&added->nodes);
}
