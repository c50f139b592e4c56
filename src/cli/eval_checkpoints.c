/* The checkpoints that clusterfusion eval works through. */
#include "base/file.h"
#include "base/status.h"
#include "cli/eval.h"
#include "cli/report.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

static size_t count_digits(const char *text)
{
    return strspn(text, "0123456789");
}

/* Compares two runs of digits by their value, whatever their length. */
static int compare_numbers(const char *a, size_t n_a, const char *b, size_t n_b)
{
    for (; n_a > 0 && *a == '0'; n_a--)
        a++;
    for (; n_b > 0 && *b == '0'; n_b--)
        b++;
    if (n_a != n_b)
        return n_a < n_b ? -1 : 1;
    return memcmp(a, b, n_a);
}

/* step2 comes before step10. */
static int compare_names(const char *a, const char *b)
{
    const char *const whole_a = a, *const whole_b = b;
    while (*a != 0 && *b != 0) {
        size_t n_a = count_digits(a), n_b = count_digits(b);
        int order = n_a > 0 && n_b > 0 ? compare_numbers(a, n_a, b, n_b)
                                       : (unsigned char)*a - (unsigned char)*b;
        if (order != 0)
            return order;
        a += n_a > 0 ? n_a : 1;
        b += n_b > 0 ? n_b : 1;
    }
    if (*a != *b)
        return *a == 0 ? -1 : 1;
    return strcmp(whole_a, whole_b);
}

static int compare_items(const void *a, const void *b)
{
    /* An item begins with its name. */
    return compare_names(*(char *const *)a, *(char *const *)b);
}

/* `path` NULL: none. */
static cf_status append(cf_checkpoints *list, const char *name, const char *path, cf_error *error)
{
    if (list->n == list->capacity) {
        size_t capacity = 2 * list->capacity + 16;
        void *grown = realloc(list->items, capacity * sizeof *list->items);
        if (grown == NULL)
            return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "a list of %zu checkpoints", capacity);
        list->items = grown;
        list->capacity = capacity;
    }
    size_t n_name = strlen(name) + 1, n_path = path != NULL ? strlen(path) + 1 : 0;
    char *copy = malloc(n_name + n_path);
    if (copy == NULL)
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "the name of checkpoint %s", name);
    memcpy(copy, name, n_name);
    if (path != NULL)
        memcpy(copy + n_name, path, n_path);
    list->items[list->n].name = copy;
    list->items[list->n].path = path != NULL ? copy + n_name : NULL;
    list->n++;
    return CF_STATUS_OK;
}

/* A folder that holds no config.json is something else, and said to be left out. */
static cf_status append_revision(cf_checkpoints *list, const char *folder, const char *name,
                                 cf_error *error)
{
    char path[PATH_MAX], config[PATH_MAX];
    CF_TRY(cf_path_join(path, sizeof path, folder, name, error));
    if (name[0] == '.' || !cf_path_is_folder(path))
        return CF_STATUS_OK;
    CF_TRY(cf_path_join(config, sizeof config, path, "config.json", error));
    if (cf_path_exists(config))
        return append(list, name, path, error);
    cf_report_note("%s: left out, it holds no config.json", path);
    return CF_STATUS_OK;
}

static cf_status append_revisions(cf_checkpoints *list, const char *folder, cf_error *error)
{
    DIR *entries = opendir(folder);
    if (entries == NULL)
        return cf_fail(error, errno == ENOENT ? CF_STATUS_NOT_FOUND : CF_STATUS_IO, "%s: %s",
                       folder, strerror(errno));
    size_t first = list->n;
    cf_status status = CF_STATUS_OK;
    for (const struct dirent *entry; status == CF_STATUS_OK && (entry = readdir(entries)) != NULL;)
        status = append_revision(list, folder, entry->d_name, error);
    closedir(entries);
    CF_TRY(status);
    if (list->n == first)
        return cf_fail(error, CF_STATUS_NOT_FOUND,
                       "%s: expected folders that hold a config.json, found none", folder);
    qsort(list->items + first, list->n - first, sizeof *list->items, compare_items);
    return CF_STATUS_OK;
}

cf_status cf_checkpoints_list(const cf_eval_args *args, cf_checkpoints *list, cf_error *error)
{
    for (size_t i = 0; i < args->models.n; i++)
        CF_TRY(append(list, args->models.values[i], args->models.values[i], error));
    if (args->revisions != NULL)
        return append_revisions(list, args->revisions, error);
    return list->n > 0 ? CF_STATUS_OK : append(list, "bundled model", NULL, error);
}

void cf_checkpoints_free(cf_checkpoints *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->items[i].name);
    free(list->items);
    *list = (cf_checkpoints){0};
}
